"""Known circuits: the published lists as published, both variants, names of models, and refusal with what there is."""

import numpy as np
import pytest

from workbench.circuits.constructed import CIRCUIT, EDGES, NAME, build_constructed_model, distractors, main
from workbench.circuits.edges import edge_circuit, later
from workbench.circuits.known import known_circuit, known_circuits, known_edges
from workbench.circuits.tasks import task
from workbench.errors import IntegrityError, NotFoundError
from workbench.published import published_numbers


def test_published_lists():
    ioi, authors = (known_circuit("ioi", "gpt2-small", variant=variant) for variant in ("standard", "authors"))
    assert len(ioi) == len(authors) == 26
    assert ioi - authors == {(9, 0)}
    assert authors - ioi == {(11, 3)}
    assert {(9, 9), (10, 0), (9, 6), (5, 5), (0, 1), (11, 10)} <= ioi
    years = {(0, 3), (0, 5), (0, 1), (5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)}
    assert known_circuit("greater-than", "gpt2") == known_circuit("greater-than", "openai-community/gpt2", variant="authors") == years
    docstring = known_circuit("docstring", "attn-only-4l")
    assert docstring == {(0, 5), (1, 2), (1, 4), (2, 0), (3, 0), (3, 6)}
    assert known_circuit("docstring", "attn-only-4l", variant="authors") == docstring - {(1, 2)} | {(1, 0)}


def test_tasks_and_models_may_be_objects(constructed, induction):
    assert known_circuit(induction, constructed) == CIRCUIT


def test_unknown_lists_what_there_is():
    with pytest.raises(NotFoundError, match=r"ioi in gpt2-small \(authors\)"):
        known_circuit("ioi", "gpt2-medium")
    with pytest.raises(NotFoundError, match="variant 'mine'"):
        known_circuit("ioi", "gpt2-small", variant="mine")


def test_every_head_has_its_source():
    table = known_circuits()
    assert table["source"].str.len().gt(10).all()
    assert not table.duplicated(["model", "task", "variant", "layer", "head"]).any()


def test_a_damaged_list_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    with pytest.raises(NotFoundError, match="no circuits in"):
        known_circuits()
    (tmp_path / "circuits").mkdir()
    (tmp_path / "circuits" / "published.csv").write_text("model,task\na,b\n")
    with pytest.raises(IntegrityError, match=r"published\.csv cannot be read"):
        known_circuits()


def test_published_numbers_of_circuits():
    table = published_numbers("circuits").set_index(["quantity", "task", "method", "level"])
    assert table.loc[("ROC AUC", "ioi", "head codes", "node"), "value"].item() == 0.8679
    assert table["source"].notna().all()


def test_the_script_writes_the_constructed_model(tmp_path, capsys):
    assert main([str(tmp_path / NAME), "--seed", "3"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / NAME)
    again = build_constructed_model(tmp_path / "again", seed=3)
    assert (tmp_path / NAME / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_connections_are_read_as_they_were_written(constructed, tmp_path, monkeypatch):
    from workbench.circuits import ground_truth

    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    with pytest.raises(NotFoundError, match="no table of connections for 'constructed-induction'"):
        known_edges("induction", constructed)
    monkeypatch.setattr(
        ground_truth, "make_task", lambda name, model, n, seed, negative: task(name, model, n=n, seed=seed, length=6, negative=negative)
    )
    path = ground_truth.write_edges(constructed, tasks=["induction"], n=8)
    assert path == tmp_path / "circuits" / "edges" / "constructed-induction.csv"
    found = known_edges("induction", constructed)
    truth = np.argwhere(edge_circuit(found))
    assert {(divmod(int(a), 8), divmod(int(b), 8)) for a, b in truth} == EDGES
    assert found.scores.shape == (24, 25)
    assert found.node.shape == (3, 8)
    assert found.node[0, 2] == np.abs(found.scores[2]).max() > 0.5 * found.behaviour
    assert found.p_value[2, 21] < 0.05 < found.p_value[~later(3, 8)].min() == 1
    with pytest.raises(NotFoundError, match="no connections of task 'ioi'"):
        known_edges("ioi", constructed)
    path.write_text("task,source\ninduction,0.1\n")
    with pytest.raises(IntegrityError, match="Expected: a table of connections"):
        known_edges("induction", constructed)


def test_the_constructed_model_is_the_same_for_a_seed_and_has_every_kind_of_distractor(tmp_path):
    first, again = (build_constructed_model(tmp_path / name, seed=3) for name in ("a", "b"))
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert len(distractors(3)) == 22
    assert len(set(distractors().values())) >= 5
