"""Tests and intervals for scores of (repeated) cross-validation, whose folds share most training images."""

import math
from collections.abc import Sequence

import numpy as np

from onepass.features.errors import OptionError, TrainingError
from onepass.heads.stats.detectable import detectable_shift, more_discordant, shift_of_t
from onepass.heads.stats.intervals import ALPHA, Difference, Z, wilson_interval
from onepass.heads.stats.multiple_comparison import PairedTest


def corrected_t_test(
    scores: Sequence[np.ndarray], *, test_share: float, fold_images: float | None = None
) -> PairedTest:
    """Prepares heads for `compare_all`: (J,) scores of each, one per fold and repeat.

    `test_share` and `fold_images` as in `corrected_detectable`.
    """
    return PairedTest(
        lambda i, j, alpha: corrected_resampled_t(scores[i] - scores[j], test_share=test_share, alpha=alpha),
        lambda i, j, alpha: corrected_detectable(
            scores[i] - scores[j], test_share=test_share, fold_images=fold_images, alpha=alpha
        ),
    )


def corrected_detectable(
    differences: np.ndarray, *, test_share: float, alpha: float, fold_images: float | None = None
) -> float:
    """Smallest true difference that `corrected_resampled_t` at alpha finds in four of five cases.

    By the noncentral t distribution, from the variance that the differences show; 0 where all of them are equal.

    Args:
        differences: (J,) as there.
        test_share: As there.
        alpha: Two-sided level.
        fold_images: Test images of a fold where the score is a share of them, whose differences vary more the
            larger they are; None for other scores.
    """
    _, error, _ = _corrected_mean(differences, test_share, alpha)
    if error == 0:
        return 0.0
    factor = 1 / len(differences) + test_share / (1 - test_share)

    def variance(gap: float) -> float:
        return error**2 + (factor * more_discordant(gap) / fold_images if fold_images else 0.0)

    return detectable_shift(shift_of_t(len(differences) - 1, alpha=alpha), variance)


def corrected_resampled_t(differences: np.ndarray, *, test_share: float, alpha: float = ALPHA) -> Difference:
    """Difference between two heads whose scores come from (repeated) cross-validation.

    The folds' training sets overlap, so their differences vary less than those of fresh data would.
    The variance of the mean is therefore taken as (1 / J + n_test / n_train) s^2 and not as s^2 / J;
    t has J - 1 degrees of freedom.

    Where all J differences are equal there is no s. If they are 0, p is 1. Otherwise only their common
    sign remains as evidence, and p is that of the sign test, 2^(1 - J); the interval is then
    the difference alone, extended to 0 if p > alpha.

    Args:
        differences: (J,) score of the first head minus score of the second, one per fold and repeat.
        test_share: n_test / (n_test + n_train), above 0 and below 1; 1 / k for k folds.
        alpha: Of the interval, which covers 1 - alpha and leaves out 0 exactly where p <= alpha.

    Raises:
        OptionError: `test_share` is out of range.
        TrainingError: J is below 2.

    Source: C. Nadeau, Y. Bengio (2003), Inference for the Generalization Error, Mach. Learn. 52, 239-281.

    >>> round(corrected_resampled_t(np.array([0.02, 0.01, 0.03, 0.02, 0.02]), test_share=0.2).p, 3)
    0.014
    """
    from scipy.special import stdtr

    mean, error, quantile = _corrected_mean(differences, test_share, alpha)
    if error > 0:
        return Difference(
            mean,
            (mean - quantile * error, mean + quantile * error),
            2 * float(stdtr(len(differences) - 1, -abs(mean) / error)),
        )
    p = 1.0 if mean == 0 else 2.0 ** (1 - len(differences))
    return Difference(mean, (min(mean, 0.0), max(mean, 0.0)) if p > alpha else (mean, mean), p)


def corrected_interval(scores: np.ndarray, *, test_share: float, most: float | None) -> tuple[float, float]:
    """95 % interval of one head's mean score over (repeated) cross-validation.

    Of a score without bounds it is mean +- t * error, the error as in `corrected_resampled_t`. Of a score in [0, 1]
    that runs past 1 where a head is nearly always right, and is one point where all folds are equal. There it is
    Wilson's interval for as many images n as would make a share that sure, n = mean (1 - mean) / error^2 times
    (z / t)^2 for the few folds, and never more than there are. Far from 0 and 1 both are the same. How often each
    holds the true accuracy in simulation: `benchmarks/results/fold-intervals.json`.

    Args:
        scores: (J,) one per fold and repeat; `test_share` and errors as in `corrected_resampled_t`.
        most: Independent images that the score of all folds is worth at most, such as `effective_size`; None for a
            score without bounds.

    Source: E. L. Korn, B. I. Graubard (1998), Survey Methodology 24(2), 193-201, for n, with Wilson's interval in place
    of Clopper and Pearson's.

    >>> low, high = corrected_interval(np.array([1.0, 0.98, 1.0, 0.96, 1.0]), test_share=0.2, most=250)
    >>> round(low, 3), round(high, 3)
    (0.894, 0.999)
    """
    mean, error, quantile = _corrected_mean(scores, test_share, ALPHA)
    if most is None:
        return mean - quantile * error, mean + quantile * error
    size = min(most, mean * (1 - mean) * (Z / (quantile * error)) ** 2) if error > 0 else most
    return wilson_interval(mean * size, size)


def _corrected_mean(values: np.ndarray, test_share: float, alpha: float) -> tuple[float, float, float]:
    """Mean, its standard error (0 if all values are equal) and the t quantile of 1 - alpha / 2."""
    from scipy.special import stdtrit

    folds = len(values)
    if not 0 < test_share < 1:
        raise OptionError(
            f"test_share is {test_share}; needed: above 0 and below 1, such as 0.2 for 5 folds.", test_share=test_share
        )
    if folds < 2:
        raise TrainingError(f"there are scores of {folds} folds; needed: at least 2 to see how they vary.", folds=folds)
    mean = float(np.mean(values))
    quantile = float(stdtrit(folds - 1, 1 - alpha / 2))
    # Scores that are equal on paper differ by rounding; that is no variance.
    if np.ptp(values) <= 1e-12:
        return (0.0 if abs(mean) <= 1e-12 else mean), 0.0, quantile
    factor = 1 / folds + test_share / (1 - test_share)
    return mean, math.sqrt(factor * float(np.var(values, ddof=1))), quantile
