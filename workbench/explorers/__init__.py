"""Widgets for the notebooks: an explorer calls the analyses and owns no logic."""
