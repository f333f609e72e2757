"""Heat in the coordinates of the image, and colours that people of all eyes can tell apart."""

import numpy as np
import pytest
from PIL import Image

from onepass.extract import decode_image, import_matplotlib
from onepass.features.preprocess import ResizeRule
from onepass.heads.why.picture import COLOURS, overlaid, placed

RULES = (
    "squash",
    "crop",
    "pad",
    "keras",
    "squash-bicubic",
    "pad-bilinear",
    "shortest72-bilinear",
    "shortest80-bicubic-even",
)
SIDE = 64


def png(pixels: np.ndarray) -> bytes:
    import io

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("resize", RULES)
@pytest.mark.parametrize("size", [(200, 100), (90, 150), (128, 128), (101, 77)])
def test_the_box_is_what_the_square_shows(resize: str, size: tuple[int, int]):
    """A ramp along each axis tells where each pixel of the square comes from."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    ramp = np.stack([255 * x, 255 * y, np.full_like(x, 255)], axis=2).round().astype(np.uint8)
    seen = np.asarray(decode_image(png(ramp), image_size=SIDE, resize=resize), np.float64)
    left, upper, right, lower = ResizeRule.parse(resize).box(width, height, SIDE)
    places = (np.arange(SIDE) + 0.5) / SIDE
    inside = seen[..., 2] > 250
    inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False  # where the ramp ends, filters bend it
    for channel, start, end, length in ((0, left, right, width), (1, upper, lower, height)):
        expected = 255 * (start + places * (end - start)) / length
        whole = np.broadcast_to(expected if channel == 0 else expected[:, None], (SIDE, SIDE))
        near = inside & (whole > 6) & (whole < 249)
        assert np.abs(seen[..., channel] - whole)[near].max() < 2.5
        assert near.sum() > 1000


@pytest.mark.parametrize("resize", RULES)
def test_a_spot_is_drawn_where_it_is_in_the_image(resize: str):
    """A white spot on black, found in the square by the mean of each cell, is put back over the spot."""
    width, height = 240, 160
    image = np.zeros((height, width, 3), np.uint8)
    image[70:90, 100:120] = 255
    seen = np.asarray(decode_image(png(image), image_size=SIDE, resize=resize), np.float32)[..., 0]
    heat = seen.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    found = placed(heat, ResizeRule.parse(resize).box(width, height, SIDE), (width, height))
    assert found.shape == (height, width)
    row, column = np.unravel_index(np.nanargmax(found), found.shape)
    assert abs(row - 80) <= 10
    assert abs(column - 110) <= 10
    outside = ResizeRule.parse(resize).method in ("crop", "shortest")
    assert np.isnan(found).any() == outside


def test_what_the_network_does_not_see_has_no_heat():
    found = placed(np.ones((4, 4)), ResizeRule.parse("crop").box(200, 100, 64), (200, 100))
    assert np.isnan(found[:, :50]).all()
    assert np.isnan(found[:, 150:]).all()
    np.testing.assert_allclose(found[:, 50:150], 1, rtol=1e-6)


def lightness(colours: np.ndarray) -> np.ndarray:
    """L* of CIELAB of (n, 3) sRGB in 0..1."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(116 * np.cbrt(y) - 16)


# Machado, Oliveira and Fernandes (2009), IEEE TVCG 15(6): severity 1.0, on linear RGB.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def test_colours_grow_darker_from_the_middle():
    table = import_matplotlib().colormaps[COLOURS](np.linspace(0, 1, 65))[:, :3]
    light = lightness(table)
    assert (np.diff(light[:33]) > 0).all()
    assert (np.diff(light[32:]) < 0).all()
    assert light[32] > 95


@pytest.mark.parametrize("eyes", BLIND)
def test_both_ends_differ_for_the_colour_blind(eyes: str):
    table = import_matplotlib().colormaps[COLOURS](np.array([0.0, 0.1, 0.2, 0.8, 0.9, 1.0]))[:, :3]
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLIND[eyes]).T, 0, 1)
    blue_to_red = seen[:, 2] / np.maximum(seen[:, 0], 1e-3)
    assert (blue_to_red[:3] > 1.3).all()
    assert (blue_to_red[3:] < 0.8).all()


def test_red_speaks_for_and_blue_against():
    heat = np.zeros((40, 60), np.float32)
    heat[10, 10], heat[30, 50] = 2.0, -2.0
    drawn = np.asarray(overlaid(Image.new("RGB", (60, 40), (128, 128, 128)), heat)).astype(int)
    assert drawn.shape[1] == 60
    assert drawn.shape[0] > 40  # the scale is below
    assert drawn[10, 10, 0] - drawn[10, 10, 2] > 40
    assert drawn[30, 50, 2] - drawn[30, 50, 0] > 40
    np.testing.assert_array_equal(drawn[20, 30], [128, 128, 128])


def test_no_heat_at_all_is_the_photo():
    photo = Image.new("RGB", (30, 20), (9, 9, 9))
    np.testing.assert_array_equal(np.asarray(overlaid(photo, np.zeros((20, 30))))[:20], np.asarray(photo))
