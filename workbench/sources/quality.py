"""How well does an SAE reconstruct? One definition of explained variance, used everywhere.

1. Explained variance EV = 1 - FVU, FVU = sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, pooled over tokens and dimensions, the mean over
   the same tokens. Moments are updated chunk by chunk (Chan, Golub and LeVeque 1983), so chunks, merges and order do not matter.
2. L0 is the mean number of non-zero latents a token; a latent is dead when it fired on no token; frequency is its share of tokens.
3. The model's own loss with the reconstruction in place is measured by `ce_recovered` (in `splicing`, named here too).

Source: Gao et al. 2024 (fraction of variance unexplained).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from workbench.arrays import as_numpy
from workbench.errors import InputError, fail
from workbench.results import Result, provenance
from workbench.sources.splicing import CERecovered, ce_recovered

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["CERecovered", "Quality", "ReconstructionQuality", "ce_recovered", "explained_variance"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Quality(Result):
    """What `ReconstructionQuality` measured.

    Attributes
    ----------
    explained_variance, fvu : float
        EV = 1 - FVU; 1 is a perfect reconstruction, 0 as good as the mean, negative worse.
    mse : float
        Mean squared error of one dimension of one token.
    cosine, norm_ratio : float
        Mean over tokens of cos(x, x_hat), and of ||x_hat|| / ||x||.
    l0, dead_share : float
        Mean non-zero latents a token, share of latents that never fired; NaN where no codes were given.
    frequency : float64 array (F,)
        Share of tokens on which each latent fired; empty where no codes were given.
    n_tokens : int
    """

    explained_variance: float
    fvu: float
    mse: float
    cosine: float
    norm_ratio: float
    l0: float
    dead_share: float
    frequency: np.ndarray
    n_tokens: int


class ReconstructionQuality:
    """Streaming reconstruction quality: `update` with chunks, `merge` with others, `result` at the end."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: np.ndarray | None = None  # (d,)
        self.scatter = 0.0  # sum ||x - mean||^2
        self.squared_error = self.cosine = self.norm_ratio = 0.0
        self.coded = 0  # tokens that came with codes
        self.fired: np.ndarray | None = None  # (F,)

    def update(self, x: Float[Any, "n d"], x_hat: Float[Any, "n d"] | None = None, codes: Float[Any, "n F"] | None = None) -> Self:
        """Add a chunk.

        Parameters
        ----------
        x, x_hat : arrays (n, d), numpy or torch, any float dtype
            Activations and reconstructions; or one tuple (x, x_hat) or (x, x_hat, codes) as `x`.
        codes : array (n, F), optional
            Latent activations: numpy, torch or scipy.sparse.

        Raises
        ------
        InputError
            For shapes that differ, or NaN or infinity.
        """
        if isinstance(x, tuple):
            x, x_hat, codes = (*x, None)[:3]
        x, x_hat = _float64(x, "x"), _float64(x_hat, "x_hat")
        if x.ndim != 2 or x.shape != x_hat.shape or (self.mean is not None and len(self.mean) != x.shape[1]):
            width = "d" if self.mean is None else len(self.mean)
            fail(InputError, f"x {x.shape} and x_hat {x_hat.shape}", f"two arrays of one shape (n, {width})",
                 "pass activations and their reconstructions")
        if codes is not None:
            self._count(codes, len(x))
        if len(x) == 0:
            return self
        mean = x.mean(axis=0)
        self._moments(len(x), mean, float(np.square(x - mean).sum()))
        self.squared_error += float(np.square(x - x_hat).sum())
        norm, norm_hat = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)  # (n,)
        product, some = norm * norm_hat, norm > 0
        self.cosine += float(np.divide((x * x_hat).sum(axis=1), product, out=np.zeros_like(product), where=product > 0).sum())
        self.norm_ratio += float((norm_hat[some] / norm[some]).sum()) + float((norm_hat[~some] == 0).sum())  # 0/0 is a perfect copy
        return self

    def merge(self, other: ReconstructionQuality) -> Self:
        """Add what another accumulator has seen."""
        if other.mean is not None:
            if self.mean is not None and len(self.mean) != len(other.mean):
                fail(InputError, f"widths {len(self.mean)} and {len(other.mean)}", "one width d", "merge accumulators of the same hook")
            self._moments(other.n, other.mean, other.scatter)
        self.squared_error += other.squared_error
        self.cosine += other.cosine
        self.norm_ratio += other.norm_ratio
        if other.fired is not None:
            self._fired(other.fired, other.coded)
        return self

    def result(self) -> Quality:
        """The measures of all tokens seen.

        Raises
        ------
        InputError
            When there was no token, or all tokens are the same vector (no variance to explain).
        """
        rounding = self.n * (16 * np.finfo(float).eps) ** 2 * (0.0 if self.mean is None else float(self.mean @ self.mean))
        if self.n == 0 or self.scatter <= rounding:
            fail(InputError, f"{self.n} tokens without variance", "at least two different vectors", "pass activations of more tokens")
        fvu = self.squared_error / self.scatter
        if self.fired is None:
            frequency, l0, dead = np.empty(0), float("nan"), float("nan")
        else:
            frequency = self.fired / max(self.coded, 1)
            l0, dead = float(frequency.sum()), float((self.fired == 0).mean())
        return Quality(explained_variance=1.0 - fvu, fvu=fvu, mse=self.squared_error / (self.n * len(self.mean)),
                       cosine=self.cosine / self.n, norm_ratio=self.norm_ratio / self.n, l0=l0, dead_share=dead, frequency=frequency,
                       n_tokens=self.n, provenance=provenance(parameters={"explained_variance": "1 - sum||x-x_hat||^2 / sum||x-mean||^2"}))

    def _moments(self, n: int, mean: np.ndarray, scatter: float) -> None:
        if self.mean is None:
            self.n, self.mean, self.scatter = n, mean.copy(), scatter
            return
        total, shift = self.n + n, mean - self.mean
        self.scatter += scatter + float(shift @ shift) * self.n * n / total
        self.mean = self.mean + shift * (n / total)
        self.n = total

    def _count(self, codes: Any, n: int) -> None:
        if codes.ndim != 2 or codes.shape[0] != n:
            fail(InputError, f"codes {tuple(codes.shape)} for {n} tokens", "one row of latents for each token", "pass codes (n, F)")
        if hasattr(codes, "detach"):
            import torch

            codes = codes.detach().to_dense() if codes.is_sparse else codes.detach()
            finite = bool(codes.sum().isfinite()) or bool(codes.isfinite().all())  # finite sums may overflow, too
            fired = (codes != 0).sum(dim=0, dtype=torch.int32).cpu().numpy()  # int64 sums take three times as long
        elif hasattr(codes, "tocsr"):
            csr = codes.tocsr()
            finite = bool(np.isfinite(csr.data).all())
            fired = np.bincount(csr.indices[csr.data != 0], minlength=csr.shape[1])
        else:
            finite, fired = bool(np.isfinite(codes).all()), np.count_nonzero(codes, axis=0)
        if not finite:
            fail(InputError, "codes hold NaN or infinity", "finite latent activations", "check the SAE's weights and the activations")
        self._fired(fired, n)

    def _fired(self, fired: np.ndarray, n: int) -> None:
        if self.fired is not None and len(self.fired) != len(fired):
            fail(InputError, f"codes of {len(self.fired)} and of {len(fired)} latents", "one number of latents",
                 "measure one SAE at a time")
        self.fired = fired.astype(np.int64) if self.fired is None else self.fired + fired
        self.coded += n


def explained_variance(x: Float[Any, "n d"], x_hat: Float[Any, "n d"]) -> float:
    """EV = 1 - sum ||x - x_hat||^2 / sum ||x - mean(x)||^2 of arrays (n, d). Raises InputError without variance, or for NaN."""
    return ReconstructionQuality().update(x, x_hat).result().explained_variance


def _float64(array: Any, name: str) -> np.ndarray:
    array = as_numpy(array)
    if array.dtype.kind not in "fiu":
        fail(InputError, f"{name} of dtype {array.dtype}", "an array of floats", f"pass {name} (n, d)")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        fail(InputError, f"{name} holds NaN or infinity", "finite values", "load the model with dtype='float32', and check its weights")
    return array
