"""Groups: images that must stay on one side of a split, such as those of one patient or one video."""

from collections.abc import Sequence

import numpy as np

NO_CONTENT = bytes(32)
"""Content hash of a file that could not be read; two of them are not copies of each other."""


def group_ids(groups: Sequence[str], content_hashes: np.ndarray) -> np.ndarray:
    """Numbers the groups of images; exact copies belong together, whatever their groups are called.

    So a fold that is drawn by these numbers neither tears a group apart nor separates exact copies. Two groups
    that hold copies of one image become one.

    Args:
        groups: n names; "" for an image that is a group of its own. Empty: all of them are.
        content_hashes: (n, 32) uint8, SHA-256 of each image file; zeros if it could not be read.

    Returns:
        (n,) int64 from 0 on, in the order in which the groups appear.
    """
    n = len(content_hashes)
    parents = list(range(n))

    def root(image: int) -> int:
        while parents[image] != image:
            parents[image] = image = parents[parents[image]]
        return image

    first: dict[str | bytes, int] = {}
    for image, (name, row) in enumerate(zip(groups or [""] * n, content_hashes, strict=True)):
        content = row.tobytes()
        for key in ([name] if name else []) + ([content] if content != NO_CONTENT else []):
            low, high = sorted((root(first.setdefault(key, image)), root(image)))
            parents[high] = low
    return np.unique([root(image) for image in range(n)], return_inverse=True)[1].astype(np.int64)


def group_keys(groups: Sequence[str], content_hashes: np.ndarray) -> list[str | bytes]:
    """What the side of each of n images hangs on: the name of its group, or its content if it has none."""
    return [name or row.tobytes() for name, row in zip(groups, content_hashes, strict=True)]
