"""What anyone can compute of a photo, as numbers and labels for heads to learn: no annotation is needed."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

_SIDE = 224
_EDGE = 0.25
"""Sobel gradient of the grey values, 0 to 1, from which on a pixel lies on an edge."""


def numbers_of(path: Path) -> dict[str, float]:
    """Facts on a photo.

    - brightness: mean grey value, 0 to 255.
    - colourfulness: D. Hasler and S. Susstrunk (2003), Measuring colourfulness in natural images, eq. 3.
    - edges: share of the pixels, at 224 px, whose Sobel gradient is 0.25 or more.
    - kilobytes: size of the file.
    - contrast: standard deviation of the grey values.
    - red: mean of red minus mean of the other two channels.
    - portrait: height over width.
    """
    with Image.open(path) as image:
        ratio = image.height / image.width
        pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE)), np.float64)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    grey = pixels @ [0.299, 0.587, 0.114]
    opponents = (red - green, (red + green) / 2 - blue)
    spread, middle = (np.hypot(*(part(one) for one in opponents)) for part in (np.std, lambda one: abs(one.mean())))
    gradient = np.hypot(ndimage.sobel(grey / 255, 0), ndimage.sobel(grey / 255, 1)) / 4
    return {
        "brightness": float(grey.mean()),
        "colourfulness": float(spread + 0.3 * middle),
        "edges": float((gradient >= _EDGE / 4).mean()),
        "kilobytes": path.stat().st_size / 1000,
        "contrast": float(grey.std()),
        "red": float(red.mean() - (green.mean() + blue.mean()) / 2),
        "portrait": ratio,
    }


def patches_of(path: Path) -> np.ndarray:
    """(192,) mean red, green and blue of the 8 x 8 patches of a photo."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), np.float64).reshape(-1)
