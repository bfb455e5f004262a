"""How small can a figure's picture be? The same picture with a palette of 256 colours, about a third of the bytes.

A chart has few colours; most of its thousands of distinct pixel values are mixtures along the edges of letters and lines. The
repository keeps every figure, so bytes count.

1. Unpack the PNG that Chromium made: eight bits of red, green, blue (and opacity) a pixel, every row stored as differences to what is
   above or left of it.
2. Up to 256 distinct colours are kept as they are, which loses nothing. More are gathered around 256 centres by k-means, weighted by
   the square root of how often a colour occurs; the 64 most frequent colours (inks and grounds) stay exact.
3. Pack one byte a pixel and the palette, with the slowest and best compression.

A picture of another kind, or not opaque, is returned as it came.

Source: PNG specification, third edition (W3C 2025): chunks, filter types, indexed colour; Lloyd 1982 (k-means).
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
_INDEXED, _CHANNELS = 3, {2: 3, 6: 4}
_SAME, _LEFT, _UP, _MEAN = 0, 1, 2, 3


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
    small = pack(pixels[..., :3])
    return small if len(small) < len(picture) else picture


def cropped(picture: bytes, *, margin: int = 24) -> bytes:
    """A PNG with at most 256 colours, cut off `margin` pixels below and right of the last that differs from its last corner."""
    pixels = unpack(picture)
    if pixels is None:
        return picture
    drawn = (pixels[..., :3] != pixels[-1, -1, :3]).any(axis=2)  # (height, width)
    height, width = (int(np.flatnonzero(drawn.any(axis=axis))[-1]) + 1 + margin if drawn.any() else margin for axis in (1, 0))
    return pack(pixels[:height, :width, :3])


def pack(pixels: np.ndarray) -> bytes:
    """An indexed PNG with at most 256 colours of (height, width, 3) uint8 pixels."""
    height, width = pixels.shape[:2]
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)  # (height, width)
    distinct, place, counts = np.unique(codes.ravel(), return_inverse=True, return_counts=True)
    palette = np.stack([distinct >> 16, distinct >> 8 & 255, distinct & 255], axis=1)  # (colours, 3)
    if len(palette) > COLOURS:
        palette, nearest = _centres(palette.astype(float), counts)
        place = nearest[place]
    rows = np.zeros((height, 1 + width), dtype=np.uint8)  # the first byte of a row is its filter: none
    rows[:, 1:] = place.reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", palette.astype(np.uint8).tobytes()), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def unpack(picture: bytes) -> np.ndarray | None:
    """The pixels of a PNG as (height, width, 4) uint8 red, green, blue, opacity; None for a kind of PNG that Chromium does not make."""
    parts = list(_chunks(picture))
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", dict(parts)[b"IHDR"])
    if depth != 8 or kind not in _CHANNELS or interlaced:
        return None
    packed, channels = zlib.decompress(b"".join(data for name, data in parts if name == b"IDAT")), _CHANNELS[kind]
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(height, 1 + channels * width)
    pixels = _unfiltered(rows[:, 0], rows[:, 1:].reshape(height, width, channels))
    return pixels if channels == 4 else np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)


def _unfiltered(filters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pixels (height, width, channels) of rows that are stored as differences, modulo 256, to the pixels above, left, or both."""
    if (filters == _UP).all():
        return np.cumsum(rows, axis=0, dtype=np.uint8)
    pixels, above = np.empty_like(rows), np.zeros_like(rows[0])
    for place, (kind, row) in enumerate(zip(filters.tolist(), rows, strict=True)):
        if kind in (_SAME, _UP):
            above = row + above if kind == _UP else row
        elif kind == _LEFT:
            above = np.cumsum(row, axis=0, dtype=np.uint8)
        else:
            above = np.array([_both(kind, row[:, one].tolist(), above[:, one].tolist()) for one in range(row.shape[1])], dtype=np.uint8).T
        pixels[place] = above
    return pixels


def _both(kind: int, row: list[int], above: list[int]) -> list[int]:
    """One channel of a row whose differences are to the mean of left and above, or to Paeth's choice of left, above and both."""
    values, left, corner = [], 0, 0
    for difference, up in zip(row, above, strict=True):
        if kind == _MEAN:
            guess = (left + up) // 2
        else:
            distances = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = (left, up, corner)[distances.index(min(distances))]
        left, corner = (difference + guess) % 256, up
        values.append(left)
    return values


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
