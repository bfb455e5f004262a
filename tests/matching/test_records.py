"""Recorded overlaps are read with every column they need, and sorted by what was varied."""

import pandas as pd
import pytest

from workbench.errors import InputError, IntegrityError, NotFoundError
from workbench.matching.records import REQUIRED, one_at_a_time, overlap_records

BASE = {"width": 1024, "k": 32, "layer": 2, "architecture": "topk"}


def record(**changes):
    row = {"model": "m", "layer": 2, "architecture": "topk", "k": 32, "width": 1024, "tokens": 300, "seed_a": 0, "seed_b": 1}
    return row | dict.fromkeys((name for name in REQUIRED if "fraction" in name or "cosine" in name), 0.25) | changes


def test_records_are_read_in_order_of_tokens(tmp_path):
    pd.DataFrame([record(tokens=300), record(tokens=100)]).to_csv(tmp_path / "overlap_by_tokens.csv", index=False)
    assert list(overlap_records(folder=tmp_path)["tokens"]) == [100, 300]


def test_one_thing_is_varied_at_a_time():
    table = pd.DataFrame([record(), record(k=64), record(k=16), record(width=256), record(k=16, width=256), record(architecture="relu")])
    found = one_at_a_time(table, BASE)
    assert found.loc[found["varied"] == "k", "at"].tolist() == [16, 32, 64]
    assert found.loc[found["varied"] == "width", "at"].tolist() == [256, 1024]
    assert found.loc[found["varied"] == "architecture", "at"].tolist() == ["topk", "relu"]
    assert "layer" not in set(found["varied"])  # only one layer: nothing to compare
    with pytest.raises(InputError, match="the base"):
        one_at_a_time(table, BASE | {"k": 5})


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(NotFoundError, match="overlap-curve"):
        overlap_records("recipe", folder=tmp_path)
    pd.DataFrame([record()]).drop(columns="mean_cosine").to_csv(tmp_path / "overlap_by_recipe.csv", index=False)
    with pytest.raises(IntegrityError, match="mean_cosine"):
        overlap_records("recipe", folder=tmp_path)
