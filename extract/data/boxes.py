"""Boxes of images as images by name: `street/1@10,20,64,48.jpg` is a part of `street/1.jpg`."""

import os
import re

from onepass.extract.data.stores import PartStore, Stamp
from onepass.extract.pixels.crops import Box, BoxOfImage
from onepass.extract.pixels.image_bytes import ImageFile

_NAME = re.compile(r"(.+)@(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})(\.[^./@]*)?", re.DOTALL)


def box_name(name: str, box: Box | None) -> str:
    """The name of a box of an image; of the whole image without one.

    >>> box_name("street/1.jpg", Box(10, 20, 64, 48))
    'street/1@10,20,64,48.jpg'
    """
    if box is None:
        return name
    stem, ending = os.path.splitext(name)  # noqa: PTH122 (which keeps the name as it is spelled)
    return f"{stem}@{box}{ending}"


def whole_name(name: str) -> str:
    """The name of the image that a box is part of.

    >>> whole_name("street/1@10,20,64,48.jpg")
    'street/1.jpg'
    """
    return _parted(name)[0]


def _parted(name: str) -> tuple[str, Box | None]:
    found = _NAME.fullmatch(name)
    if not found:
        return name, None
    stem, *sides, ending = found.groups()
    return stem + (ending or ""), Box(*map(int, sides))


class BoxStore(PartStore):
    """Boxes of the images in a store."""

    def file(self, name: str) -> ImageFile:
        whole, box = _parted(name)
        file = self.wholes.file(whole)
        return BoxOfImage(file, box) if box else file

    def stamp(self, name: str) -> Stamp:
        return self.wholes.stamp(whole_name(name))
