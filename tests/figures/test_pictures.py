"""compact: few colours lose nothing, many come close, sizes and unknown kinds stay."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workbench.figures.pictures import compact, cropped


def png(pixels):
    """A PNG of (height, width, 3 or 4) pixels."""
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format="PNG", compress_level=1)
    return packed.getvalue()


def colours(picture):
    """The (height, width, 3) colours of a PNG that must have a palette."""
    image = Image.open(io.BytesIO(picture))
    assert image.mode == "P"
    return np.asarray(image.convert("RGB"))


def random_pixels(height, width, n_colours, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n_colours, 3), dtype=np.uint8)[generator.integers(0, n_colours, (height, width))]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 128), st.booleans(), st.integers(0, 2**31))
def test_up_to_128_colours_lose_nothing(height, width, n_colours, opacity, seed):
    pixels = random_pixels(height, width, n_colours, seed)
    picture = png(np.dstack([pixels, np.full((height, width), 255, dtype=np.uint8)]) if opacity else pixels)
    small = compact(picture)
    assert len(small) <= len(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(small)).convert("RGB")), pixels)


def test_many_colours_come_close_in_fewer_bytes():
    pixels = np.full((300, 600, 3), 255, dtype=np.uint8)
    ramp = np.linspace(0, 255, 600).astype(np.uint8)
    pixels[:40, :, 0], pixels[:40, :, 1], pixels[:40, :, 2] = ramp, ramp[::-1], np.arange(40)[:, None] * 6
    pixels[250:260, 10:90] = (34, 34, 34)
    picture = png(pixels)
    small = compact(picture)
    result = colours(small)
    assert len(small) < len(picture)
    assert len(np.unique(result.reshape(-1, 3), axis=0)) <= 128
    # 24,000 colours on a surface of 361 x 234 around 96 centres: cells of about 30 a side, so about 10 off on average
    assert np.abs(result.astype(int) - pixels)[:40].mean() < 15
    np.testing.assert_array_equal(result[40:], pixels[40:])  # ink and ground


def test_shrinking_averages_blocks():
    pixels = np.full((20, 30, 3), 200, dtype=np.uint8)
    pixels[4:6, 6] = 0  # half of one block of four pixels
    result = np.asarray(Image.open(io.BytesIO(compact(png(pixels), shrink=2))).convert("RGB"))
    assert result.shape == (10, 15, 3)
    assert result[2, 3].tolist() == [100, 100, 100]
    assert (np.delete(result.reshape(-1, 3), 2 * 15 + 3, axis=0) == 200).all()


def test_what_is_empty_below_and_to_the_right_is_cut_off():
    pixels = np.full((90, 120, 3), 255, dtype=np.uint8)
    pixels[10, 40] = pixels[30, 5] = 0
    np.testing.assert_array_equal(colours(cropped(png(pixels), margin=7)), pixels[: 31 + 7, : 41 + 7])
    assert colours(cropped(png(pixels), margin=1000)).shape == pixels.shape


@pytest.mark.parametrize("kind", ["transparent", "palette already"])
def test_other_pictures_stay_as_they_are(kind):
    pixels = random_pixels(20, 20, 5, 0)
    opacity = np.full((20, 20), 255, dtype=np.uint8)
    opacity[3, 3] = 10
    picture = png(np.dstack([pixels, opacity])) if kind == "transparent" else compact(png(pixels))
    assert compact(picture) == picture
