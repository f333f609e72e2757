"""How the answer of any head changes where a part of the image is hidden."""

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from onepass.extract import Engine

Key = TypeVar("Key", bound=Hashable)

GREY = 128
"""What hides a part of an image: the middle of 0..255."""


def passes(places: int) -> int:
    """How often an image goes through the network: hidden at places x places, and whole."""
    return places**2 + 1


def hidden(image: np.ndarray, places: int) -> Iterator[np.ndarray]:
    """An image with a grey patch over each of places x places, row by row.

    A patch is twice as wide and high as a place, around its middle, so that neighbours overlap.

    Args:
        image: (s, s, 3).
        places: Along each side.
    """
    side = len(image)
    starts = [max(round((i - 0.5) * side / places), 0) for i in range(places)]
    ends = [round((i + 1.5) * side / places) for i in range(places)]
    for top, bottom in zip(starts, ends, strict=True):
        for left, right in zip(starts, ends, strict=True):
            covered = image.copy()
            covered[top:bottom, left:right] = GREY
            yield covered


class OccludingEngine:
    """An engine that gives the rows of an image and of all its hidden variants, (places ** 2 + 1, d).

    Args:
        whole: What computes the rows.
        places: Along each side.
    """

    def __init__(self, whole: Engine, places: int) -> None:
        self.name, self._whole, self._places = whole.name, whole, places

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
        def variants() -> Iterator[tuple[tuple[Key, int], np.ndarray]]:
            for key, image in images:
                yield (key, 0), image
                yield from (((key, i), one) for i, one in enumerate(hidden(image, self._places), 1))

        unfinished: dict[Key, dict[int, np.ndarray]] = {}
        for (key, number), row in self._whole.run(variants()):
            rows = unfinished.setdefault(key, {})
            rows[number] = row
            if len(rows) == passes(self._places):
                del unfinished[key]
                yield key, np.stack([rows[i] for i in range(len(rows))])
