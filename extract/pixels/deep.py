"""Images with 16 bits per value, of which microscopes and X-ray machines often use fewer."""

import io
import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageFile

from onepass.extract.pixels.crops import parted
from onepass.extract.pixels.formats import opened
from onepass.features.errors import UnreadableImageError

FULL_DEPTH = 16

_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""How Pillow names the order of bytes of which it keeps the upper one -> the name by which it keeps the lower one."""


def is_deep(image: Image.Image) -> bool:
    """True for an image whose file gives 16 bits to each value and does not say how many are in use.

    JPEG 2000 does say, and Pillow has scaled its values. To be asked before the image is loaded.
    """
    if image.format == "JPEG2000":
        return False
    return image.mode.startswith("I;16") or _rawmode(image).endswith(tuple(_OTHER_BYTE))


def highest_of_upper_bytes(image: Image.Image) -> int:
    """The largest value that 16-bit colours may have of which Pillow kept the upper 8 bits."""
    return max(high for _, high in image.convert("RGB").getextrema()) << 8 | 255  # type: ignore[misc]


def deep_values(image: Image.Image, data: bytes, *, always: bool = False) -> np.ndarray | None:
    """The values of a grey or colour image with 16 bits each; None for all other images.

    Args:
        image: Opened by Pillow, not loaded yet.
        data: The bytes of its file.
        always: Whether to read colours too, of which Pillow gives the upper 8 bits: in two passes, one a byte.

    Returns:
        (h, w), or (h, w, 3 or 4), uint16.

    Raises:
        UnreadableImageError: Pillow gives the lower 8 bits in no way.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if not always or not is_deep(image):
        return None
    rawmode = _rawmode(image)
    if not rawmode.startswith("RGB"):
        raise UnreadableImageError("16 bits per value and transparency; convert it to 16-bit grey or colours first")
    upper, lower = np.asarray(image).astype(np.uint16), _lower_bytes(data, image.format, rawmode)
    return np.asarray((upper << 8) | lower)


def _lower_bytes(data: bytes, kind: str | None, rawmode: str) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=[kind or ""]) as image:
        order = rawmode[-3:]
        swapped = rawmode.removesuffix(order) + _OTHER_BYTE[order]
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in image.tile
        ]
        return np.asarray(image)


def highest_value(data: bytes) -> int | None:
    """The largest value of an image file with 16 bits per value; None, without decoding it, for all others.

    Raises:
        UnreadableImageError: With the reason.
    """
    with opened(data) as image:
        data = parted(data)[1]
        values = deep_values(image, data, always=True) if is_deep(image) else None
        return None if values is None else int(values.max())


def bits_for(highest: int) -> int:
    """Fewest bits, 1 to 16, that hold a value.

    >>> bits_for(4095), bits_for(4096)
    (12, 13)
    """
    return max(highest.bit_length(), 1)


def describe_depth(highest: Sequence[int], depth: int) -> list[str]:
    """What to tell of images with 16 bits per value: those that are too dark at a depth, and those that are cut off.

    Args:
        highest: The largest value of each.
        depth: The bits taken to be in use.
    """
    lines = []
    dark = [value for value in highest if bits_for(value) < depth - 1]
    if len(dark) * 10 > len(highest):  # fewer may be dark indeed
        bits = bits_for(max(highest))
        lines.append(
            f"{len(dark)} of {len(highest)} images with 16 bits per value leave the upper bits empty and come out "
            f"dark: their largest value is {max(dark)}, of {2**depth - 1}. "
            + (
                f"Extract again with depth {bits} and another out"
                if bits < depth
                else "If others come from another machine, extract them apart"
            )
        )
    if cut := sum(value >= 2**depth for value in highest):
        lines.append(
            f"{cut} of {len(highest)} images with 16 bits per value hold values above {2**depth - 1}, the largest of "
            f"depth {depth}; these became white"
        )
    return lines


def _rawmode(image: Image.Image) -> str:
    """How the pixels of an image that is not loaded lie in its file, by Pillow's name."""
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def to_bytes(values: np.ndarray, depth: int) -> np.ndarray:
    """Scales 16-bit values to 8 bits: 0 to 2**depth - 1 become 0 to 255, and what is larger becomes 255.

    All 16 bits keep the upper 8 bits, as ever.
    """
    return np.asarray((values >> 8).astype(np.uint8) if depth == FULL_DEPTH else _table(depth)[values])


@cache
def _table(depth: int) -> np.ndarray:
    """(2**16,) uint8: what each value becomes."""
    top = 2**depth - 1
    return np.asarray((np.minimum(np.arange(2**16), top) * 255 + top // 2) // top, np.uint8)
