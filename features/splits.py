"""Train and test sides drawn from the content of each image, so that they never move."""

import hashlib

import numpy as np

from features.errors import OptionError

SPLITS = ("train", "val", "test")
"""Names of the splits; a feature file stores positions in this tuple."""


def content_split(content_hashes: np.ndarray, labels: np.ndarray, *, test: float = 0.2, seed: int = 0) -> np.ndarray:
    """Picks the test images of every class by their content alone.

    An image is a test image if a seeded hash of its bytes, read as a number in [0, 1), lies below
    `test`. So it keeps its side when other images are added, removed or renamed, and duplicates
    always share a side. Every class is drawn with the same share; the number of test images of a
    class of m images is therefore binomial, m * test on average. A class of two or more different
    images that would miss a side gives it the image whose number is nearest.

    Args:
        content_hashes: (n, 32) uint8, SHA-256 of each image file.
        labels: (n,) integers.
        test: Share of test images, 0 < test < 1.
        seed: Another seed, another split.

    Returns:
        (n,) bool, True for test images.

    Raises:
        OptionError: `test` is not between 0 and 1.
    """
    if not 0 < test < 1:
        raise OptionError(f"the test share is {test}; needed: a number between 0 and 1, such as 0.2.")
    key = seed.to_bytes(16, "little", signed=True)
    number = {
        content: int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "little") / 2**64
        for content in {row.tobytes() for row in content_hashes}
    }
    contents = [row.tobytes() for row in content_hashes]
    side = {content: value < test for content, value in number.items()}
    for label in np.unique(labels):
        members = {contents[i] for i in np.flatnonzero(labels == label)}
        ordered = sorted(members, key=number.__getitem__)
        if len(ordered) >= 2 and not any(side[c] for c in ordered):
            side[ordered[0]] = True
        elif len(ordered) >= 2 and all(side[c] for c in ordered):
            side[ordered[-1]] = False
    return np.array([side[content] for content in contents], dtype=bool)


def rows_to_score(splits: np.ndarray, part: str, *, drawn: bool, trained_here: bool) -> tuple[np.ndarray, str]:
    """Picks the images that give an honest score.

    Args:
        splits: (n,) positions in `SPLITS`.
        part: A split, "all", or "auto": the test images, else the val images, else all; all at once
            where the split was only drawn and the head was trained on other data.
        drawn: True if the split was drawn from the content, not given by folders.
        trained_here: True if the head was trained on images of the same folder.

    Returns:
        (m,) positions, and the name of the part.

    Raises:
        OptionError: An unknown part.
    """
    if part not in ("auto", "all", *SPLITS):
        raise OptionError(f"--split is {part!r}; needed: auto, all or one of {', '.join(SPLITS)}.")
    if part == "auto":
        present = [name for name in ("test", "val") if (splits == SPLITS.index(name)).any()]
        part = "all" if not present or (drawn and not trained_here) else present[0]
    if part == "all":
        return np.arange(len(splits)), part
    return np.flatnonzero(splits == SPLITS.index(part)), part
