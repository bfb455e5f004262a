"""How small can a figure's picture be? The same picture with a palette of 256 colours, about a third of the bytes.

A chart has few colours; most of its thousands of distinct pixel values are mixtures along the edges of letters and lines. The
repository keeps every figure, so bytes count.

1. Unpack the PNG that Chromium made: eight bits of red, green, blue and opacity a pixel, every row stored as differences to the
   row above (or as it is).
2. Up to 256 distinct colours are kept as they are, which loses nothing. More are gathered around 256 centres by k-means, weighted by
   the square root of how often a colour occurs; the 64 most frequent colours (inks and grounds) stay exact.
3. Pack one byte a pixel and the palette, with the slowest and best compression.

A picture that is packed in another way, or not opaque, is returned as it came.

Source: PNG specification, third edition (W3C 2025): chunks, filter types 0 and 2, indexed colour; Lloyd 1982 (k-means).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
_EXACT = 64
_ROUNDS = 8
_RGBA, _INDEXED = 6, 3
_SAME, _UP = 0, 2


def compact(picture: bytes) -> bytes:
    """A PNG with at most 256 colours.

    Parameters
    ----------
    picture : bytes
        A PNG.

    Returns
    -------
    bytes : an indexed PNG of the same size in pixels; `picture` itself where it cannot be made smaller.
    """
    pixels = unpack(picture)
    if pixels is None or (pixels[..., 3] != 255).any():
        return picture
    height, width = pixels.shape[:2]
    codes = pixels[..., :3].astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)  # (height, width)
    distinct, place, counts = np.unique(codes.ravel(), return_inverse=True, return_counts=True)
    palette = np.stack([distinct >> 16, distinct >> 8 & 255, distinct & 255], axis=1)  # (colours, 3)
    if len(palette) > COLOURS:
        palette, nearest = _centres(palette.astype(float), counts)
        place = nearest[place]
    rows = np.zeros((height, 1 + width), dtype=np.uint8)  # the first byte of a row is its filter: none
    rows[:, 1:] = place.reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", palette.astype(np.uint8).tobytes()), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    small = SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return small if len(small) < len(picture) else picture


def unpack(picture: bytes) -> np.ndarray | None:
    """The pixels of a PNG as (height, width, 4) uint8 red, green, blue, opacity; None for a kind of PNG that Chromium does not make."""
    parts = list(_chunks(picture))
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", dict(parts)[b"IHDR"])
    if (depth, kind, interlaced) != (8, _RGBA, 0):
        return None
    packed = zlib.decompress(b"".join(data for name, data in parts if name == b"IDAT"))
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(height, 1 + 4 * width)
    if (rows[:, 0] == _UP).all():
        values = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)  # differences to the row above, modulo 256
    elif (rows[:, 0] == _SAME).all():
        values = rows[:, 1:]
    else:
        return None
    return values.reshape(height, width, 4)


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(SIGNATURE)
    while position < len(picture):
        (length,) = struct.unpack_from(">I", picture, position)
        yield picture[position + 4 : position + 8], picture[position + 8 : position + 8 + length]
        position += 12 + length


def _centres(colours: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """256 colours that stand for all of `colours` (m, 3), and which of them stands for each (m,)."""
    frequent, weights = np.argsort(-counts, kind="stable"), np.sqrt(counts)
    centres = colours[frequent[:COLOURS]]
    for _ in range(_ROUNDS):
        nearest = _nearest(colours, centres)
        mass = np.bincount(nearest, weights, COLOURS)
        sums = np.stack([np.bincount(nearest, weights * channel, COLOURS) for channel in colours.T], axis=1)
        centres = np.where(mass[:, None] > 0, sums / np.maximum(mass, 1e-12)[:, None], centres)
    centres[_nearest(colours[frequent[:_EXACT]], centres)[::-1]] = colours[frequent[:_EXACT]][
        ::-1
    ]  # of two for one centre, the more frequent
    centres = np.rint(centres)
    return centres.astype(np.uint8), _nearest(colours, centres)


def _nearest(colours: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((centres**2).sum(axis=1) - 2 * colours @ centres.T).argmin(axis=1)
