"""The bits that the images of a data set use, found by one look at those with 16 bits per value."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from onepass.extract.pixels.deep import FULL_DEPTH, bits_for, highest_value
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.features.errors import DataError, UnreadableImageError, opt


def depth_of_images(files: Iterable[ImageFile], *, workers: int | None = None) -> int:
    """Fewest bits that hold the largest value of all images with 16 bits per value; others are not decoded.

    Raises:
        DataError: No image has 16 bits per value.
    """

    def highest(file: ImageFile) -> int | None:
        try:
            return highest_value(read_bytes(file))
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = [value for value in pool.map(highest, files) if value is not None]
    if not found:
        raise DataError(
            f"none of the images has 16 bits per value, so there is no depth to find. Leave {opt.depth} out.",
            depth=FULL_DEPTH,
        )
    return bits_for(max(found))
