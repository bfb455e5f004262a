"""The cells of a notebook with every explorer that needs no model, on small planted inputs; read as text by test_explorers.py."""

# %% setup
from types import SimpleNamespace

import numpy as np
import scipy.sparse
from IPython.display import display

import workbench as wb
from workbench import explorers
from workbench.sources.tokens import Tokens

rng = np.random.default_rng(0)
WORDS = np.array(["<bos>", *" def return print range class import value index list name self for in if else <b>bold</b>".split(" ")[1:]])
ids = np.hstack([np.zeros((40, 1), int), rng.integers(1, len(WORDS), (40, 63))])
documents = np.array([f"file_{context % 5}.py" for context in range(40)])
tokens = Tokens(ids=ids, keep=ids > 0, source=documents, document=documents, vocabulary=np.array([f" {word}" for word in WORDS]), bos_id=0,
                pad_id=-1, provenance={})  # fmt: skip


def grid(n):
    """Places of n points, row after row."""
    side = int(np.ceil(np.sqrt(n)))
    return np.stack([np.arange(n) % side, np.arange(n) // side], axis=1).astype(float)


# %% latent: latent i fires on word i % 16 + 1; the map has so many points that it is WebGL
F = 3_200
fires = [np.flatnonzero((ids == latent % 16 + 1).ravel() & (rng.random(ids.size) < 0.3)) for latent in range(F)]
columns = np.repeat(np.arange(F), [len(rows) for rows in fires])
dense = scipy.sparse.csr_matrix((rng.uniform(0.5, 4, len(columns)), (np.concatenate(fires), columns)), shape=(ids.size, F))
codes = wb.FeatureCodes.from_csr(dense, tokens)
sae = SimpleNamespace(W_dec=rng.standard_normal((F, 16)), cfg=SimpleNamespace(metadata=SimpleNamespace(neuronpedia_id="small/2-res")))
latent = explorers.LatentExplorer(codes, sae, grid(F), lobes=np.arange(F) % 3, match_cosine=rng.random(F))
display(latent)

# %% lobes: two groups of latents that fire together
groups = np.arange(120) % 2
on = rng.random((300, 2)) < 0.5
firing = (on[:, groups] & (rng.random((300, 120)) < 0.6)).astype(np.uint8)
lobes = explorers.LobeExplorer(wb.cooccurrence(firing), rng.standard_normal((120, 12)), layout=grid(120), n_lobes=(2, 3, 4), n_null=20,
                               firing=firing, categories=[("code", "prose", "maths")[block % 3] for block in range(300)])  # fmt: skip
display(lobes)

# %% crystals: five relations that share a direction each
names = np.repeat(["plural", "past", "capital", "female", "opposite"], 14)
axes = rng.standard_normal((5, 10)) * 2
differences = {f"layer {layer}": np.repeat(axes, 14, axis=0) * layer + rng.standard_normal((70, 10)) for layer in (1, 2)}
pairs = [f"in{pair}" for pair in range(70)], [f"out{pair}" for pair in range(70)]
crystals = explorers.CrystalExplorer(differences, names, words=pairs, n_null=10)
display(crystals)

# %% match: the second dictionary is the first, shuffled, half of it with noise
first = rng.standard_normal((80, 24))
order = rng.permutation(80)
noise = np.where(np.arange(80) < 40, 0.1, 2.0)[:, None] * rng.standard_normal((80, 24))
overlap = wb.seed_overlap(first, (first + noise)[order], first.T, (first + noise)[order].T, n_null=1, n_null_matched=0)
match = explorers.MatchExplorer(overlap, [grid(80), grid(80)], names=["seed 0", "seed 1"],
                                top_tokens=[[[" def", " return"]] * 80, [[" def", " class"]] * 80])  # fmt: skip
display(match)

# %% darkmatter: an error that is linear in x, and at the word " value" also something that is not
x = rng.standard_normal((int(tokens.keep.sum()), 12))
strange = (ids[tokens.keep] == 7)[:, None] * 3.0
error = 0.2 * x @ rng.standard_normal((12, 12)) + strange * np.abs(x) * rng.standard_normal(12)
found = {"base": wb.decompose_error(x, x - error, n_boot=20, n_null=2), "wide": wb.decompose_error(x, x - error / 2, n_boot=20, n_null=2)}
darkmatter = explorers.DarkMatterExplorer(found, tokens)
display(darkmatter)
