"""Heat over a photo: blue against a class, red for it, the photo in grey beneath."""

import numpy as np
from PIL import Image, ImageDraw

from onepass.extract import import_matplotlib

Box = tuple[float, float, float, float]

COLOURS = "RdBu_r"
"""Matplotlib's name of ColorBrewer's map: white at 0, darker towards both ends, told apart without red or green."""

_STRONGEST = 0.75
"""Share of the colour where heat is largest; the rest is the photo."""
_OUTSIDE = 0.4
"""Brightness of what the network does not see."""
_BAR = 12
"""Height of the scale, pixels."""


def placed(heat: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Heat in the coordinates of an image.

    Args:
        heat: (h, w) over the square that the network sees.
        box: Left, upper, right and lower edge of that square in the image, pixels; may lie beyond it.
        size: Width and height of the image.

    Returns:
        (height, width) float32, smooth between the middles of positions; NaN where the network sees nothing.
    """
    width, height = size
    left, upper, right, lower = box
    x = max(round(left), 0), min(round(right), width)
    y = max(round(upper), 0), min(round(lower), height)
    found = np.full((height, width), np.nan, np.float32)
    if x[0] >= x[1] or y[0] >= y[1]:
        return found
    across, down = heat.shape[1] / (right - left), heat.shape[0] / (lower - upper)
    part = (
        max((x[0] - left) * across, 0.0),
        max((y[0] - upper) * down, 0.0),
        min((x[1] - left) * across, float(heat.shape[1])),
        min((y[1] - upper) * down, float(heat.shape[0])),
    )
    smooth = Image.fromarray(np.asarray(heat, np.float32))
    made = smooth.resize((x[1] - x[0], y[1] - y[0]), Image.Resampling.BICUBIC, box=part)
    found[y[0] : y[1], x[0] : x[1]] = np.asarray(made)
    return found


def overlaid(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """A photo with heat over it, and the scale of the colours below.

    Args:
        photo: RGB.
        heat: (height, width) of the photo, from `placed`; 0 is white, the largest amount either way the darkest.
    """
    seen = np.isfinite(heat)
    limit = float(np.abs(heat[seen]).max(initial=0.0))
    share = np.where(seen, heat, 0) / (limit or 1.0)
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    table = np.asarray(import_matplotlib().colormaps[COLOURS](np.linspace(0, 1, 256)), np.float32)[:, :3] * 255
    colour = table[np.rint((share + 1) * 127.5).astype(np.int64)]
    weight = _STRONGEST * np.abs(share, dtype=np.float32)[..., None]
    mixed = np.where(seen[..., None], (1 - weight) * grey + weight * colour, _OUTSIDE * grey)
    drawn = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return _with_scale(drawn, table, limit)


def _with_scale(drawn: Image.Image, table: np.ndarray, limit: float) -> Image.Image:
    whole = Image.new("RGB", (drawn.width, drawn.height + 2 * _BAR + 4), "white")
    whole.paste(drawn)
    steps = np.rint(np.linspace(0, 255, drawn.width)).astype(np.int64)
    bar = np.broadcast_to(table[steps], (_BAR, drawn.width, 3))
    whole.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (0, drawn.height))
    write, below = ImageDraw.Draw(whole), drawn.height + _BAR
    for text, anchor, place in ((f"-{limit:.2g}", "la", 2), (f"+{limit:.2g}", "ra", drawn.width - 2)):
        write.text((place, below), text, fill="black", anchor=anchor, font_size=_BAR)
    return whole
