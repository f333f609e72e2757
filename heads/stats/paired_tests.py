"""Differences between two heads that were scored on the same images, by counting who is right."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from onepass.features.errors import TrainingError
from onepass.heads.stats.bootstrap import RESAMPLES, paired_difference, resample
from onepass.heads.stats.intervals import ALPHA, Difference

_Z = 1.959963984540054  # normal quantile of 1 - ALPHA / 2


def mcnemar(a_right: np.ndarray, b_right: np.ndarray) -> float:
    """Exact two-sided McNemar test of two heads' accuracies on the same images.

    Only images that one head gets right and the other wrong tell the heads apart. If both are equally good, each
    of them is right for half of these: p is that of the binomial test of one half.

    Args:
        a_right: (n,) bool, which images the first head gets right.
        b_right: (n,) bool, the same for the second.

    Returns:
        p in (0, 1]; 1 if no image tells the heads apart.

    Source: Q. McNemar (1947), Psychometrika 12(2), 153-157.

    >>> mcnemar(np.ones(6, bool), np.zeros(6, bool))
    0.03125
    """
    from scipy.stats import binomtest  # two thirds of a second, which only those who compare heads pay

    first, second = _wins(a_right, b_right)
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def paired_accuracy(a_right: np.ndarray, b_right: np.ndarray) -> Difference:
    """Difference between two heads' accuracies on the same images, independent of each other.

    The interval is Bonett and Price's: Wald's after adding one image that only the first head gets
    right and one that only the second does. Its coverage, summed exactly over all tables for 36 pairs
    of true rates and n = 50, 100, 200, 500, is 0.949 at least; Tango's score interval goes down to 0.931.

    p is McNemar's. Being exact it is the more cautious of the two, and it decides: where p > 0.05 but
    the interval leaves out 0 (1 to 2 data sets in 100, by the same sums) the interval is extended to 0.
    The opposite, p <= 0.05 with 0 inside, does not happen.

    Args:
        a_right: (n,) bool, which images the first head gets right.
        b_right: (n,) bool, the same for the second.

    Raises:
        TrainingError: n is 0.

    Source: D. G. Bonett, R. M. Price (2012), J. Educ. Behav. Stat. 37(4), 479-488; recommended by Fagerland,
    Lydersen, Laake (2014), Stat. Med. 33(16), 2850-2875, whose exact p this goes with.

    >>> found = paired_accuracy(np.ones(20, bool), np.arange(20) >= 8)
    >>> found.difference, found.p
    (0.4, 0.0078125)
    """
    n = len(a_right)
    if n == 0:
        raise TrainingError("there are no images to compare heads on; needed: at least 1.")
    first, second = _wins(a_right, b_right)
    p = mcnemar(a_right, b_right)
    p_first, p_second = (first + 1) / (n + 2), (second + 1) / (n + 2)
    centre = p_first - p_second
    half = _Z * math.sqrt((p_first + p_second - centre**2) / (n + 2))
    low, high = max(centre - half, -1.0), min(centre + half, 1.0)
    if p > ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference((first - second) / n, (low, high), p)


def paired_balanced(a_right: np.ndarray, b_right: np.ndarray, y: np.ndarray) -> Difference:
    """Difference between two heads' balanced accuracies on the same images, independent of each other.

    Bonett and Price's idea within each class: a quarter of an image that only the first head gets right and a
    quarter of one that only the second does are added, then the classes' differences and variances are
    averaged, and p is that of the normal distribution. Without the quarters a class in which one head
    happened to make no mistake would count as known: with 20 images of the rarer of two
    classes and equally good heads that err in different classes, a bootstrap called them different
    in 0.38 of the data sets instead of 0.05; this in 0.06 at most, over ten kinds of data and 50 to 1000 images.

    Args:
        a_right: (n,) bool, which images the first head gets right.
        b_right: (n,) bool, the same for the second.
        y: (n,) true classes; classes without images do not count.

    Raises:
        TrainingError: n is 0.
    """
    if len(y) == 0:
        raise TrainingError("there are no images to compare heads on; needed: at least 1.")
    found = []
    for label in np.unique(y):
        first, second = _wins(a_right[y == label], b_right[y == label])
        n = int((y == label).sum())
        p_first, p_second = (first + 0.25) / (n + 0.5), (second + 0.25) / (n + 0.5)
        gap = p_first - p_second
        found.append(((first - second) / n, gap, (p_first + p_second - gap**2) / (n + 0.5)))
    difference, centre, variance = np.mean(found, axis=0)
    error = math.sqrt(variance / len(found))
    low, high = min(centre - _Z * error, difference), max(centre + _Z * error, difference)
    p = math.erfc(abs(centre) / error / math.sqrt(2))
    return Difference(float(difference), (max(float(low), -1.0), min(float(high), 1.0)), p)


def paired_differences(
    name: str,
    probabilities: Sequence[np.ndarray],
    y: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Callable[[int, int], Difference]:
    """Prepares heads for `compare_all`: (i, j) -> head i minus head j by the test that suits the metric.

    Accuracy and balanced accuracy of independent images are tested by counting; all else, and all images
    in groups, by a bootstrap, for which each head is scored once.

    Args:
        name: One of `METRICS`; pass `higher_is_better=HIGHER_IS_BETTER[name]` to `compare_all`.
        probabilities: m arrays (n, k).
        y: (n,) true classes.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        groups: (n,) what belongs together, if not every image is on its own.

    Raises:
        OptionError: The metric is unknown or `resamples` too small.
        TrainingError: There are too few images, groups or classes.
    """
    if groups is None and name in {"accuracy", "balanced"}:
        right = [p.argmax(axis=1) == y for p in probabilities]
        if name == "accuracy":
            return lambda i, j: paired_accuracy(right[i], right[j])
        return lambda i, j: paired_balanced(right[i], right[j], y)
    heads = [resample(name, p, y, resamples=resamples, seed=seed, groups=groups) for p in probabilities]
    return lambda i, j: paired_difference(heads[i], heads[j])


def _wins(a_right: np.ndarray, b_right: np.ndarray) -> tuple[int, int]:
    """Images that only the first head gets right, and that only the second does."""
    a, b = np.asarray(a_right, bool), np.asarray(b_right, bool)
    return int((a & ~b).sum()), int((b & ~a).sum())
