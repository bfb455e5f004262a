"""What does each lens say about one latent, as words and tables? Look-ups in results, without any widget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from workbench.explorers.lenses import Lenses


def findings_of(lenses: Lenses, latent: int) -> dict[str, Any]:
    """What every lens says of a latent.

    Parameters
    ----------
    lenses : Lenses
    latent : int

    Returns
    -------
    dict
        geometry (dict of name to words), twins, error and circuits (DataFrames, or None where no such lens is there).
    """
    return {"geometry": geometry_of(lenses, latent), "twins": twins_of(lenses, latent), "error": error_of(lenses, latent),
            "circuits": circuits_of(lenses, latent)}  # fmt: skip


def geometry_of(lenses: Lenses, latent: int) -> dict[str, str]:
    """Where the latent lies, in words: place on the map, lobe, parallelograms, layers; and which of them are missing and why."""
    x, y = lenses.layout[latent]
    words = {"on the map": f"({x:.2f}, {y:.2f})"}
    if lenses.lobes is not None:
        lobe = int(lenses.lobes[latent])
        size = int((lenses.lobes == lobe).sum())
        words["lobe"] = f"{lobe}, with {size:,} latents" if lobe >= 0 else "none: it fires in no block of the text, or in every one"
    if (shapes := lenses.parallelograms) is not None:
        mine = np.flatnonzero((shapes.vertices == latent).any(1))
        words["corner of"] = f"{len(mine)} of {shapes.n_found} parallelograms; {shapes.null_found.mean():.1f} are there by chance"
        if len(mine):
            best = mine[0]
            corners = ", ".join(map(str, shapes.vertices[best].tolist()))
            words["best parallelogram"] = f"latents {corners}: quality {shapes.quality[best]:.3f}, q = {shapes.q_value[best]:.2g}"
    if (profile := lenses.layers) is not None:
        shares = ", ".join(f"layer {layer} {share:.0%}" for layer, share in zip(profile.layers, profile.share[latent], strict=True))
        words["its activation"] = shares if np.isfinite(profile.mean[latent]) else "none at any layer"
    return words | {f"{name} left out": lenses.missing[name] for name in ("lobes", "parallelograms", "layers") if name in lenses.missing}


def twins_of(lenses: Lenses, latent: int) -> Any:
    """One row for each other SAE: `Twins.of`, one under the other."""
    import pandas as pd

    return pd.concat([one.of(latent) for one in lenses.twins], ignore_index=True) if lenses.twins else None


def error_of(lenses: Lenses, latent: int) -> Any:
    """What the latent has to do with the SAE's error: columns quantity, value, null mean, p_value."""
    import pandas as pd

    rows = []
    if (shares := lenses.shares) is not None:
        null = shares.share_null[:, latent].mean(), shares.absent_null.mean()
        rows += [("share of the linear error", shares.share[latent], null[0], shares.share_p_value[latent]),
                 ("linear error along it where silent", shares.absent[latent], null[1], shares.absent_p_value[latent])]  # fmt: skip
    if (errors := lenses.errors) is not None:
        rows += [("squared error where it fires / all", errors.ratio[latent], errors.null[:, latent].mean(), errors.p_value[latent]),
                 ("FVU where it fires", errors.fvu[latent], np.nan, np.nan),
                 ("FVU of all tokens", errors.fvu_all, np.nan, np.nan)]  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "value", "null mean", "p_value"]) if rows else None


def circuits_of(lenses: Lenses, latent: int) -> Any:
    """One row for each task: attribution, its share of the behaviour, rank, the largest share of any latent, the error's share."""
    import pandas as pd

    rows = []
    for task, one in lenses.effects.items():
        size, scale = np.abs(one.effect), one.behaviour if one.behaviour > 0 else np.nan  # no share of what the model does not do
        rows.append({"task": task, "attribution": one.effect[latent], "share": one.effect[latent] / scale,
                     "rank": int((size > size[latent]).sum()) + 1,
                     "largest": size.max() / scale, "error's share": one.error / scale})  # fmt: skip
    return pd.DataFrame(rows) if rows else None


def lens_table(lenses: Lenses) -> Any:
    """One row for each living latent, one column for each lens that is there, to see whether lenses agree.

    Columns: log10 share of tokens; mean twin value by measure; squared error where it fires / all; absolute share of the linear error; mean
    layer; largest absolute attribution, as a share of its task's behaviour. The index is the latent.
    """
    import pandas as pd

    living = np.flatnonzero(lenses.codes.alive)
    columns = {"log10 share of tokens": np.log10(lenses.codes.frequency[living])}
    for one in lenses.twins:
        columns[f"twin: {one.measure}"] = np.nan_to_num(one.value[:, living]).mean(0)  # an unmatched latent has no likeness at all
    if lenses.errors is not None:
        columns["error where it fires"] = lenses.errors.ratio[living]
    if lenses.shares is not None:
        columns["share of linear error"] = np.abs(lenses.shares.share[living])
    if lenses.layers is not None:
        columns["mean layer"] = lenses.layers.mean[living]
    if lenses.effects:
        shares = [
            np.abs(one.effect[living]) / one.behaviour if one.behaviour > 0 else np.zeros(len(living)) for one in lenses.effects.values()
        ]
        columns["largest attribution"] = np.max(shares, axis=0)
    return pd.DataFrame(columns, index=pd.Index(living, name="latent"))
