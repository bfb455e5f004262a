"""The embedded models' tokenizer, from a tenth of its text."""

import pytest


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The real recipe on a tenth of its text."""
    from workbench.training.tokenizer import train_tokenizer

    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"), vocabulary=2400, corpus_characters=200_000, prompt_share=6.0)
