"""Differences between two heads that were scored on the same images, by counting who is right."""

import math
from collections.abc import Sequence

import numpy as np

from onepass.features.errors import TrainingError
from onepass.heads.stats.bootstrap import effective_size, paired_bootstrap_test, resample, resamples_for
from onepass.heads.stats.detectable import POWER, detectable_accuracy, detectable_shift, more_discordant
from onepass.heads.stats.intervals import ALPHA, Difference
from onepass.heads.stats.metrics import SHARES
from onepass.heads.stats.multiple_comparison import PairedTest


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
    return _mcnemar(*_wins(a_right, b_right))


def _mcnemar(first: int, second: int) -> float:
    from scipy.stats import binomtest  # two thirds of a second, which only those who compare heads pay

    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def paired_accuracy(a_right: np.ndarray, b_right: np.ndarray, *, alpha: float = ALPHA) -> Difference:
    """Difference between two heads' accuracies on the same images, independent of each other.

    The interval is Bonett and Price's: Wald's after adding one image that only the first head gets
    right and one that only the second does. Its coverage, summed exactly over all tables for 36 pairs
    of true rates and n = 50, 100, 200, 500, is 0.949 at least; Tango's score interval goes down to 0.931.
    Below alpha = 0.05, where one image is too few (it misses up to 3.3 times as often as it may at
    0.05 / 120), z^2 / 4 of each are added, which is 1 at 0.05: at 0.05 / 36 and 0.05 / 120 and n = 50, 153, 500
    it misses half as often as it may on average, and 1.27 times at most.

    p is McNemar's. Being exact it is the more cautious of the two, and it decides: where p > alpha but
    the interval leaves out 0 (1 to 2 data sets in 100 at 0.05, by the same sums) the interval is extended to 0.
    The opposite does not happen at 0.05; at smaller alpha it does where few images tell the heads apart, and the near
    end is then that of the exact test: Clopper and Pearson's limit for the share of these images.

    Args:
        a_right: (n,) bool, which images the first head gets right.
        b_right: (n,) bool, the same for the second.
        alpha: Of the interval, which covers 1 - alpha and leaves out 0 exactly where p <= alpha.

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
    return accuracy_difference(*_wins(a_right, b_right), n, alpha=alpha)


def accuracy_difference(first: int, second: int, n: int, *, alpha: float = ALPHA) -> Difference:
    """`paired_accuracy` from the images that only the first head gets right, that only the second does, and all."""
    p, z = _mcnemar(first, second), _quantile(alpha)
    added = max(1.0, z * z / 4)
    p_first, p_second = (first + added) / (n + 2 * added), (second + added) / (n + 2 * added)
    centre = p_first - p_second
    half = z * math.sqrt((p_first + p_second - centre**2) / (n + 2 * added))
    low, high = max(centre - half, -1.0), min(centre + half, 1.0)
    if p > alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    elif low <= 0 <= high:
        near = _exact_end(max(first, second), first + second, alpha) / n
        low, high = (near, high) if first > second else (low, -near)
    return Difference((first - second) / n, (low, high), p)


def _exact_end(more: int, discordant: int, alpha: float) -> float:
    """Smallest surplus of one head among so many discordant images that McNemar's test at alpha lets stand."""
    from scipy.special import betaincinv

    return discordant * (2 * float(betaincinv(more, discordant - more + 1, alpha / 2)) - 1)


def paired_balanced(a_right: np.ndarray, b_right: np.ndarray, y: np.ndarray, *, alpha: float = ALPHA) -> Difference:
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
        alpha: Of the interval.

    Raises:
        TrainingError: n is 0.
    """
    if len(y) == 0:
        raise TrainingError("there are no images to compare heads on; needed: at least 1.")
    difference, centre, variance = _balanced(a_right, b_right, y)
    error = math.sqrt(variance)
    half = _quantile(alpha) * error
    low, high = min(centre - half, difference), max(centre + half, difference)
    p = math.erfc(abs(centre) / error / math.sqrt(2))
    return Difference(difference, (max(low, -1.0), min(high, 1.0)), p)


def _balanced(a_right: np.ndarray, b_right: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Difference of balanced accuracies, and the smoothed one with its variance."""
    found = []
    for label in np.unique(y):
        first, second = _wins(a_right[y == label], b_right[y == label])
        n = int((y == label).sum())
        p_first, p_second = (first + 0.25) / (n + 0.5), (second + 0.25) / (n + 0.5)
        gap = p_first - p_second
        found.append(((first - second) / n, gap, (p_first + p_second - gap**2) / (n + 0.5)))
    difference, centre, variance = np.mean(found, axis=0).tolist()
    return difference, centre, variance / len(found)


def paired_test(
    name: str,
    probabilities: Sequence[np.ndarray],
    y: np.ndarray,
    *,
    resamples: int | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
    sample_weights: np.ndarray | None = None,
) -> PairedTest:
    """Prepares heads for `compare_all`, with the test that suits the metric.

    Accuracy and balanced accuracy of independent images that count alike are tested by counting; all else, and all
    images in groups, by a bootstrap, for which each head is scored once.

    Args:
        name: One of `METRICS`; pass `higher_is_better=HIGHER_IS_BETTER[name]` to `compare_all`.
        probabilities: m arrays (n, k).
        y: (n,) true classes.
        resamples: Of the bootstrap; by default `resamples_for` so many heads.
        seed: Of the bootstrap.
        groups: (n,) what belongs together, if not every image is on its own.
        sample_weights: (n,) how much each image counts, if not all count alike.

    Raises:
        OptionError: The metric is unknown or `resamples` too small.
        TrainingError: There are too few images, groups or classes.
    """
    if groups is None and sample_weights is None and name in {"accuracy", "balanced"}:
        right = [p.argmax(axis=1) == y for p in probabilities]
        return _accuracy_test(right) if name == "accuracy" else _balanced_test(right, y)
    count = resamples_for(len(probabilities)) if resamples is None else resamples
    return paired_bootstrap_test(
        [
            resample(name, p, y, resamples=count, seed=seed, groups=groups, sample_weights=sample_weights)
            for p in probabilities
        ],
        share=name in SHARES,
    )


def _accuracy_test(right: list[np.ndarray]) -> PairedTest:
    return PairedTest(
        lambda i, j, alpha: paired_accuracy(right[i], right[j], alpha=alpha),
        lambda i, j, alpha: detectable_accuracy(sum(_wins(right[i], right[j])), len(right[i]), alpha=alpha),
    )


def _balanced_test(right: list[np.ndarray], y: np.ndarray) -> PairedTest:
    from scipy.special import ndtri

    size = effective_size("balanced", y, classes=int(y.max()) + 1)

    def detectable(i: int, j: int, alpha: float) -> float:
        _, centre, variance = _balanced(right[i], right[j], y)
        at_zero = variance + centre**2 / size
        shift = _quantile(alpha) + float(ndtri(POWER))
        return detectable_shift(shift, lambda gap: at_zero + more_discordant(gap) / size)

    return PairedTest(lambda i, j, alpha: paired_balanced(right[i], right[j], y, alpha=alpha), detectable)


def _quantile(alpha: float) -> float:
    """Of the normal distribution, two-sided."""
    from scipy.special import ndtri

    return float(-ndtri(alpha / 2))


def _wins(a_right: np.ndarray, b_right: np.ndarray) -> tuple[int, int]:
    """Images that only the first head gets right, and that only the second does."""
    a, b = np.asarray(a_right, bool), np.asarray(b_right, bool)
    return int((a & ~b).sum()), int((b & ~a).sum())
