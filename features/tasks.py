"""Tasks: what the labels of images are, and what of them is to be spread evenly over the sides of a split."""

import numpy as np

CLASSES, LABELS, NUMBER, NONE = TASKS = ("classes", "labels", "number", "none")
"""One class per image, several labels or none per image, a number per image, no labels at all."""

_BINS = 10
"""Quantiles that numbers are sorted into."""


def strata_of_labels(targets: np.ndarray) -> np.ndarray:
    """The rarest label of each image, so that rare ones are spread as evenly as frequent ones.

    Args:
        targets: (n, k), 1 for the labels of an image; NaN for an image without labels known.

    Returns:
        (n,) int64: a position in the labels, k for images that have none of them, -1 for unknown ones.

    >>> strata_of_labels(np.array([[1, 1], [1, 0], [0, 0], [np.nan, np.nan]])).tolist()
    [1, 0, 2, -1]
    """
    known = np.isfinite(targets).all(axis=1)
    has = targets == 1
    n, k = targets.shape
    order = np.argsort(has.sum(axis=0), kind="stable")
    first = has[:, order].argmax(axis=1) if k else np.zeros(n, np.int64)
    found = np.where(has.any(axis=1), order[first] if k else 0, k)
    return np.where(known, found, -1).astype(np.int64)


def strata_of_numbers(numbers: np.ndarray) -> np.ndarray:
    """The tenth of all numbers that each belongs to; equal numbers share one.

    Args:
        numbers: (n,), NaN for an image without.

    Returns:
        (n,) int64, -1 for unknown ones.

    >>> strata_of_numbers(np.array([5.0, 1.0, np.nan, 5.0])).tolist()
    [3, 0, -1, 3]
    """
    known = np.isfinite(numbers)
    strata = np.full(len(numbers), -1, np.int64)
    rank = np.searchsorted(np.sort(numbers[known]), numbers[known])
    strata[known] = rank * _BINS // max(int(known.sum()), 1)
    return strata
