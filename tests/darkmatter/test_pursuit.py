"""Gradient pursuit: exact where the answer is known, the same as a loop over tokens, and never over a token's budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.darkmatter.pursuit import gradient_pursuit
from workbench.errors import InputError

RNG = np.random.default_rng(0)


def one_token(x, W, b, steps):
    """The definition, token by token."""
    w, support, centred = np.zeros(len(W)), np.zeros(len(W), dtype=bool), x - b
    for _ in range(steps):
        r = centred - w @ W
        g = W @ r
        if g.max() <= 0:
            break
        support[g.argmax()] = True
        g = np.where(support, g, 0)
        image = g @ W
        w = np.maximum(0, w + g * (image @ r) / (image @ image))
    return w


@settings(max_examples=20, deadline=None)
@given(d=st.integers(2, 24), seed=st.integers(0, 99))
def test_exact_on_orthonormal_dictionaries(d, seed):
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.standard_normal((d, d)))[0]
    codes = (rng.random((40, d)) < 0.3) * rng.exponential(size=(40, d))
    b = rng.standard_normal(d)
    found = gradient_pursuit(codes @ W + b, W, b, (codes > 0).sum(1))
    np.testing.assert_allclose(found.toarray(), codes, atol=1e-9)


def test_orthogonal_rows_of_any_length():
    W = 3 * np.eye(5)
    found = gradient_pursuit(np.array([[6.0, 0, 3, 0, 0]]), W, np.zeros(5), 2)
    np.testing.assert_allclose(found.toarray(), [[2, 0, 1, 0, 0]])


@pytest.mark.parametrize("batch", [None, 1, 7])
@pytest.mark.parametrize(("d", "F"), [(8, 20), (16, 64)])
def test_it_is_the_loop_over_tokens(batch, d, F):
    W, b = RNG.standard_normal((F, d)), RNG.standard_normal(d)
    x, l0 = 3 * RNG.standard_normal((30, d)), RNG.integers(0, 9, 30)
    found = gradient_pursuit(x, W, b, l0, batch_size=batch).toarray()
    expected = np.stack([one_token(*token, steps) for token, steps in zip(((row, W, b) for row in x), l0, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert ((found > 0).sum(1) <= l0).all()
    assert (found >= 0).all()


def test_few_tokens_and_many_give_the_same():
    """Inner products of the dictionary pay only for many tokens and small supports; the answer does not depend on it."""
    W, b = RNG.standard_normal((96, 64)), RNG.standard_normal(64)
    x = 3 * RNG.standard_normal((60, 64))
    many = gradient_pursuit(x, W, b, 20).toarray()  # the first eleven steps from inner products, the others from the residual
    few = np.vstack([gradient_pursuit(x[i : i + 20], W, b, 20).toarray() for i in range(0, 60, 20)])
    np.testing.assert_allclose(many, few, atol=1e-9)
    np.testing.assert_allclose(many[0], one_token(x[0], W, b, 20), atol=1e-9)


def test_more_budget_never_hurts_and_zero_gives_the_bias():
    W = RNG.standard_normal((64, 16))
    x, b = RNG.standard_normal((50, 16)), np.zeros(16)
    errors = [np.square(x - gradient_pursuit(x, W, b, k) @ W).sum() for k in range(0, 12, 2)]
    assert errors[0] == pytest.approx(np.square(x).sum())
    assert (np.diff(errors) < 0).all()


def test_zero_rows_dead_rows_and_types():
    W = np.vstack([np.zeros(4), np.eye(4)]).astype(np.float32)
    x = np.array([[0, 0, 0, 0], [1, 2, 0, 0], [-1, -1, -1, -1]], dtype=np.float32)
    found = gradient_pursuit(torch.from_numpy(x), torch.from_numpy(W), torch.zeros(4), np.array([3, 3, 3]))
    np.testing.assert_allclose(found.toarray(), [[0, 0, 0, 0, 0], [0, 1, 2, 0, 0], [0, 0, 0, 0, 0]], atol=1e-6)
    assert found.dtype == np.float32
    assert found.shape == (3, 5)
    assert found.has_sorted_indices
    assert gradient_pursuit(x.astype(np.float64), W, np.zeros(4), 1).dtype == np.float64
    bfloat = gradient_pursuit(torch.from_numpy(x).bfloat16(), torch.from_numpy(W).bfloat16(), torch.zeros(4), 3)
    np.testing.assert_allclose(bfloat.toarray(), found.toarray(), atol=1e-6)


W0, B0, X0 = np.eye(3), np.zeros(3), np.ones((5, 3))


@pytest.mark.parametrize(("arguments", "words"), [
    ((X0, W0[:, :2], B0, 1), "W_dec"), ((X0, W0, B0[:2], 1), "b_dec"), ((X0[0], W0, B0, 1), r"x of shape \(3,\)"),
    ((X0[:0], W0, B0, 1), "at least 1"),
    ((X0, W0, B0, -1), "0 to 3"), ((X0, W0, B0, 4), "0 to 3"), ((X0, W0, B0, np.ones(4, int)), r"l0 of shape \(4,\).*\(5,\)"),
    ((X0, W0, B0, 1.5), "float64"),
    ((X0 * np.nan, W0, B0, 1), "x holds nan"), ((X0, W0 + np.inf, B0, 1), "W_dec holds inf"),
    ((X0.astype(str), W0, B0, 1), "real numbers"),
    ((np.where(X0 > 5, 1e30, X0).astype(np.float32), W0 * 1e30, B0, 1), "squares"),
])  # fmt: skip
def test_bad_input_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        gradient_pursuit(*arguments)
