"""How small can a figure's picture be? The same picture with a palette of 256 colours, about a third of the bytes.

A chart has few colours; most of its thousands of distinct pixel values are mixtures along the edges of letters and lines. The
repository keeps every figure, so bytes count.

1. Up to 256 distinct colours are kept as they are, which loses nothing; of more, the nearest of 256 chosen by median cut is taken.
2. One byte a pixel and the palette are packed with the best compression.

A picture that is not opaque is returned as it came.

Source: Pillow, `Image.quantize` (median cut: Heckbert 1982).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = 256


def compact(picture: bytes) -> bytes:
    """A PNG with at most 256 colours.

    Parameters
    ----------
    picture : bytes
        A PNG.

    Returns
    -------
    bytes : an indexed PNG of the same size in pixels; `picture` itself where it is not opaque or cannot be made smaller.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(picture))
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3] != (255, 255):
        return picture
    return min(_packed(image.convert("RGB")), picture, key=len)


def cropped(picture: bytes, *, margin: int = 24) -> bytes:
    """A PNG with at most 256 colours, cut off `margin` pixels below and right of the last that differs from its last corner."""
    from PIL import Image, ImageChops

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    ground = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
    *_, right, below = ImageChops.difference(image, ground).getbbox() or (0, 0, 0, 0)
    return _packed(image.crop((0, 0, min(right + margin, image.width), min(below + margin, image.height))))


def _packed(image: Image) -> bytes:
    from PIL import Image

    if image.getcolors(COLOURS) is None:  # there are more
        image = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    else:
        colours, index = np.unique(np.asarray(image) @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
        image = Image.fromarray(index.astype(np.uint8).reshape(image.height, image.width)).convert("P")
        image.putpalette([int(value) >> shift & 255 for value in colours for shift in (16, 8, 0)])
    packed = io.BytesIO()
    image.save(packed, format="PNG", optimize=True)
    return packed.getvalue()
