"""How small can a figure's picture be? Averaged pixels and a palette of 128 colours: a tenth of the bytes, and the house's colours exact.

A chart has few colours; most of its thousands of distinct pixel values are mixtures along the edges of letters and lines. The
repository keeps every figure, and may keep 4 MB of them, so bytes count.

1. A picture that was drawn several times too large is averaged over blocks of pixels, which keeps thin lines and letters clear.
2. Up to 128 distinct colours are kept as they are, which loses nothing. Of more, the 32 most frequent (inks, grounds, marks) stay exact,
   and 96 chosen by median cut stand for the others, each for those it is nearest to.
3. One byte a pixel and the palette are packed with the best compression.

A picture that is not opaque is returned as it came.

Source: Pillow, `Image.reduce` and `Image.quantize` (median cut: Heckbert 1982).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS, EXACT = 128, 32


def compact(picture: bytes, *, shrink: int = 1) -> bytes:
    """A PNG with at most 128 colours.

    Parameters
    ----------
    picture : bytes
        A PNG.
    shrink : int
        So many times fewer pixels each way; those of a block are averaged.

    Returns
    -------
    bytes : an indexed PNG; `picture` itself where it is not opaque or cannot be made smaller.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(picture))
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3] != (255, 255):
        return picture
    image = image.convert("RGB")
    return min(_packed(image.reduce(shrink) if shrink > 1 else image), picture, key=len)


def cropped(picture: bytes, *, margin: int = 24) -> bytes:
    """A PNG with at most 128 colours, cut off `margin` pixels below and right of the last that differs from its last corner."""
    from PIL import Image, ImageChops

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    ground = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
    *_, right, below = ImageChops.difference(image, ground).getbbox() or (0, 0, 0, 0)
    return _packed(image.crop((0, 0, min(right + margin, image.width), min(below + margin, image.height))))


def _packed(image: Image) -> bytes:
    from PIL import Image

    shifts = np.array([16, 8, 0])
    codes = np.asarray(image).astype(np.int64) @ (1 << shifts)  # (height, width)
    distinct, index, counts = np.unique(codes, return_inverse=True, return_counts=True)
    palette = distinct[:, None] >> shifts & 255  # (colours, 3)
    if len(palette) > COLOURS:
        cut = image.quantize(COLOURS - EXACT, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
        frequent = palette[np.argsort(-counts, kind="stable")[:EXACT]]
        chosen = np.concatenate([frequent, np.reshape(cut[: 3 * (COLOURS - EXACT)], (-1, 3))]).astype(float)
        # squared distance less the colour's own square; a frequent colour is its own nearest, and comes first of equals
        index = ((chosen**2).sum(axis=1) - 2 * palette @ chosen.T).argmin(axis=1)[index]
        palette = chosen.astype(np.int64)
    indexed = Image.fromarray(index.astype(np.uint8).reshape(image.height, image.width)).convert("P")
    indexed.putpalette(palette.ravel().tolist())
    packed = io.BytesIO()
    indexed.save(packed, format="PNG", optimize=True)
    return packed.getvalue()
