"""How sure a score, or the difference between two scores on the same images, is: for any metric.

Resamples of the images (or of whole groups) are weightings of them; all are scored at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onepass.features.errors import OptionError, TrainingError
from onepass.heads.stats.detectable import POWER, detectable_shift, more_discordant
from onepass.heads.stats.intervals import ALPHA, Difference, wilson_interval
from onepass.heads.stats.metrics import SHARES, UNBOUNDED, metric, scorer
from onepass.heads.stats.multiple_comparison import PairedTest

RESAMPLES = 5000
"""By default."""


@dataclass(frozen=True)
class Resampled:
    """One head's score and what it would have been on resamples of the images.

    Attributes:
        score: On the images as they are.
        values: (r,) float64, on each resample; NaN where it is undefined.
        size: The number of independent images the score is worth, see `effective_size`.
    """

    score: float
    values: np.ndarray
    size: float

    def deviations(self) -> np.ndarray:
        """(<= r,) values minus score, widened for few images; undefined ones left out."""
        return _widened(self.values - self.score, self.size, ALPHA)


def resamples_for(heads: int) -> int:
    """How many resamples leave five in each tail of an interval that is one of all pairs of so many heads."""
    return max(RESAMPLES, 100 * heads * (heads - 1))


def resample(
    name: str,
    probabilities: np.ndarray,
    y: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
    sample_weights: np.ndarray | None = None,
) -> Resampled:
    """Scores a head on bootstrap resamples. The seed decides which, so heads scored with one seed are paired.

    Args:
        name: One of `METRICS`.
        probabilities: (n, k), each row sums to 1; or as `metric` takes it.
        y: (n,) true classes, 0 to k - 1; or as `metric` takes it.
        resamples: How many, at least 200.
        seed: Of the draws.
        groups: (n,) what belongs together (a patient, a video), any values; whole groups are drawn.
        sample_weights: (n,) how much each image counts wherever it is drawn; all alike by default.

    Raises:
        OptionError: The metric is unknown or `resamples` too small.
        TrainingError: Fewer than two images or groups, or the metric is undefined on the images.
    """
    if resamples < 200:
        raise OptionError(f"resamples is {resamples}; needed: at least 200.", resamples=resamples)
    alike = np.ones(len(y)) if sample_weights is None else sample_weights
    score = float(metric(name, probabilities, y, weights=alike[None])[0])
    if np.isnan(score):
        kinds = "two classes; all {} are of one" if y.ndim == 1 else "different labels; all {} have the same"
        raise TrainingError(
            f"{name} needs images of {kinds.format(len(y))}. Score more images.",
            metric=name,
            images=len(y),
        )
    place = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = int(place.max()) + 1
    if units < 2:
        what = "there is 1 image" if groups is None else "all images are of one group"
        raise TrainingError(f"{what}; needed: at least 2, to see how much the score depends on them.", units=units)
    score_all = scorer(name, probabilities, y)
    batch = max(1, 2**20 // len(y))
    values = [score_all(counts[:, place] * alike) for counts in draws(units, resamples, seed=seed, batch=batch)]
    size, k = float(units) * _evenness(alike), probabilities.shape[1]
    if y.ndim == 1:  # images of one class in one group are taken as one
        size = min(size, effective_size(name, np.unique(place * k + y) % k, classes=k))
    return Resampled(score, np.concatenate(values), size)


def _evenness(weights: np.ndarray) -> float:
    """Share of the images that as many equal ones would be: L. Kish's (sum)^2 / sum of squares, by their number."""
    return float(weights.sum() ** 2 / np.square(weights).sum() / len(weights))


def draws(units: int, resamples: int, *, seed: int, batch: int) -> Iterator[np.ndarray]:
    """(<= batch, units) float64 at a time: how often each unit is drawn when as many are drawn as there are."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        picks = rng.integers(0, units, (size, units)) + units * np.arange(size)[:, None]
        yield np.bincount(picks.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def paired_bootstrap_test(heads: Sequence[Resampled], *, share: bool) -> PairedTest:
    """Prepares heads scored on the same resamples for `compare_all`; `share` as in `detectable_difference`."""
    return PairedTest(
        lambda i, j, alpha: paired_difference(heads[i], heads[j], alpha=alpha),
        lambda i, j, alpha: detectable_difference(heads[i], heads[j], share=share, alpha=alpha),
    )


def paired_difference(first: Resampled, second: Resampled, *, alpha: float = ALPHA) -> Difference:
    """Difference between two heads' scores from the same resamples.

    Two intervals are made from the resampled differences, the percentile interval and the symmetric one
    (difference +- the 1 - alpha quantile of |deviation|), each with the p that agrees with it,
    (1 + count) / (1 + resamples); reported is the hull of both and the larger p. Alone, the percentile
    interval rejects too often where classes are small and the symmetric one where losses are skewed (each up to
    0.08 instead of 0.05 at 200 images and equally good heads); together they stay within 0.07, and within
    0.08 at 50 images. The exception is balanced where heads err in different classes and one class has
    few images: up to 0.32, since a bootstrap that has seen no mistake in a class invents none; use
    `paired_balanced`. BCa intervals were worse than either, up to 0.17 in the ordinary cases.

    Args:
        first: One head.
        second: The other, on the same resamples.
        alpha: Of the interval, which covers 1 - alpha and leaves out 0 exactly where p <= alpha.

    Raises:
        ValueError: The resamples are not the same in number.

    Source: B. Efron, R. J. Tibshirani (1993), An Introduction to the Bootstrap, chapters 13 and 16;
    A. C. Davison, D. V. Hinkley (1997), Bootstrap Methods and their Application, chapter 4, for (1 + count).
    """
    gap, moves = _gap(first, second, alpha)
    r = len(moves)
    tail, both = max(1, int(alpha / 2 * (r + 1) + 1e-9)), max(1, int(alpha * (r + 1) + 1e-9))
    ordered, distances = np.round(np.sort(gap + moves), 12), np.sort(np.abs(moves))
    half = float(distances[-both])
    low, high = min(float(ordered[tail - 1]), gap - half), max(float(ordered[-tail]), gap + half)
    opposite = int((ordered * np.sign(gap) <= 0).sum())
    as_far = int((distances >= abs(gap)).sum())
    p = min(1.0, max(2 * (1 + opposite), 1 + as_far) / (1 + r))
    if p > alpha:  # where there are too few resamples for alpha
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(gap, (low, high), p)


def detectable_difference(first: Resampled, second: Resampled, *, share: bool, alpha: float) -> float:
    """Smallest true difference that `paired_difference` at alpha finds in four of five cases.

    Half the interval, and what four of five estimates stay above: the normal quantile of 0.8 times
    the standard deviation of the resampled differences.

    Args:
        first: One head.
        second: The other, on the same resamples.
        share: Whether the score is a share of images, whose differences vary more the larger they are; other
            scores' are taken to vary as much whatever they are.
        alpha: Two-sided level.
    """
    from scipy.special import ndtri

    gap, moves = _gap(first, second, alpha)
    low, high = paired_difference(first, second, alpha=alpha).interval
    spread = float(np.std(moves))
    if spread == 0:
        return 0.0
    shift = max(high - gap, gap - low) / spread + float(ndtri(POWER))
    size = min(first.size, second.size)
    return detectable_shift(shift, lambda true: spread**2 + (more_discordant(true) / size if share else 0.0))


def _gap(first: Resampled, second: Resampled, alpha: float) -> tuple[float, np.ndarray]:
    """Difference between two heads, and how far it lies elsewhere on each resample.

    Equal counts give differences that are equal but for rounding; ties must count as ties.
    """
    gap = round(first.score - second.score, 12)
    moves = _widened(first.values - second.values - gap, min(first.size, second.size), alpha)
    return gap, np.round(moves, 12)


def bootstrap_interval(
    name: str,
    probabilities: np.ndarray,
    y: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
    sample_weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """95 % interval of one head's score.

    Accuracy and balanced accuracy of images without groups have Wilson's interval with the `effective_size`
    as its number: near 1 a bootstrap that has seen no mistake invents none (simulated coverage
    0.92 to 0.96 where the bootstrap's was 0.38 to 0.95). All else has the percentile interval, widened for
    few images, and Wilson's only where no resample changes the score, such as an auroc of 1.

    Arguments and errors as in `resample`.
    """
    found = resample(
        name, probabilities, y, resamples=resamples, seed=seed, groups=groups, sample_weights=sample_weights
    )
    return interval_of(found, name, groups=groups)


def interval_of(found: Resampled, name: str, *, groups: np.ndarray | None) -> tuple[float, float]:
    """`bootstrap_interval` of a score that was resampled, or of the mean of several on the same resamples."""
    moves = found.deviations()
    closed_form = groups is None and name in {"accuracy", "balanced"}
    share = name in SHARES
    if closed_form or (share and np.abs(moves).max() <= 1e-12):
        return wilson_interval(min(found.score, 1.0) * found.size, found.size)
    low, high = found.score + np.quantile(moves, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low) if name == "r2" else max(0.0, float(low)), float(high) if name in UNBOUNDED else min(
        1.0, float(high)
    )


def effective_size(name: str, y: np.ndarray, *, classes: int) -> float:
    """How many independent images of even classes would make a score as sure as these do.

    The variance of a mean over k classes of shares among n_c images is p (1 - p) (sum of 1 / n_c) / k^2 where
    all have the same p, and that of one share is p (1 - p) / n; so n = k^2 / (sum of 1 / n_c). For auroc
    n_c is the smaller of the class and the rest, which is on the safe side.
    """
    counts = np.bincount(y, minlength=classes)
    counts = counts[counts > 0]
    if name in {"accuracy", "log-loss"}:
        return float(len(y))
    if name == "auroc":
        smaller = np.minimum(counts, len(y) - counts)
        return float(smaller[0]) if classes == 2 else len(counts) ** 2 / float((1 / smaller).sum())
    return len(counts) ** 2 / float((1 / counts).sum())


def _widened(moves: np.ndarray, size: float, alpha: float) -> np.ndarray:
    """Deviations made wider, as t is wider than the normal; undefined ones left out.

    The bootstrap's variance is (n - 1) / n of the unbiased one, and its quantiles are those of a known
    variance. Source: T. C. Hesterberg (2015), Am. Stat. 69(4), 371-386, section 4.3 (narrowness bias).
    """
    from scipy.special import ndtri, stdtrit

    size = max(size, 2.0)
    factor = np.sqrt(size / (size - 1)) * stdtrit(size - 1, 1 - alpha / 2) / ndtri(1 - alpha / 2)
    return np.asarray(moves[np.isfinite(moves)] * factor)
