"""What does one latent do, asked often and answered at once? Codes indexed by latent for the explorers.

1. The codes are held a second time by columns, so that one latent's rows and activations are a slice.
2. Co-firing of one latent with all others: the rows where it fires are cut out of the codes, and what else fires there is counted;
   phi = (n n11 - n1 n2) / sqrt(n1 (n - n1) n2 (n - n2)) over the kept tokens.
3. A search looks for a text among the tokens on which each latent is most active.

Source: phi coefficient as in Li et al. 2024 (arXiv 2410.19750), section 4.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError, fail

if TYPE_CHECKING:
    import pandas as pd

    from workbench.activations.codes import FeatureCodes

_TOP_TOKENS = 5


class LatentLookup:
    """Quick answers about single latents.

    Parameters
    ----------
    codes : FeatureCodes
        Its codes are held in memory twice.

    Attributes
    ----------
    codes : FeatureCodes
    n_latents : int
    n_kept : int
        Tokens that count.
    """

    def __init__(self, codes: FeatureCodes) -> None:
        self.codes, self.n_latents, self.n_kept = codes, codes.n_latents, int(codes.keep.sum())
        self._csr = codes.csr
        self._csc = self._csr.tocsc()

    def activations(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows where a latent fires, ascending, and its activations there.

        Raises
        ------
        InputError
            For a latent that does not exist.
        """
        self.check(latent)
        place = slice(self._csc.indptr[latent], self._csc.indptr[latent + 1])
        return self._csc.indices[place], self._csc.data[place]

    def check(self, latent: int) -> int:
        """The latent's number as an int; raises InputError when there is none such."""
        if isinstance(latent, bool) or not hasattr(latent, "__index__") or not 0 <= int(latent) < self.n_latents:
            fail(InputError, f"latent={latent!r}", f"a whole number in 0..{self.n_latents - 1}", "choose another latent")
        return int(latent)

    def cofiring(self, latent: int, k: int = 10) -> pd.DataFrame:
        """The k latents whose firing correlates most with one's: columns latent, together (tokens), phi; none for a silent latent."""
        import pandas as pd

        rows, _ = self.activations(latent)
        n = self.n_kept
        together = np.bincount(self._csr[rows].indices, minlength=self.n_latents).astype(np.float64)
        counts = np.diff(self._csc.indptr).astype(np.float64)
        spread = np.sqrt(counts[latent] * (n - counts[latent]) * counts * (n - counts))
        phi = np.divide(n * together - counts[latent] * counts, spread, out=np.full(self.n_latents, -np.inf), where=spread > 0)
        phi[latent] = -np.inf
        top = np.argsort(-phi, kind="stable")[:k]
        top = top[np.isfinite(phi[top]) & (together[top] > 0)]
        return pd.DataFrame({"latent": top, "together": together[top].astype(int), "phi": phi[top]})

    def examples(self, latent: int, k: int = 10, *, window: int = 20) -> pd.DataFrame:
        """As `FeatureCodes.top_examples`."""
        return self.codes.top_examples(latent, k, window=window)

    @functools.cached_property
    def top_tokens(self) -> np.ndarray:
        """Strings of the 5 tokens on which each latent is most active (F, 5)."""
        return self.codes.top_tokens(_TOP_TOKENS)

    def search(self, text: str) -> np.ndarray:
        """Latents with a top token that is, or else contains, the text; those where it ranks higher first.

        Surrounding spaces do not count, unless the text is nothing else; neither does case when nothing matches otherwise.

        Raises
        ------
        InputError
            When no latent has such a token.
        """
        wanted = text.strip() or text
        stripped = np.char.strip(self.top_tokens) if text.strip() else self.top_tokens
        for found in (stripped == wanted, np.char.find(stripped, wanted) >= 0,
                      np.char.find(np.char.lower(stripped), wanted.lower()) >= 0):  # fmt: skip
            found = found & (self.top_tokens != "")
            if wanted and found.any():
                latents = np.flatnonzero(found.any(1))
                return latents[np.argsort(found[latents].argmax(1), kind="stable")]
        fail(InputError, f"no latent has {text!r} among the {_TOP_TOKENS} tokens on which it is most active", "a token that occurs there",
             "try a shorter piece of it, or a latent's number")  # fmt: skip
