"""compact: few colours lose nothing, many come close, sizes and unknown kinds stay."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.figures.pictures import SIGNATURE, compact, cropped, unpack


def png(pixels, *, up=True, kind=6):
    """A PNG of (height, width, 4) pixels as Chromium packs it."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    if up:
        rows = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    packed = np.hstack([np.full((height, 1), 2 if up else 0, dtype=np.uint8), rows]).tobytes()
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)), (b"IDAT", zlib.compress(packed, 1)), (b"IEND", b"")
    return SIGNATURE + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)


def indexed(picture):
    """The (height, width, 3) colours of a PNG with a palette, read without `pictures`; every checksum is verified."""
    position, parts = 8, {}
    while position < len(picture):
        (length,) = struct.unpack_from(">I", picture, position)
        kind, data = picture[position + 4 : position + 8], picture[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", picture, position + 8 + length)[0] == zlib.crc32(kind + data)
        parts[kind] = data
        position += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert (depth, colour) == (8, 3)
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), dtype=np.uint8).reshape(height, 1 + width)
    assert not rows[:, 0].any()
    return np.frombuffer(parts[b"PLTE"], dtype=np.uint8).reshape(-1, 3)[rows[:, 1:]]


def random_pixels(height, width, colours, seed):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (colours, 4), dtype=np.uint8)[generator.integers(0, colours, (height, width))]
    pixels[..., 3] = 255
    return pixels


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 256), st.booleans(), st.integers(0, 2**31))
def test_up_to_256_colours_lose_nothing(height, width, colours, up, seed):
    pixels = random_pixels(height, width, colours, seed)
    picture = png(pixels, up=up)
    np.testing.assert_array_equal(unpack(picture), pixels)
    small = compact(picture)
    assert len(small) <= len(picture)
    if small != picture:
        np.testing.assert_array_equal(indexed(small), pixels[..., :3])


def test_many_colours_come_close_and_inks_and_grounds_stay_exact():
    ramp = np.linspace(0, 255, 600).astype(np.uint8)
    pixels = np.full((300, 600, 4), 255, dtype=np.uint8)
    pixels[:40, :, 0], pixels[:40, :, 1], pixels[:40, :, 2] = ramp, ramp[::-1], np.arange(40)[:, None] * 6
    pixels[250:260, 10:90, :3] = (34, 34, 34)
    picture = png(pixels)
    small = compact(picture)
    result = indexed(small)
    assert len(small) < len(picture)
    assert len(np.unique(result.reshape(-1, 3), axis=0)) <= 256
    np.testing.assert_array_equal(result[40:], pixels[40:, :, :3])
    # 24,000 colours on a surface of 255 x 255 x 234 around 250 centres: cells of about 20 a side, so about 10 off on average
    assert np.abs(result.astype(int) - pixels[..., :3])[:40].mean() < 12


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([2, 6]), st.integers(0, 2**31))
def test_every_filter_is_undone(height, width, kind, seed):
    generator = np.random.default_rng(seed)
    channels = 3 if kind == 2 else 4
    pixels = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    filters, packed, above = generator.integers(0, 5, height), b"", np.zeros((width, channels), int)
    for choice, row in zip(filters, pixels.astype(int), strict=True):  # the specification's own words, pixel by pixel
        differences = np.zeros_like(row)
        for at in range(width):
            for one in range(channels):
                left, corner = (row[at - 1, one], above[at - 1, one]) if at else (0, 0)
                up = above[at, one]
                estimate = left + up - corner
                near = min((left, up, corner), key=lambda value: abs(estimate - value))  # the first of the nearest
                guess = (0, left, up, (left + up) // 2, near)[choice]
                differences[at, one] = (row[at, one] - guess) % 256
        packed, above = packed + bytes([choice]) + differences.astype(np.uint8).tobytes(), row
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    picture = SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(packed)) + _chunk(b"IEND", b"")
    expected = pixels if kind == 6 else np.dstack([pixels, np.full((height, width), 255, dtype=np.uint8)])
    np.testing.assert_array_equal(unpack(picture), expected)


def test_what_is_empty_below_and_to_the_right_is_cut_off():
    pixels = random_pixels(90, 120, 1, 0)
    pixels[..., :3] = 255
    pixels[10, 40, :3] = pixels[30, 5, :3] = 0
    result = indexed(cropped(png(pixels), margin=7))
    np.testing.assert_array_equal(result, pixels[: 31 + 7, : 41 + 7, :3])


@pytest.mark.parametrize("kind", ["transparent", "palette already"])
def test_other_pictures_stay_as_they_are(kind):
    pixels = random_pixels(20, 20, 5, 0)
    if kind == "transparent":
        pixels[3, 3, 3] = 10
    picture = png(pixels) if kind == "transparent" else compact(png(pixels))
    assert compact(picture) == picture


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
