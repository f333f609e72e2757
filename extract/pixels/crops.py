"""A box of an image as an image of its own: the bytes of the whole image, with the box in front of them."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.features.errors import UnreadableImageError

_HEAD = re.compile(rb"onepass box (\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})\n")


class Box(NamedTuple):
    """Part of an image, in whole pixels of the image as it is seen: turned as its EXIF says."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


def boxed(data: bytes, box: Box) -> bytes:
    """The bytes that a box of an image has, so that its content is that of the image and the box.

    >>> parted(boxed(b"an image", Box(10, 20, 64, 48)))
    (Box(left=10, top=20, width=64, height=48), b'an image')
    """
    return f"onepass box {box}\n".encode() + data


def parted(data: bytes) -> tuple[Box | None, bytes]:
    """The box and the bytes of the whole image; None for those of any other image, and its bytes."""
    head = _HEAD.match(data)
    return (Box(*map(int, head.groups())), data[head.end() :]) if head else (None, data)


@dataclass(frozen=True)
class BoxOfImage:
    """A box of an image, read as an image of its own.

    Attributes:
        whole: What the image is read from.
        box: The part of it.
    """

    whole: ImageFile
    box: Box

    def read(self) -> bytes:
        return boxed(read_bytes(self.whole), self.box)

    def __str__(self) -> str:
        return f"{self.whole}, box {self.box}"


def area(size: tuple[int, int], box: Box | None) -> tuple[int, int, int, int]:
    """Left, top, right and lower edge of the part of an image that lies in a box; of all of it without one.

    Args:
        size: Width and height, pixels.
        box: The box.

    Raises:
        UnreadableImageError: Nothing of the image lies in it.

    >>> area((640, 480), Box(600, 0, 100, 50))
    (600, 0, 640, 50)
    """
    width, height = size
    if box is None:
        return 0, 0, width, height
    right, lower = min(box.left + box.width, width), min(box.top + box.height, height)
    if box.left >= right or box.top >= lower:
        raise UnreadableImageError(f"its box {box} lies outside of {width} x {height} pixels")
    return box.left, box.top, right, lower


def cut(image: Image.Image, box: Box | None) -> Image.Image:
    """The part of an image that lies in a box; all of it without one.

    Raises:
        UnreadableImageError: Nothing of it does.
    """
    return image.crop(area(image.size, box)) if box else image
