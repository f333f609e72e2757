"""Has this content been seen? Images are known by the SHA-256 of their file, or by its first bytes."""

from collections.abc import Iterable

import numpy as np


def seen_before(content_hashes: np.ndarray, seen: Iterable[np.ndarray]) -> np.ndarray:
    """Which contents are among those that were seen.

    Args:
        content_hashes: (n, 32) uint8.
        seen: Hashes of what was seen, or as many first bytes of each as are kept; uint8, all of one length.

    Returns:
        (n,) bool.

    >>> hashes = np.arange(64, dtype=np.uint8).reshape(2, 32)
    >>> seen_before(hashes, hashes[1:, :8]).tolist()
    [False, True]
    """
    known = {one.tobytes() for one in seen}
    length = len(next(iter(known), b""))
    return np.array([content[:length].tobytes() in known for content in content_hashes], bool)
