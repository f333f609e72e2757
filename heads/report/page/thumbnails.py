"""Pictures of images, small enough that a page of them can be mailed."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from onepass.extract import LabelledPixels
from onepass.features import FeatureFile
from onepass.features.errors import DataError
from onepass.features.thumbnails import SIDE as GREY_SIDE

MOST = 200
"""Pictures of a page, unless somebody says otherwise."""
_SIDE = 176
_ROOM = 1_200_000
"""Characters that all pictures may take together."""
_QUALITIES = (58, 45, 32, 20)
_ATLAS_ROOM = 450_000
_ATLAS_ACROSS = 64
_MOST_IN_ATLAS = 4096


@dataclass(frozen=True)
class Picture:
    """A picture as an address that holds it.

    Attributes:
        url: data:image/webp;base64,...
        width, height: Pixels.
        grey: Whether it is the 24-pixel thumbnail that the feature file keeps, because the image is gone.
    """

    url: str
    width: int
    height: int
    grey: bool = False


@dataclass(frozen=True)
class Pictures:
    """All pictures of a page.

    Attributes:
        of: Position in the feature file -> its picture.
        heat: The same -> its picture with heat.
        gone: How many images were not there any more, or could not be read.
        why: Why the first of them was not.
        left_out: How many more would have been shown without the limit.
    """

    of: Mapping[int, Picture] = field(default_factory=dict)
    heat: Mapping[int, Picture] = field(default_factory=dict)
    gone: int = 0
    why: str = ""
    left_out: int = 0


def pictures_of(
    file: FeatureFile,
    wanted: Sequence[int],
    *,
    data: Sequence[Path] = (),
    most: int = MOST,
    heat: Mapping[int, np.ndarray] | None = None,
) -> Pictures:
    """Reads images and makes them small; where one is gone, its grey thumbnail stands for it.

    Args:
        file: The feature file that knows them.
        wanted: Their positions, the most important first.
        data: Where the images lie now; by default where they were.
        most: How many at most.
        heat: Position -> (h, w, 3) uint8 to show beside the picture.
    """
    some, both = _chosen(wanted, heat or {}, most)
    found, why = _read(file, some, data)
    known = {i: image for i, image in zip(some, found, strict=True) if image is not None}
    marked = {i: _small(both[i]) for i in both}
    quality = _quality([*known.values(), *marked.values()])
    grey = file.thumbnails if len(known) < len(some) else None
    shown = {i: _picture(image, quality) for i, image in known.items()}
    for i in some:
        if i not in shown and grey is not None and grey[i].any():
            shown[i] = _picture(Image.fromarray(grey[i]).convert("RGB"), 60, grey=True)
    return Pictures(
        of={i: shown[i] for i in some if i in shown},
        heat={i: _picture(image, quality) for i, image in marked.items()},
        gone=len(some) - len(known),
        why=why,
        left_out=len(wanted) - len(some),
    )


def _chosen(
    wanted: Sequence[int], heat: Mapping[int, np.ndarray], most: int
) -> tuple[list[int], dict[int, np.ndarray]]:
    """As many images as there is room for, the first ones, and those of them that are shown with heat too."""
    some: list[int] = []
    both: dict[int, np.ndarray] = {}
    for i in wanted:
        if len(some) + len(both) >= most:
            break
        some.append(i)
        if i in heat and len(some) + len(both) < most:
            both[i] = heat[i]
    return some, both


def atlas_of(thumbnails: np.ndarray) -> str:
    """One picture of (m, 24, 24) uint8 thumbnails, 64 in a line, as an address; "" where there are too many or none."""
    if not len(thumbnails) or len(thumbnails) > _MOST_IN_ATLAS or not thumbnails.any():
        return ""
    lines = -(-len(thumbnails) // _ATLAS_ACROSS)
    tiles = np.zeros((lines * _ATLAS_ACROSS, GREY_SIDE, GREY_SIDE), np.uint8)
    tiles[: len(thumbnails)] = thumbnails
    whole = tiles.reshape(lines, _ATLAS_ACROSS, GREY_SIDE, GREY_SIDE).transpose(0, 2, 1, 3)
    image = Image.fromarray(whole.reshape(lines * GREY_SIDE, _ATLAS_ACROSS * GREY_SIDE)).convert("RGB")
    for quality in (40, 20, 5):
        url = _url(image, quality)
        if len(url) <= _ATLAS_ROOM:
            return url
    return ""


def _read(file: FeatureFile, some: Sequence[int], data: Sequence[Path]) -> tuple[list[Image.Image | None], str]:
    """Small images, None for those that are gone; and why the first of these is."""
    try:
        source = LabelledPixels(file, data=data)
    except DataError as error:
        return [None] * len(some), error.spelled(as_typed)

    def one(position: int) -> Image.Image | str:
        try:
            return _small(source.whole(position))
        except DataError as error:
            return error.spelled(as_typed)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = list(pool.map(one, some))
    reasons = [image for image in found if isinstance(image, str)]
    return [None if isinstance(image, str) else image for image in found], reasons[0] if reasons else ""


def as_typed(name: str, *value: object) -> str:
    """A parameter as it is typed where a report is made."""
    return " ".join((f"--{name.replace('_', '-')}", *map(str, value)))


def _small(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image


def _quality(images: Sequence[Image.Image]) -> int:
    """The best quality at which all of them fit, judged by at most 40 of them."""
    some = images[:: max(1, len(images) // 40)]
    for quality in _QUALITIES:
        if sum(len(_url(image, quality)) for image in some) * len(images) <= _ROOM * max(len(some), 1):
            return quality
    return _QUALITIES[-1]


def _picture(image: Image.Image, quality: int, *, grey: bool = False) -> Picture:
    return Picture(_url(image, quality), image.width, image.height, grey)


def _url(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
