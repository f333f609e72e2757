"""Draws train and test sides where folders give none, and leaves every image on the side it was given before."""

from collections.abc import Sequence

import numpy as np

from onepass.features import SPLITS, ImageTable, content_split
from onepass.features.groups import group_keys

TRAIN, TEST = SPLITS.index("train"), SPLITS.index("test")


def draw_splits(
    labels: np.ndarray,
    hashes: np.ndarray,
    groups: Sequence[str],
    *,
    copies: np.ndarray | None = None,
    known: ImageTable | None,
    seed: int,
) -> np.ndarray:
    """Splits of the images of a folder that has no split folders; see `features.content_split`.

    A group that has its side already keeps it, and so does an image that was and is a group of its own. An image
    whose group has changed goes with its group now.

    Args:
        labels: (n,) integers.
        hashes: (n, 32) uint8, content hashes; a file that could not be read is a training image.
        groups: n names.
        copies: (n,) integers, equal for copies of one picture; None as long as nobody has looked.
        known: Table of an earlier scan whose split was drawn.
        seed: Another seed, another split.

    Returns:
        (n,) uint8, positions of train and test in `features.SPLITS`.
    """
    usable = np.flatnonzero(hashes.any(axis=1))
    names = [groups[i] for i in usable.tolist()]
    before = _sides(known) if known else {}
    kept = np.array([before.get(key, -1) for key in group_keys(names, hashes[usable])], np.int8)
    splits = np.full(len(hashes), TRAIN, np.uint8)
    alike = None if copies is None else copies[usable]
    chosen = content_split(hashes[usable], labels[usable], groups=names, copies=alike, kept=kept, seed=seed)
    splits[usable[chosen]] = TEST
    return splits


def _sides(known: ImageTable) -> dict[str | bytes, int]:
    """Name or content of each group -> 1 if it is on the test side, else 0."""
    keys = group_keys(known.groups, known.content_hashes)
    readable = np.flatnonzero(known.content_hashes.any(axis=1)).tolist()
    return {keys[i]: int(known.splits[i] == TEST) for i in readable}
