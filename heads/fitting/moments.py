"""Mean and covariance of rows that come in pieces."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Of rows of width d.

    Attributes:
        n: How many.
        mean: (d,) float64.
        covariance: (d, d) float64, divided by n.
    """

    n: int
    mean: np.ndarray
    covariance: np.ndarray


def moments(pieces: Iterable[np.ndarray]) -> Moments:
    """Moments of (m, d) float32 pieces, from one pass over them; there must be a row.

    Sums of squares are taken about the mean of the first piece: about a point near the mean they lose no digits.
    """
    count, about, total, squares = 0, np.zeros(0), np.zeros(0), np.zeros((0, 0))
    for rows in pieces:
        if not count:
            width = rows.shape[1]
            about, total, squares = rows.mean(axis=0), np.zeros(width), np.zeros((width, width))
        around = rows - about
        count += len(rows)
        total += around.sum(axis=0, dtype=np.float64)
        squares += around.T @ around
    offset = total / count
    squares /= count
    squares -= np.outer(offset, offset)
    return Moments(count, about + offset, squares)
