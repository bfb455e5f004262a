"""Rank correlations are scipy's, planted ones are found, and independent ones are not."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from workbench.errors import InputError
from workbench.matching.agreement import rank_agreement


def test_rho_is_scipys_with_ties():
    table = np.random.default_rng(0).integers(0, 9, size=(60, 4)).astype(float)
    np.testing.assert_allclose(rank_agreement(table, n_null=5).rho, scipy.stats.spearmanr(table).statistic, atol=1e-12)


def test_what_rises_together_is_found_whatever_the_scale():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(200)
    found = rank_agreement(pd.DataFrame({"a": x, "b": np.exp(3 * x), "c": -x, "d": rng.standard_normal(200)}), n_null=199)
    assert found.rho[0, 1] == pytest.approx(1)
    assert found.rho[0, 2] == pytest.approx(-1)
    assert found.p_value[0, 1] == found.p_value[0, 2] == 1 / 200
    assert found.q_value[0, 1] < 0.05
    assert found.p_value[0, 3] > 0.01
    np.testing.assert_array_equal(found.q_value, found.q_value.T)
    assert (np.diag(found.p_value) == 1).all()


def test_p_is_uniform_under_independence():
    p = rank_agreement(np.random.default_rng(2).standard_normal((80, 25)), n_null=199).p_value[np.triu_indices(25, 1)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.001  # 300 pairs, nearly independent
    assert p.min() >= 1 / 200


@pytest.mark.parametrize("values", [np.zeros((5, 2)), np.eye(2), np.ones(5), [[1.0, np.nan]] * 5, np.random.default_rng(0).random((5, 1))])
def test_wrong_tables_are_refused(values):
    with pytest.raises(InputError):
        rank_agreement(values)
