"""Images that are far from all others, by the distance of their nearest neighbours."""

from typing import NamedTuple

import numpy as np

NEIGHBOURS = 10
UNLIKELY = 3.0
"""Robust standard deviations of the log distance from which on an image is listed; of a normal
distribution, 1 in 700 lies beyond."""
CLEAR = 5.0
"""From here on it is listed, however many there are."""
SHARE = 0.01
"""Of those below `CLEAR`, at most this share of all images is listed."""
FEWEST = 30
"""With fewer images nothing is listed."""

BLOCK = 2**24


class Outliers(NamedTuple):
    """Images far from all others, the farthest first.

    Attributes:
        positions: (m,) int64.
        distances: (m,) float64, mean cosine distance, 0 to 2, to the 10 nearest training images.
        scores: (m,) float64, robust standard deviations above the median.
    """

    positions: np.ndarray
    distances: np.ndarray
    scores: np.ndarray


def find_outliers(x: np.ndarray, trained: np.ndarray) -> Outliers:
    """Images whose nearest training images are far.

    The logarithms of the distances are measured from their median in units of 1.4826 times their
    median absolute deviation, the standard deviation of a normal distribution; so outliers do not
    hide each other, and a data set cannot be unusual as a whole.

    Args:
        x: (n, d) plain rows.
        trained: (n,) bool, True for training images.

    Source: of distances to the k nearest neighbours for this: Ramaswamy, Rastogi and Shim (2000), SIGMOD;
    of the scale: Rousseeuw and Croux (1993), J. Am. Stat. Assoc. 88(424), 1273-1283.
    """
    if min(len(x), trained.sum()) < FEWEST:
        return Outliers(np.empty(0, np.int64), np.empty(0), np.empty(0))
    distances = neighbour_distances(x, trained)
    # Rows that are equal have distance 0, or a rounding error.
    logs = np.log(np.maximum(distances, 1e-6))
    deviations = logs - np.median(logs)
    scores = deviations / max(1.4826 * float(np.median(np.abs(deviations))), 1e-6)
    order = np.argsort(-scores, kind="stable")
    listed = max(int((scores >= CLEAR).sum()), min(int((scores >= UNLIKELY).sum()), int(np.ceil(SHARE * len(x)))))
    chosen = order[:listed]
    return Outliers(chosen, distances[chosen], scores[chosen])


def neighbour_distances(x: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """(n,) float64: mean cosine distance of each row to its 10 nearest training rows, itself not counted."""
    # In double precision, where squares of huge rows are not infinite.
    lengths = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    unit = (x / np.maximum(lengths, 1e-12)).astype(np.float32)
    memory = np.flatnonzero(trained)
    own = np.full(len(x), -1)
    own[memory] = np.arange(len(memory))
    distances = np.empty(len(x))
    step = max(1, BLOCK // len(memory))
    for start in range(0, len(x), step):
        cosines = unit[start : start + step] @ unit[memory].T
        itself = own[start : start + step]
        cosines[itself >= 0, itself[itself >= 0]] = -2
        nearest = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        distances[start : start + step] = 1 - nearest.mean(axis=1, dtype=np.float64)
    return distances
