"""Head codes: planted heads are found, labels without a difference give nothing, both conventions do what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.circuits import coding, compiled_trials, small_sae
from workbench.circuits.coding import head_codes
from workbench.errors import InputError

QUICK = {"n_latents": 48, "epochs": 40, "trials": 2}


def planted(n=60, layers=3, heads=4, d=16, special=((0, 1), (2, 3)), seed=0):
    """Outputs that differ between positives and negatives at two heads only: there a positive has one of 2 d directions of its own."""
    rng = np.random.default_rng(seed)
    x = 0.1 * rng.standard_normal((n, layers, heads, d)) + rng.standard_normal((1, layers, heads, d))
    positive = np.arange(n) < n // 2
    for layer, head in special:
        x[positive, layer, head] += 12 * rng.choice([-1, 1], size=(n // 2, 1)) * np.eye(d)[rng.integers(d, size=n // 2)]
    return x.astype(np.float32), positive


@pytest.mark.parametrize("convention", ["textbook", "authors"])
def test_heads_whose_codes_depend_on_the_label_score_highest(convention):
    x, positive = planted()
    scores = head_codes(x, positive, **QUICK, convention=convention)
    assert scores.node.shape == scores.edge.shape == (2, 3, 4)
    assert scores.pair.shape == (12, 12)
    for trial in scores.node:
        assert {tuple(i) for i in np.argwhere(trial >= np.sort(trial.ravel())[-2])} == {(0, 1), (2, 3)}
    np.testing.assert_allclose(scores.node.sum((1, 2)), 1)
    np.testing.assert_allclose(scores.edge.sum((1, 2)), 1)
    assert scores.seconds > 0


def test_without_a_difference_scores_say_nothing():
    from workbench.circuits.evaluation import roc

    x, positive = planted(special=())
    scores = head_codes(x, np.random.default_rng(1).permutation(positive), **QUICK)
    truth = np.zeros((3, 4), dtype=bool)
    truth[0, 1] = truth[2, 3] = True
    assert roc(scores.node.mean(0), truth).p_value > 0.05


@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_counts_are_those_of_plain_sets(seed, size, relative):
    rng = np.random.default_rng(seed)
    codes, positive = rng.integers(size, size=(14, 6)), np.arange(14) < 7
    unique, unique_negative, node, pair = coding._score(codes, positive, size, 2, "authors", relative, True)
    for head in range(6):
        a, b = set(codes[positive, head]), set(codes[~positive, head])
        assert unique[head] == len(a - b)
        assert unique_negative[head] == len(b - a)
        assert node[head] == pytest.approx(len(a - b) / (len(a | b) if relative else 1))
        for other in range(6):
            a, b = (set(map(tuple, codes[np.ix_(rows, [head, other])])) for rows in (positive, ~positive))
            expected = 0 if head == other else len(a - b) / (len(a) + len(b) if relative else 1)
            assert pair[head, other] == pytest.approx(expected)
    forward = coding._score(codes, positive, size, 2, "textbook", relative, True)[3]
    np.testing.assert_array_equal(forward[:3, 3:], pair[:3, 3:])
    assert forward[:3, :3].sum() == forward[3:].sum() == 0


def test_edge_list_of_the_authors_by_hand():
    """2 layers of 2 heads: the list is cut after 2**2 // 2 = 2 entries, that is, after one pair."""
    pair = np.array([[0, 1, 2, 7.0], [1, 0, 3, 0], [2, 3, 0, 0], [7, 0, 0, 0]])
    np.testing.assert_array_equal(coding._edge_counts(pair, 2, 2, "authors"), [1, 0, 0, 1])
    np.testing.assert_array_equal(coding._edge_counts(np.triu(pair), 2, 2, "textbook"), [1, 0, 0, 1])  # 4 forward pairs, one kept


def test_softmax_axes():
    x, positive = planted()
    whole = head_codes(x, positive, **QUICK)
    by_layer = head_codes(x, positive, **QUICK, softmax="layer")
    np.testing.assert_allclose(by_layer.node.sum(2), 1)
    np.testing.assert_array_equal(by_layer.unique, whole.unique)
    authors = head_codes(x, positive, **QUICK, softmax="layer", convention="authors")
    np.testing.assert_allclose(authors.node.sum(1), 1)
    expected = np.exp(whole.unique[0]) / np.exp(whole.unique[0]).sum()
    np.testing.assert_allclose(whole.node[0], expected)


def test_trials_are_the_same_alone_and_together():
    x, positive = planted()
    together = head_codes(x, positive, **QUICK, seed=4)
    alone = head_codes(x, positive, **(QUICK | {"trials": 1}), seed=4)
    np.testing.assert_array_equal(alone.train_examples[0], together.train_examples[0])
    np.testing.assert_allclose(alone.mse[0], together.mse[0], rtol=1e-3)  # 40 steps of Adam in float32, other order of sums
    assert (alone.codes == together.codes).mean() > 0.97
    assert (together.train_examples[0] != together.train_examples[1]).any()


def test_textbook_codes_come_from_held_out_prompts_only():
    """A code that only the training examples show cannot count: with one held-out pair at most one code is unique."""
    x, positive = planted(n=12)
    scores = head_codes(x, positive, **(QUICK | {"trials": 4}), n_train=9)
    assert scores.unique.max() <= 2
    assert scores.train_examples.shape == (4, 9)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_both_ways_to_the_gradient_agree(share):
    """Sums over active pairs equal whole matrix products, whatever share of the latents is active, none included."""
    import torch

    generator = torch.Generator().manual_seed(1)
    centred, directions, pre = (torch.randn(3, *size, generator=generator) for size in ((40, 9), (20, 9), (20, 40)))
    pre = pre - torch.quantile(pre, 1 - share) - 1e-6
    given = (pre, pre > 0, centred, directions, 0.03)
    assert int(given[1].sum()) == pytest.approx(share * pre.numel(), abs=1)
    for full, listed in zip(small_sae._full_gradients(*given), small_sae._listed_gradients(*given), strict=True):
        torch.testing.assert_close(listed, full, atol=1e-6, rtol=1e-5)  # float32, sums in another order


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_compiled_gradients_are_those_of_whole_products(share):
    """Listed pairs, also in the last rows that fill no run, and their sums, against matrix products."""
    rng = np.random.default_rng(1)
    n_latents, rows, d = 21, 45, 9
    x, W, D = (rng.normal(size=(size, d)).astype(np.float32) for size in (rows, n_latents, n_latents))
    b, bias = (rng.normal(size=size).astype(np.float32) for size in (d, n_latents))
    pre = W @ x.T
    bias -= np.quantile(pre + (bias - W @ b)[:, None], 1 - share) + np.float32(1e-6)
    threshold, error = np.empty(n_latents, np.float32), np.empty((rows, d), np.float32)
    latent, row, z = np.empty(pre.size, np.int64), np.empty(pre.size, np.int64), np.empty(pre.size, np.float32)
    compiled = compiled_trials.kernels()
    pairs = compiled.list_active(pre, W, bias, b, threshold, latent, row, z)
    assert pairs == pytest.approx(share * pre.size, abs=1)
    np.testing.assert_allclose(threshold, bias - W @ b, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.stack([latent[:pairs], row[:pairs]]), np.nonzero(pre + threshold[:, None] > 0))
    if pairs:
        short = z[: pairs - 1]
        assert compiled.list_active(pre, W, bias, b, threshold, latent, row, short) == -1
    scale, l1 = np.float32(0.01), np.float32(0.003)
    shapes = ((n_latents, d), (n_latents, d), (1, n_latents), (1, d))
    full, listed = (tuple(np.full(shape, 7, np.float32) for shape in shapes) for _ in range(2))
    compiled_trials._full_gradients(x, W, D, b, pre + threshold[:, None], scale, l1, error, np.empty_like(pre), full)
    to_W, to_D, (to_bias,), (to_b,) = listed
    pair = latent[:pairs], row[:pairs], z[:pairs]
    compiled.sum_gradients(x, x.sum(0), W, D, b, *pair, scale, l1, error, to_W, to_D, to_bias, to_b)
    for ours, theirs in zip(listed, full, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)  # float32, sums in another order


@pytest.mark.parametrize("decoder", ["dimension", "latent"])
def test_several_trials_on_the_cores_are_the_batch(decoder):
    """The compiled steps against the batched products: other examples and other starts a trial, dense steps and listed ones."""
    import torch

    x = torch.randn(3, 40, 12, generator=torch.Generator().manual_seed(0))
    settings = {"l1": 0.05, "epochs": 60, "by_dimension": decoder == "dimension"}
    starts = [small_sae._starts([torch.Generator().manual_seed(seed) for seed in range(3)], 30, 12) for _ in range(2)]
    batch, compiled = small_sae._train_batch(x, starts[0], **settings), small_sae._train_compiled(x, starts[1], **settings)
    for ours, theirs in zip(compiled, batch, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)  # float32 and Adam's division
    assert (batch[0][0] - batch[0][1]).abs().max() > 0.1


@pytest.mark.parametrize("trials", [1, 2])
@pytest.mark.parametrize("dense", [0.0, 1.1])
@pytest.mark.parametrize("decoder", ["dimension", "latent"])
def test_training_follows_autograd(decoder, dense, trials, monkeypatch):
    """The hand-written gradients, of a batch and compiled, both ways to each, against PyTorch's, with the authors' modules written out."""
    import torch

    monkeypatch.setattr(small_sae, "_DENSE", dense)
    monkeypatch.setattr(compiled_trials, "_DENSE", dense)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 30, 7, generator=generator)
    generators = [torch.Generator().manual_seed(3) for _ in range(trials)]
    ours = small_sae.train_small_saes(x.repeat(trials, 1, 1), n_latents=5, l1=0.03, epochs=30, generators=generators, decoder=decoder)
    draw = torch.Generator().manual_seed(3)
    W_enc = torch.randn(5, 7, generator=draw).requires_grad_()
    b_enc = ((2 * torch.rand(5, generator=draw) - 1) / 7**0.5).requires_grad_()
    W_dec, b = torch.randn(7, 5, generator=draw).requires_grad_(), torch.zeros(7, requires_grad=True)
    over = 1 if decoder == "dimension" else 0
    optimizer = torch.optim.Adam([W_enc, b_enc, W_dec, b], lr=1e-3)
    for _ in range(30):
        with torch.no_grad():
            W_enc /= W_enc.norm(dim=1, keepdim=True)
            W_dec /= W_dec.norm(dim=over, keepdim=True)
        optimizer.zero_grad()
        z = torch.relu((x[0] - b) @ W_enc.T + b_enc)
        loss = (z @ W_dec.T + b - x[0]).square().mean() + 0.03 * z.sum(1).mean()
        loss.backward()
        with torch.no_grad():
            W_enc.grad -= (W_enc.grad * W_enc).sum(1, keepdim=True) * W_enc
            W_dec.grad -= (W_dec.grad * W_dec).sum(over, keepdim=True) * W_dec
        optimizer.step()
    with torch.no_grad():
        W_enc /= W_enc.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours["W_enc"][-1], W_enc.detach(), atol=1e-4, rtol=1e-3)  # float32 and Adam's division
    torch.testing.assert_close(ours["b"][-1], b.detach(), atol=1e-4, rtol=1e-3)
    norms = ours["W_dec"].norm(dim=2 if decoder == "dimension" else 1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_torch_and_float64_inputs():
    import torch

    x, positive = planted()
    want = head_codes(x, positive, **QUICK).unique
    np.testing.assert_array_equal(head_codes(torch.tensor(x), torch.tensor(positive), **QUICK).unique, want)
    np.testing.assert_array_equal(head_codes(x.astype(np.float64), positive.astype(int), **QUICK).unique, want)


def test_saved_and_loaded(tmp_path):
    x, positive = planted()
    scores = head_codes(x, positive, **QUICK)
    scores.save(tmp_path / "scores")
    np.testing.assert_array_equal(coding.HeadScores.load(tmp_path / "scores").node, scores.node)
    assert len(scores.summary())


@pytest.mark.parametrize(("change", "words"), [
    ({"outputs": np.zeros((4, 2, 2, 8), np.float32), "is_positive": [True, True, False, False]}, "4 examples.*at least 5"),
    ({"is_positive": np.ones(60, bool)}, "all positive"), ({"is_positive": np.zeros(60, bool)}, "all negative"),
    ({"is_positive": np.ones(59, bool)}, "labels of shape"), ({"outputs": np.zeros((60, 8), np.float32)}, "head outputs of shape"),
    ({"outputs": np.full((60, 3, 4, 8), np.nan, np.float32)}, "NaN"), ({"n_train": 4}, "n_train=4"), ({"n_train": 60}, "held out"),
    ({"convention": "mine"}, "convention='mine'"), ({"l1": -1}, "l1=-1"), ({"trials": 0}, "trials=0"),
])  # fmt: skip
def test_bad_input(change, words):
    x, positive = planted()
    call = {"outputs": x, "is_positive": positive} | QUICK | change
    with pytest.raises(InputError, match=words):
        head_codes(call.pop("outputs"), call.pop("is_positive"), **call)
