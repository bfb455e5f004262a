"""SVCCA in other units: the textbook's does not change, the published rule's does; theory tells the nulls."""

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.matching.conventions import expected_null, svcca_by_scale
from workbench.matching.nulls import permutation_null
from workbench.matching.similarity import svcca

RNG = np.random.default_rng(0)


def test_only_the_published_rule_sees_the_units():
    X, Y = RNG.standard_normal((200, 12)), RNG.standard_normal((200, 9))
    Y[:, :4] += X[:, :4]
    table = svcca_by_scale(X, Y, np.geomspace(1e-4, 10, 11))
    np.testing.assert_allclose(table["svcca"], svcca(X, Y))
    assert table["components"].nunique() == 1
    large = table["sum_of_squares"] > 1 / 0.99
    assert 2 < large.sum() < 11
    assert (table.loc[large, "components_authors"] == 1).all()
    assert (table.loc[~large, "components_authors"] >= 1).all()
    assert table.loc[2, "components_authors"] == 1  # far below a sum of 1 the first component alone passes
    near = svcca_by_scale(X, Y, [np.sqrt(0.9 / table.loc[0, "sum_of_squares"]) * 1e-4]).iloc[0]
    assert near["sum_of_squares"] == pytest.approx(0.9)
    assert near["components_authors"] > 5
    np.testing.assert_allclose(table.loc[large, "svcca_authors"], svcca(X, Y, convention="authors"))
    with pytest.raises(InputError, match="positive"):
        svcca_by_scale(X, Y, [1.0, 0.0])


def test_theory_gives_the_means_of_the_nulls():
    X, Y = RNG.standard_normal((900, 15)), RNG.standard_normal((900, 15))
    from functools import partial

    null = permutation_null(svcca, X, Y, n=20)
    assert null.mean == pytest.approx(expected_null(900, 15), rel=0.05)  # the law is for many components
    null = permutation_null(partial(svcca, convention="authors"), X, Y, n=400)
    assert null.mean == pytest.approx(expected_null(900, 1, "authors"), rel=0.15)  # four standard errors of 400 values of |r|
    assert expected_null(4, 4) <= 1.0
