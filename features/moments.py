"""Mean and covariance of rows that do not fit into memory together, and whether they differ at all."""

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


def all_equal(pieces: Iterable[np.ndarray]) -> bool:
    """Whether all rows are one row, but for rounding: 1e-6 of its largest number. Ends at the first that is another.

    Args:
        pieces: Rows in pieces, (..., d) float.

    >>> all_equal([np.ones((2, 3)), np.ones((1, 3))]), all_equal([np.eye(3)])
    (True, False)
    """
    first = None
    for rows in pieces:
        flat = rows.reshape(-1, rows.shape[-1])
        if len(flat) == 0:
            continue
        first = flat[0].astype(np.float64) if first is None else first
        # The largest finite differences of float32 are beyond float32.
        if any(np.abs(some - first).max() > 1e-6 * np.abs(first).max() for some in _pieces(flat)):
            return False
    return first is not None


def _pieces(rows: np.ndarray, size: int = 1024) -> Iterable[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


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
        if np.abs(around).max(initial=0) > 1e15:  # whose squares are too large for float32
            around = around.astype(np.float64)
        count += len(rows)
        total += around.sum(axis=0, dtype=np.float64)
        squares += around.T @ around
    offset = total / count
    squares /= count
    squares -= np.outer(offset, offset)
    return Moments(count, about + offset, squares)
