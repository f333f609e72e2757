"""Intervals of scores and of differences between them."""

import math
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""A difference is called significant where p is at most this; intervals cover 1 - ALPHA where nothing else is said."""

Z = 1.96
"""Normal quantile of such an interval."""


@dataclass(frozen=True)
class Difference:
    """What one head scores above another.

    Attributes:
        difference: Score of the first head minus score of the second, in units of the score.
        interval: (low, high) of the difference, 95 % where the test was not asked for another level alpha; it
            leaves out 0 exactly where p <= alpha.
        p: Two-sided p value of "both are equally good", for this pair alone.
    """

    difference: float
    interval: tuple[float, float]
    p: float

    def __neg__(self) -> "Difference":
        """The second head against the first."""
        low, high = self.interval
        return Difference(-self.difference, (-high, -low), self.p)


def wilson_interval(correct: float, total: float, z: float = Z) -> tuple[float, float]:
    """Interval for an accuracy that stays sensible for few images and near 0 or 1.

    Args:
        correct: Images classified correctly, 0 <= correct <= total.
        total: Images scored, or how many images the score is worth. Views of one image count once.
        z: Normal quantile; 1.96 covers about 95 %.

    Returns:
        (low, high) as fractions in [0, 1].

    Raises:
        ValueError: `total` is 0, or `correct` lies outside 0..total.

    Source: E. B. Wilson (1927), J. Am. Stat. Assoc. 22(158), 209-212.

    >>> low, high = wilson_interval(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total}; needed: 0 <= correct <= total and total above 0")
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At the ends the formula is exactly 0 or 1; rounding would put it a hair beside.
    low = 0.0 if correct == 0 else (centre - half) / scale
    high = 1.0 if correct == total else (centre + half) / scale
    return low, high


def weighted_interval(right: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Wilson's, for as many images of one weight as these are worth by L. Kish: (sum)^2 / sum of squares.

    Args:
        right: (n,) bool.
        weights: (n,) how much each image counts, above 0.

    >>> weighted_interval(np.arange(10) < 9, np.ones(10)) == wilson_interval(9, 10)
    True
    """
    size = float(weights.sum() ** 2 / np.square(weights).sum())
    return wilson_interval(min(float(np.average(right, weights=weights)), 1.0) * size, max(size, 1.0))
