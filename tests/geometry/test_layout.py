"""The layout: its neighbours are the exact ones, its picture keeps planted groups together, its cache cannot lie."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError, WorkbenchWarning
from workbench.geometry import layout as layout_module
from workbench.geometry.layout import begin_umap_layout, nearest_neighbours, umap_layout


def brute_force(points, k, metric):
    """Sorted distances of the k nearest other rows, by the definition."""
    points = points.astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(points, axis=1)
        distance = 1 - points @ points.T / np.where(np.outer(norms, norms) == 0, 1, np.outer(norms, norms))
        zero = norms == 0
        distance[np.ix_(zero, zero)] = 0
    else:
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return np.sort(distance, axis=1)[:, :k]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    layout_module._end_all()  # what other tests have begun
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def planted(n_groups=6, size=40, d=24, noise=0.15, seed=0):
    """Unit rows scattered around well separated centres, and the group of each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_groups), size)
    return (rng.standard_normal((n_groups, d))[labels] + noise * rng.standard_normal((n_groups * size, d))).astype(np.float32), labels


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 60),
    st.integers(1, 12),
    st.sampled_from(["cosine", "euclidean"]),
    st.integers(0, 10**6),
    st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_neighbours_equal_brute_force(n, d, metric, seed, scale):
    rng = np.random.default_rng(seed)
    points = (scale * rng.standard_normal((n, d))).astype(np.float32)
    points[rng.random(n) < 0.1] = 0
    points[rng.integers(n)] = points[rng.integers(n)]
    k = int(rng.integers(1, n))
    indices, distances = nearest_neighbours(points, k, metric)
    # float32 output: 6e-8 relative to the largest distance, times a few
    np.testing.assert_allclose(distances, brute_force(points, k, metric), atol=2e-6 * (1 if metric == "cosine" else scale * np.sqrt(d)))
    assert (indices != np.arange(n)[:, None]).all()
    assert all(len(set(row)) == k for row in indices)


def test_neighbours_do_not_depend_on_the_block(monkeypatch):
    points = planted()[0]
    whole = nearest_neighbours(points, 7)
    monkeypatch.setattr("workbench.geometry.layout._BLOCK_VALUES", 17 * len(points))
    parts = nearest_neighbours(points, 7)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_float16_extremes_do_not_overflow():
    points = np.array([[6e4, 0], [0, 6e4], [6e4, 6e4], [-6e4, 0]], np.float16)
    np.testing.assert_allclose(nearest_neighbours(points, 3)[1], brute_force(points, 3, "cosine"), atol=1e-6)


def test_torch_and_numpy_agree():
    import torch

    points = planted()[0]
    for given_points in (torch.tensor(points), torch.tensor(points).double(), torch.tensor(points, requires_grad=True)):
        np.testing.assert_array_equal(nearest_neighbours(given_points, 5)[0], nearest_neighbours(points, 5)[0])
    assert nearest_neighbours(torch.tensor(points).bfloat16(), 5)[0].shape == (len(points), 5)


@pytest.mark.parametrize(
    ("points", "k", "metric", "word"),
    [
        (np.zeros((4, 2)), 4, "cosine", "4 neighbours of 4"),
        (np.zeros((4, 2)), 0, "cosine", "0 neighbours"),
        (np.zeros((4, 2)), 2, "manhattan", "manhattan"),
        (np.zeros(4), 2, "cosine", "shape"),
        (np.zeros((0, 3)), 1, "cosine", "shape"),
        (np.array([["a", "b"]]), 1, "cosine", "type"),
        (np.array([[1.0, np.nan], [0, 1], [1, 1]]), 1, "cosine", "1 of 3 rows"),
        (np.array([[np.inf, 1.0], [0, 1], [1, 1]]), 1, "euclidean", "NaN or infinity"),
    ],
)
def test_bad_input_is_refused_with_the_mend(points, k, metric, word):
    with pytest.raises(InputError, match="To mend it") as error:
        nearest_neighbours(points, k, metric)
    assert word in str(error.value)


@pytest.mark.parametrize("arguments", [{"n_neighbors": 1}, {"n_neighbors": 240}, {"min_dist": -0.1}, {"min_dist": 2}, {"metric": "l1"}])
def test_bad_parameters_are_refused(arguments, cache):
    with pytest.raises(InputError, match="To mend it"):
        umap_layout(planted()[0], **arguments)


def test_too_few_points_are_refused(cache):
    with pytest.raises(InputError, match="at least 5 points"):
        umap_layout(np.eye(4), n_neighbors=2)


def test_layout_keeps_planted_groups_and_a_shuffled_one_does_not(cache, monkeypatch):
    import umap.umap_
    from sklearn.manifold import trustworthiness

    def never(*args, **kwargs):
        raise AssertionError("umap computed distances of its own")

    monkeypatch.setattr(umap.umap_, "nearest_neighbors", never)
    monkeypatch.setattr(umap.umap_, "pairwise_distances", never)
    points, labels = planted()
    layout = umap_layout(points)
    assert layout.shape == (len(points), 2)
    assert layout.dtype == np.float32
    kept = trustworthiness(points, layout, n_neighbors=10, metric="cosine")
    null = trustworthiness(points, np.random.default_rng(0).permutation(layout), n_neighbors=10, metric="cosine")
    # chance is 0.5; groups of 40 in 240 points put a group-respecting layout near 0.95
    assert kept > 0.85
    assert null < 0.6
    nearest = nearest_neighbours(layout, 1, "euclidean")[0][:, 0]
    assert (labels[nearest] == labels).mean() > 0.99


def test_zero_rows_and_duplicates_are_placed(cache):
    points = planted()[0]
    points[:30] = 0
    points[30:60] = points[60]
    layout = umap_layout(points)
    assert np.isfinite(layout).all()
    spread = np.linalg.norm(layout[:30] - layout[:30].mean(0), axis=1).mean()
    assert spread < np.linalg.norm(layout - layout.mean(0), axis=1).mean()


def test_opposite_directions_are_not_cut_off(cache):
    points = np.array([[1.0, 0], [-1, 0], [2, 0], [-2, 0], [0, 1], [0, -1]])
    assert np.isfinite(umap_layout(points, n_neighbors=5)).all()


def test_seed_decides(cache):
    points = planted(size=10)[0]
    first = umap_layout(points, seed=1)
    for file in cache.rglob("*.safetensors"):
        file.unlink()
    np.testing.assert_array_equal(first, umap_layout(points, seed=1))
    assert not np.array_equal(first, umap_layout(points, seed=2))


def test_cache_hit_is_identical_and_does_not_import_umap(cache):
    points = planted(size=10)[0]
    layout = umap_layout(points)
    np.save(cache / "points.npy", points)
    code = (
        "import sys, numpy as np; from workbench.geometry.layout import umap_layout;"
        f"layout = umap_layout(np.load({str(cache / 'points.npy')!r}));"
        f"np.save({str(cache / 'again.npy')!r}, layout); print(sorted({{'umap', 'numba', 'torch', 'sklearn'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"WORKBENCH_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    np.testing.assert_array_equal(np.load(cache / "again.npy"), layout)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "other shape"])
def test_damaged_cache_is_computed_again(cache, damage, monkeypatch):
    from safetensors.numpy import save

    points = planted(size=10)[0]
    layout = umap_layout(points)
    (file,) = cache.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
    file.write_bytes({"truncated": content[:-8], "changed": content, "empty": b"", "other shape": save({"layout": layout[:3]})}[damage])
    np.testing.assert_array_equal(umap_layout(points), layout)
    monkeypatch.setattr("workbench.geometry.layout._lay_out", lambda *args: pytest.fail("the mended cache was not used"))
    np.testing.assert_array_equal(umap_layout(points), layout)


def test_other_points_or_parameters_are_another_cache_entry(cache):
    points = planted(size=10)[0]
    for index, (given_points, arguments) in enumerate(
        [(points, {}), (points + 1e-3, {}), (points, {"min_dist": 0.5}), (points, {"n_neighbors": 5}), (points, {"metric": "euclidean"})]
    ):
        umap_layout(given_points, **arguments)
        assert len(list(cache.rglob("*.safetensors"))) == index + 1


def test_unwritable_cache_warns_and_still_answers(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("a file where a folder should be")  # also refuses root, whom permissions do not stop
    monkeypatch.setenv("WORKBENCH_CACHE", str(blocker / "cache"))
    with pytest.warns(WorkbenchWarning, match="not kept"):
        assert umap_layout(planted(size=10)[0]).shape == (60, 2)


def test_a_layout_begun_elsewhere_is_the_same_and_is_not_computed_here(cache, monkeypatch):
    points = planted(size=10)[0]
    here = umap_layout(points, min_dist=0.2)
    for file in cache.rglob("*.safetensors"):
        file.unlink()
    begin_umap_layout(points, min_dist=0.2)
    begin_umap_layout(points, min_dist=0.2)
    assert len(layout_module._BEGUN) == 1
    monkeypatch.setattr(layout_module, "_lay_out", lambda *args: pytest.fail("it was computed here"))
    np.testing.assert_array_equal(umap_layout(points, min_dist=0.2), here)
    assert not layout_module._BEGUN
    begin_umap_layout(points, min_dist=0.2)
    assert not layout_module._BEGUN  # it is kept; nothing to begin


def test_a_process_that_fails_costs_nothing_but_its_time(cache):
    points = planted(size=10)[0]
    begin_umap_layout(points)
    (process,) = layout_module._BEGUN.values()
    process.kill()
    assert umap_layout(points).shape == (60, 2)


def test_an_interrupted_wait_ends_the_process(cache, monkeypatch):
    points = planted(size=10)[0]
    begin_umap_layout(points)
    (process,) = layout_module._BEGUN.values()
    wait, calls = process.wait, []

    def interrupted():
        calls.append(len(calls))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait()

    monkeypatch.setattr(process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        umap_layout(points)
    assert process.poll() is not None
    assert not layout_module._BEGUN


def test_nothing_is_left_when_python_ends(cache):
    code = (
        "import numpy as np; from workbench.geometry import layout;"
        "layout.begin_umap_layout(np.random.default_rng(0).normal(size=(500, 8)));"
        "print(*(process.pid for process in layout._BEGUN.values()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ | {"WORKBENCH_CACHE": str(cache)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert not done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_what_cannot_be_laid_out_is_refused_at_once(cache):
    with pytest.raises(InputError, match="To mend it"):
        begin_umap_layout(np.eye(4), n_neighbors=2)
    assert not layout_module._BEGUN


def test_a_process_that_cannot_be_started_is_done_without(cache, monkeypatch):
    def no_process(*args, **kwargs):
        raise OSError("no more processes")

    monkeypatch.setattr(layout_module.subprocess, "Popen", no_process)
    begin_umap_layout(planted(size=10)[0])
    assert not layout_module._BEGUN
