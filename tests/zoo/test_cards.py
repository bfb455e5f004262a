"""`workbench zoo verify`: the cards' numbers are measured again, and a wrong one is found."""

import shutil

import pytest

from workbench.errors import IntegrityError
from workbench.sources import zoo
from workbench.training import evaluate

MODEL = "pylm-4l"
SAE = f"{MODEL}/l2-topk32-w1024-s0"


@pytest.fixture
def small_zoo(tmp_path, monkeypatch):
    """A zoo of one model and one SAE, evaluated on little text."""
    source = zoo.zoo_root()
    for name in (MODEL, SAE):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for path in (source / name).glob("*.*"):
            if path.is_file():
                shutil.copy(path, tmp_path / "zoo" / name / path.name)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    zoo.write_manifest()
    for name, value in {"QUALITY_TOKENS": 8_192, "CE_CONTEXTS": 8, "PROMPTS": 100}.items():
        monkeypatch.setattr(evaluate, name, value)
    return tmp_path / "zoo"


def test_cards_written_from_a_measurement_verify(small_zoo):
    measured = evaluate.write_cards()
    rows = evaluate.verify_cards()
    assert {row["name"] for row in rows} == {MODEL, SAE}
    assert {row["number"] for row in rows} >= {"cross_entropy", "tasks.ioi", "explained_variance", "l0", "dead_share", "ce_recovered"}
    for row in rows:
        assert row["measured"] == pytest.approx(row["card"], abs=1e-3)  # same text, same numbers; cards have four decimals
    assert 0.5 < measured[SAE]["explained_variance"] < 1
    zoo.verify_manifest()


def test_a_wrong_number_in_a_card_is_found(small_zoo):
    evaluate.write_cards([SAE])
    front = zoo.read_card(small_zoo / SAE)
    front["workbench"]["explained_variance"] -= 0.1
    zoo.write_card(small_zoo / SAE, front, "# tampered")
    zoo.write_manifest()
    with pytest.raises(IntegrityError, match="explained_variance is 0"):
        evaluate.verify_cards([SAE])
