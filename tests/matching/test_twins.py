"""Twins are found where they were planted, orphans where they were not, and chance is told apart."""

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.errors import InputError, MismatchError
from workbench.matching.twins import CORRELATION, COSINE, Twins, twins_by_direction, twins_by_firing


def directions(n=60, d=24, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_planted_twins_and_orphans_by_direction():
    first, rng = directions(), np.random.default_rng(1)
    order = rng.permutation(60)
    other = first[order] + 0.02 * rng.standard_normal((60, 24))
    other[:10] = directions(10, seed=2)  # ten of them lost
    found = twins_by_direction(first, {"other": other})
    lost = order[:10]
    kept = np.setdiff1d(np.arange(60), lost)
    assert found.measure == COSINE
    np.testing.assert_array_equal(found.twin[0, kept], np.argsort(order)[kept])
    assert found.found[0, kept].all()
    assert not found.found[0, lost].any()
    assert (found.p_value[0, kept] == 1 / 61).all()  # above all of 60 latents' null
    assert np.median(found.p_value[0, lost]) > 0.05
    cosine = (first @ (other / np.linalg.norm(other, axis=1, keepdims=True)).T)[kept]
    best = np.sort(cosine, axis=1)
    np.testing.assert_allclose(found.margin[0, kept], best[:, -1] - best[:, -2], atol=1e-9)


def test_unrelated_directions_are_as_near_as_chance():
    found = twins_by_direction(directions(200), {"other": directions(200, seed=5)}, threshold=0.9)
    assert not found.found.any()
    # the matching is one to one, so its cosines are at most the largest ones that the null has: p is uniform or larger
    assert (found.p_value < 0.05).mean() < 0.1
    assert np.isfinite(found.null).all()


def test_zero_rows_and_smaller_dictionaries():
    first = directions()
    first[3] = 0
    found = twins_by_direction(first, {"small": first[:20]})
    assert (found.twin[0] >= 0).sum() == 20
    single = found.twin[0] < 0
    assert np.isnan(found.value[0, single]).all()
    assert (found.p_value[0, single] == 1).all()
    assert not found.found[0, single].any()
    assert np.isnan(found.null[0, 3])


def test_planted_twins_by_firing():
    rng = np.random.default_rng(0)
    first = sp.random(3_000, 20, 0.1, random_state=rng, format="csr")
    order = rng.permutation(20)
    other = first[:, order].toarray()
    other[:, :5] = sp.random(3_000, 5, 0.1, random_state=rng).toarray()
    silent = first.tolil()
    silent[:, 7] = 0
    found = twins_by_firing(silent.tocsr(), {"other": sp.csr_matrix(other)})
    assert found.measure == CORRELATION
    kept = np.setdiff1d(order[5:], [7])
    np.testing.assert_array_equal(found.twin[0, kept], np.argsort(order)[kept])
    np.testing.assert_allclose(found.value[0, kept], 1)
    assert found.found[0, kept].all()
    lost = np.setdiff1d(order[:5], [7])
    assert not found.found[0, lost].any()
    assert found.twin[0, 7] == -1
    assert np.isnan(found.value[0, 7])
    assert found.p_value[0, 7] == 1


def test_several_others_have_a_row_each_in_the_table(tmp_path):
    first = directions()
    found = twins_by_direction(first, {"same": first, "none": directions(seed=9)})
    table = found.of(4)
    assert table["sae"].tolist() == ["same", "none"]
    assert table["verdict"].tolist() == ["twin", "orphan"]
    assert table["value"][0] == pytest.approx(1)
    assert table["null_95"][1] == pytest.approx(np.quantile(found.null[1], 0.95))
    with pytest.raises(InputError, match=r"0\.\.59"):
        found.of(60)
    again = Twins.load(found.save(tmp_path / "twins"))
    np.testing.assert_array_equal(again.twin, found.twin)


def test_wrong_inputs():
    first = directions()
    with pytest.raises(InputError, match="at least one"):
        twins_by_direction(first, {})
    with pytest.raises(InputError, match="threshold"):
        twins_by_firing(first, {"a": first}, threshold=2)
    with pytest.raises(MismatchError):
        twins_by_direction(first, {"a": first[:, :-1]})
    with pytest.raises(InputError, match="finite|NaN"):
        twins_by_direction(first * np.nan, {"a": first})
