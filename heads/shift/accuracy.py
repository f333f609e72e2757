"""What a shift does to accuracy: measured where new images have labels, estimated from confidence where not."""

import math
from dataclasses import dataclass

import numpy as np

from onepass.heads.stats.detectable import POWER
from onepass.heads.stats.intervals import ALPHA, Difference, wilson_interval

METHOD = "average thresholded confidence"

_RESAMPLES = 400


@dataclass(frozen=True)
class Share:
    """A measured accuracy.

    Attributes:
        n: Images.
        accuracy: Share of them classified correctly.
        interval: 95 % Wilson interval.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, right: np.ndarray) -> "Share":
        """Of (n,) bool, n >= 1."""
        correct, n = int(right.sum()), len(right)
        return cls(n, correct / n, wilson_interval(correct, n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.3f} ({low:.3f} to {high:.3f}), n={self.n}"


@dataclass(frozen=True)
class Estimate:
    """An accuracy that was estimated without labels.

    Attributes:
        n: Images.
        accuracy: Estimated share classified correctly.
        interval: 95 % of the estimates from resampled images; it does not cover that the method may be wrong.
        method: How.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    method: str

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.3f} ({low:.3f} to {high:.3f}), n={self.n}"


def unpaired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Difference between the accuracies of a head on two sets of images.

    The interval is Newcombe's from two Wilson intervals; p is Fisher's exact. Being exact it is the more cautious, and
    it decides: where p > 0.05 but the interval leaves out 0, the interval is extended to 0.

    Args:
        first: (n,) bool, which images of the first set are classified correctly.
        second: (m,) bool, the same of the second.

    Source: R. G. Newcombe (1998), Stat. Med. 17(8), 873-890, method 10.

    >>> unpaired_difference(np.ones(20, bool), np.arange(20) >= 8).difference
    0.4
    """
    from scipy.stats import fisher_exact

    one, other = Share.of(first), Share.of(second)
    difference = one.accuracy - other.accuracy
    low = difference - math.hypot(one.accuracy - one.interval[0], other.interval[1] - other.accuracy)
    high = difference + math.hypot(one.interval[1] - one.accuracy, other.accuracy - other.interval[0])
    right, counts = (int(first.sum()), int(second.sum())), (len(first), len(second))
    p = float(fisher_exact([[right[0], counts[0] - right[0]], [right[1], counts[1] - right[1]]]).pvalue)
    if p > ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(difference, (low, high), p)


def detectable_difference(accuracy: float, n: int, m: int) -> float:
    """True difference of two accuracies that such a comparison finds in about four of five cases.

    Normal approximation, with the larger variance of the two accuracies taken for both.

    Args:
        accuracy: Of one set.
        n: Its images.
        m: Images of the other.
    """
    from scipy.special import ndtri

    quantiles = float(ndtri(1 - ALPHA / 2) + ndtri(POWER))
    gap = 0.0
    for _ in range(50):
        other = max(accuracy - gap, 0.0)
        variance = max(accuracy * (1 - accuracy), other * (1 - other), 1 / (4 * min(n, m) + 4))
        gap = min(quantiles * math.sqrt(variance * (1 / n + 1 / m)), 1.0)
    return gap


def estimated_accuracy(known: np.ndarray, right: np.ndarray, new: np.ndarray, *, seed: int = 0) -> Estimate:
    """Accuracy on new images from how confident a head is: by average thresholded confidence.

    On held-out images a threshold is found that as many of them lie above as are classified correctly; the estimate
    is the share of the new images above it. It is right as far as confidence means on the new images what it meant on
    the old ones. Confidence is the sum of p log p.

    Args:
        known: (n, k) probabilities of held-out images.
        right: (n,) bool, which of them are classified correctly.
        new: (m, k) probabilities of new images.
        seed: Of the resampling for the interval.

    Source: S. Garg, S. Balakrishnan, Z. C. Lipton, B. Neyshabur, H. Sedghi (2022), Leveraging Unlabeled Data to
    Predict Out-of-Distribution Performance, ICLR.
    """
    before, now = _confidence(known), _confidence(new)
    generator = np.random.default_rng(seed)

    def estimate(some: np.ndarray, others: np.ndarray) -> float:
        wrong = 1 - float(right[some].mean())
        return float((now[others] > _threshold(before[some], wrong)).mean())

    resampled = [
        estimate(generator.integers(0, len(before), len(before)), generator.integers(0, len(now), len(now)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2]).tolist()
    found = estimate(np.arange(len(before)), np.arange(len(now)))
    return Estimate(len(now), found, (min(low, found), max(high, found)), METHOD)


def _threshold(confidence: np.ndarray, wrong: float) -> float:
    """The value that a share `wrong` of the images reaches at most."""
    count = round(wrong * len(confidence))
    return float(np.sort(confidence)[count - 1]) if count else -math.inf


def _confidence(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray((probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))
