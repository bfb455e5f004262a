"""Checkpoints: an interrupted run ends with the same bytes, other and damaged checkpoints are refused, kills leave no traces."""

import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest
import torch

from workbench.errors import IntegrityError, MismatchError
from workbench.training import checkpoints, saes
from workbench.training import language_model as lm
from workbench.training.recipes import ARCHITECTURES, SAERecipe

STEPS, BATCH = 340, 32
RECIPE = SAERecipe("m", 1, k=4, width=64, tokens=STEPS * BATCH, batch=BATCH)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Products so small are faster with one, above all where others use the processor, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows():
    """Activations of 24 directions, fewer than there are latents: some die within the 300 steps after which that counts."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((24, 16))
    return ((rng.random((5000, 24)) < 0.1) * rng.uniform(0.5, 1.5, (5000, 24)) @ directions + 1).astype(np.float32)


def train(recipe, rows, place, **settings):
    return saes.train_sae(recipe, rows, place / "sae", place / "work", **({"checkpoint_tokens": 50 * BATCH} | settings))


def interrupt(monkeypatch, step, recipe, rows, place):
    """Train until the data for this step would be read."""
    real = saes.Batches.__next__

    def following(self):
        if self.position == step:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(saes.Batches, "__next__", following)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, rows, place)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_sae_interrupted_twice_has_the_same_bytes(architecture, rows, tmp_path, monkeypatch):
    start = {"relu": 0.1, "jumprelu": 0.02}.get(architecture, 0.0)
    recipe = dataclasses.replace(RECIPE, architecture=architecture, sparsity_coefficient=start)
    whole = content(train(recipe, rows, tmp_path / "whole", checkpoint_tokens=10**9))
    for step in (130, 320):
        interrupt(monkeypatch, step, recipe, rows, tmp_path / "resumed")
        assert not (tmp_path / "resumed" / "sae").exists()
    interrupt(monkeypatch, 320, recipe, rows, tmp_path / "once")
    assert content(tmp_path / "resumed" / "work") == content(tmp_path / "once" / "work")  # of step 300, with all that steps change
    torch.manual_seed(5)  # whatever else was drawn in between
    torch.set_num_threads(2)
    try:
        assert content(train(recipe, rows, tmp_path / "resumed")) == whole
        assert torch.get_num_threads() == 2  # one while it went on
    finally:
        torch.set_num_threads(1)
    assert sorted(path.name for path in (tmp_path / "resumed").rglob("*")) == ["cfg.json", "sae", "sae_weights.safetensors", "work"]


def test_reading_puts_back_torchs_random_generator_and_threads(tmp_path):
    inputs = {"numbers": [1, 2], "text": "a", "none": None}
    with checkpoints.training_in(tmp_path / "work") as work:
        torch.set_num_threads(2)
        assert checkpoints.read_checkpoint(work, inputs) is None
        checkpoints.write_checkpoint(work, inputs, {"place": 3})
        drawn = torch.rand(5)
        torch.set_num_threads(1)
        assert checkpoints.read_checkpoint(work, inputs) == {"place": 3}
        assert torch.equal(torch.rand(5), drawn)
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    with pytest.raises(MismatchError, match=r"numbers\.1 \(2, 3\); text \('a', None\); new \(None, 0\)\. Expected"):
        checkpoints.read_checkpoint(work, {"numbers": [1, 3], "none": None, "new": 0})


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    return content(train(RECIPE, rows, tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def interrupted(rows, tmp_path_factory):
    """A folder with a checkpoint of step 100."""
    place = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 110, RECIPE, rows, place)
    return place


@pytest.fixture
def place(interrupted, tmp_path):
    return shutil.copytree(interrupted, tmp_path / "place")


def changed(rows):
    rows = rows.copy()
    rows[4321, 7] += 1e-3
    return rows


@pytest.mark.parametrize(("given", "named"), [
    ({"recipe": dataclasses.replace(RECIPE, k=5)}, r"recipe\.k \(4, 5\)"),
    ({"recipe": dataclasses.replace(RECIPE, learning_rate=2e-3)}, r"recipe\.learning_rate \(0\.001, 0\.002\)"),
    ({"rows": changed}, r"activations\.sha256 \('\w{64}', '\w{64}'\)"),
    ({"rows": lambda rows: rows[:-1]}, r"activations\.shape\.0 \(5000, 4999\)"),
    ({"context": 128}, r"context \(256, 128\)"),
    ({"corpus_sha256": "other"}, r"corpus_sha256 \('', 'other'\)"),
])  # fmt: skip
def test_a_checkpoint_of_other_inputs_is_refused_by_what_differs(given, named, rows, place):
    given = dict(given)
    recipe, change = given.pop("recipe", RECIPE), given.pop("rows", lambda rows: rows)
    before = content(place)
    with pytest.raises(MismatchError, match=named) as refused:
        train(recipe, change(rows), place, **given)
    assert "another work folder" in str(refused.value)
    assert content(place) == before


def test_a_checkpoint_of_other_libraries_is_refused(rows, place, monkeypatch):
    monkeypatch.setattr(saes, "versions", lambda *names: dict.fromkeys(names, "0"))
    with pytest.raises(MismatchError, match=r"versions\.torch"):
        train(RECIPE, rows, place)


@pytest.mark.parametrize("name", ["checkpoint.json", "state.pt"])
@pytest.mark.parametrize("where", ["missing", "truncated", "first", "middle", "last"])
def test_a_damaged_checkpoint_is_refused(name, where, rows, place):
    path = place / "work" / "checkpoint" / name
    held = bytearray(path.read_bytes())
    if where == "truncated":
        del held[-10:]
    elif where != "missing":
        held[{"first": 0, "middle": len(held) // 2, "last": -1}[where]] ^= 1
    path.unlink() if where == "missing" else path.write_bytes(held)
    with pytest.raises(IntegrityError, match="starts from the beginning"):
        train(RECIPE, rows, place)


def half_written(place):
    """What a kill leaves beside a place: the marker, and the folder that was being filled."""
    folder = place.with_name(place.name + ".d")
    folder.mkdir(parents=True)
    place.touch()
    (folder / "weights.safetensors").write_bytes(b"half")


@pytest.mark.parametrize("killed", [
    lambda place: None,
    lambda place: half_written(place / "work" / ".checkpoint.0123456789ab.part"),  # before the exchange, or after it
    lambda place: (place / "work" / "checkpoint").rename(place / "work" / ".checkpoint.old"),  # without an exchange
    lambda place: half_written(place / ".sae.0123456789ab.part"),  # in the export
], ids=["in a step", "in a checkpoint", "in two renames", "in the export"])  # fmt: skip
def test_a_killed_run_goes_on_and_leaves_nothing(killed, rows, place, whole):
    killed(place)
    assert content(train(RECIPE, rows, place)) == whole
    assert sorted(path.name for path in place.rglob("*")) == ["cfg.json", "sae", "sae_weights.safetensors", "work"]


@pytest.mark.parametrize("left", ["a checkpoint", "half of its removal", "the old folder"])
def test_a_run_killed_after_its_export_is_found_finished(left, rows, place, whole, monkeypatch):
    kept = shutil.copytree(place / "work", place.with_name("kept"))
    train(RECIPE, rows, place)
    if left == "a checkpoint":
        shutil.copytree(kept, place / "work", dirs_exist_ok=True)
    elif left == "half of its removal":
        (place / "work" / "checkpoint").mkdir()
        half_written(place / "work" / ".checkpoint.0123456789ab.part")
    else:
        half_written(place / ".sae.0123456789ab.part")
    monkeypatch.setattr(saes.Batches, "__next__", None)  # it is not trained again
    assert content(train(RECIPE, rows, place)) == whole
    assert sorted(path.name for path in place.rglob("*")) == ["cfg.json", "sae", "sae_weights.safetensors", "work"]


def test_a_finished_sae_of_other_inputs_or_other_bytes_is_trained_again(rows, tmp_path, whole):
    recipe = dataclasses.replace(RECIPE, tokens=20 * BATCH)
    first = content(train(recipe, rows, tmp_path))
    other = content(train(recipe, changed(rows), tmp_path))
    assert other.keys() == first.keys()
    assert other["cfg.json"] != first["cfg.json"]
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert content(train(recipe, changed(rows), tmp_path)) == other


def test_of_two_trainings_in_one_folder_the_second_finds_it_finished(rows, place, whole, monkeypatch):
    real, exports = saes._export, []
    monkeypatch.setattr(saes, "_export", lambda *given: (exports.append(given), real(*given)))
    other = threading.Thread(target=train, args=(RECIPE, rows, place))
    other.start()
    train(RECIPE, rows, place)
    other.join()
    assert len(exports) == 1
    assert content(place / "sae") == whole
    assert list((place / "work").iterdir()) == []


@pytest.fixture(scope="module")
def config():
    phases = (lm.Phase(5, "adamw", drawn_tasks=1), lm.Phase(9, "muon", repeats=1, tasks=("ioi",)))
    small = {"d_model": 32, "n_heads": 4, "d_mlp": 48, "context": 64, "rows": 4, "corpus_tokens": 4_000}
    return dataclasses.replace(lm.config_for("pylm-2l"), phases=phases, warmup=3, horizon=20, **small)


def train_model(config, tokenizer, place):
    return lm.train_language_model(config, tokenizer, place / "model", place / "work", checkpoint_every=4, evaluate_every=3)


def test_a_language_model_interrupted_twice_has_the_same_bytes(tokenizer, config, tmp_path, monkeypatch):
    whole = train_model(config, tokenizer, tmp_path / "whole")
    place = tmp_path / "resumed"
    sae = place / "model" / "l1-topk32-w1024-s0" / "cfg.json"  # SAEs lie in their model's folder
    sae.parent.mkdir(parents=True)
    sae.write_text("{}")
    real = lm.weighted_loss
    for calls in (7, 6):  # from the beginning, then from step 4: in the second phase
        left = iter(range(calls - 1))

        def stop(*arguments, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(lm, "weighted_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(config, tokenizer, place)
        assert [path.name for path in (place / "model").iterdir()] == [sae.parent.name]
    monkeypatch.setattr(lm, "weighted_loss", real)
    resumed = content(train_model(config, tokenizer, place))
    assert resumed.pop("l1-topk32-w1024-s0/cfg.json") == b"{}"
    assert resumed == content(whole)
    logs = [[json.loads(line) for line in (root / "work" / "log.jsonl").read_text().splitlines()] for root in (tmp_path / "whole", place)]
    assert [{**record, "seconds": 0} for record in logs[0]] == [{**record, "seconds": 0} for record in logs[1]]
    assert [record["step"] for record in logs[0]] == [3, 6, 9, 12, 14]
    assert json.loads((whole / "config.json").read_text())["model_type"] == "llama"


def test_a_language_models_checkpoint_of_other_inputs_is_refused(tokenizer, config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, phases=(lm.Phase(4, "adamw", drawn_tasks=1),))
    train_model(config, tokenizer, tmp_path)
    with pytest.raises(MismatchError, match=r"config\.learning_rate \(0\.003, 1\.0\)"):
        train_model(dataclasses.replace(config, learning_rate=1.0), tokenizer, tmp_path)
    real_corpus, real_row = lm.corpus, lm.TaskRows.row
    monkeypatch.setattr(lm, "corpus", lambda *given, **named: real_corpus(*given, **named, seed=1))
    with pytest.raises(MismatchError, match="tokens_sha256"):
        train_model(config, tokenizer, tmp_path)
    monkeypatch.setattr(lm, "corpus", lambda *given, **named: dataclasses.replace(real_corpus(*given, **named), tokenizer_sha256="other"))
    with pytest.raises(MismatchError, match=r"inputs \(there, here\): tokenizer_sha256 \('\w{64}', 'other'\)\."):
        train_model(config, tokenizer, tmp_path)
    monkeypatch.setattr(lm, "corpus", real_corpus)
    monkeypatch.setattr(lm.TaskRows, "row", lambda self, number, kind: real_row(self, number + 1, kind))
    with pytest.raises(MismatchError, match=r"batches_sha256\.0\.0"):
        train_model(config, tokenizer, tmp_path)
