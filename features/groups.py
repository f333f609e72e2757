"""Groups: images that must stay on one side of a split, such as those of one patient or one video."""

from collections.abc import Sequence

import numpy as np

NO_CONTENT = bytes(32)
"""Content hash of a file that could not be read; two of them are not copies of each other."""


def group_ids(groups: Sequence[str], content_hashes: np.ndarray, copies: np.ndarray | None = None) -> np.ndarray:
    """Numbers the groups of images; copies belong together, whatever their groups are called.

    So a fold that is drawn by these numbers neither tears a group apart nor separates exact copies. Two groups
    that hold copies of one image become one.

    Args:
        groups: n names; "" for an image that is a group of its own. Empty: all of them are.
        content_hashes: (n, 32) uint8, SHA-256 of each image file; zeros if it could not be read.
        copies: (n,) integers, equal for copies of one picture that are not equal byte for byte.

    Returns:
        (n,) int64 from 0 on, in the order in which the groups appear.
    """
    found = Groups(len(content_hashes))
    if copies is not None:
        found.join_equal(copies)
    contents = [content if content != NO_CONTENT else b"" for content in map(np.ndarray.tobytes, content_hashes)]
    every: tuple[Sequence[str | bytes], ...] = (groups, contents)
    for keys in every:
        first: dict[str | bytes, int] = {}
        named = [(first.setdefault(key, image), image) for image, key in enumerate(keys) if key]
        found.join(*np.array(named, np.int64).reshape(-1, 2).T)
    return np.unique(found.of, return_inverse=True)[1].astype(np.int64)


class Groups:
    """Images that are put together pair by pair.

    >>> groups = Groups(5)
    >>> groups.join(np.array([3, 4]), np.array([0, 3]))
    >>> groups.of.tolist()
    [0, 1, 2, 0, 0]

    Args:
        n: Images; at first each is alone.

    Attributes:
        of: (n,) int64, the lowest position in the group of each image.
    """

    def __init__(self, n: int) -> None:
        self.of = np.arange(n)

    def apart(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the pairs (m,) and (m,) whose images are not in one group yet."""
        apart = self.of[first] != self.of[second]
        return first[apart], second[apart]

    def join_equal(self, values: np.ndarray) -> None:
        """Puts images together that have the same of (n,) values."""
        _, first, member = np.unique(values, return_index=True, return_inverse=True)
        self.join(np.arange(len(self.of)), first[member])

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Puts the images of each pair (m,) and (m,) into one group, with all that they are together with."""
        while len((pairs := self.apart(first, second))[0]):
            first, second = pairs
            groups = self.of[first], self.of[second]
            lowest = np.arange(len(self.of))
            np.minimum.at(lowest, np.maximum(*groups), np.minimum(*groups))
            while not np.array_equal(further := lowest[lowest], lowest):
                lowest = further
            self.of = lowest[self.of]


def group_keys(groups: Sequence[str], content_hashes: np.ndarray) -> list[str | bytes]:
    """What the side of each of n images hangs on: the name of its group, or its content if it has none."""
    return [name or row.tobytes() for name, row in zip(groups, content_hashes, strict=True)]
