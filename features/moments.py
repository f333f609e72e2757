"""Mean and covariance of rows that do not fit into memory together."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean and covariance of n rows of width d.

    Attributes:
        n: Number of rows.
        mean: (d,) float64.
        covariance: (d, d) float64, divided by n.
    """

    n: int
    mean: np.ndarray
    covariance: np.ndarray


def moments(pieces: Iterable[np.ndarray]) -> Moments:
    """Mean and covariance from one pass over (m, d) float32 pieces, which hold at least one row together.

    Sums of squares are taken about the mean of the first piece: about a point near the mean they lose no digits.

    >>> moments([np.array([[0, 1], [2, 1]], np.float32), np.array([[4, 1]], np.float32)]).mean.tolist()
    [2.0, 1.0]
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
