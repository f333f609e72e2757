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


def rows_to_score(
    splits: np.ndarray, content_hashes: np.ndarray, part: str, *, drawn: bool, seen: np.ndarray
) -> tuple[np.ndarray, str]:
    """Picks the images that give an honest score of a head.

    Args:
        splits: (n,) positions in `SPLITS`.
        content_hashes: (n, 32) uint8.
        part: A split, "all", "unseen" for the images whose content the head was not trained on, or
            "auto": the test folder, else the val folder, else (no split folders) unseen.
        drawn: True if the split was drawn from the content, not given by folders.
        seen: (m, 8) uint8, first bytes of the content hashes that the head was trained on.

    Returns:
        (k,) positions, and the name of the part.

    Raises:
        OptionError: An unknown part.
    """
    if part not in ("auto", "all", "unseen", *SPLITS):
        raise OptionError(f"--split is {part!r}; needed: auto, all, unseen or one of {', '.join(SPLITS)}.")
    if part == "auto":
        present = [name for name in ("test", "val") if (splits == SPLITS.index(name)).any()]
        part = "unseen" if drawn or not present else present[0]
    if part == "all":
        return np.arange(len(splits)), part
    if part == "unseen":
        known = {row.tobytes() for row in seen}
        return np.array([i for i, h in enumerate(content_hashes) if h[:8].tobytes() not in known], np.int64), part
    return np.flatnonzero(splits == SPLITS.index(part)), part
