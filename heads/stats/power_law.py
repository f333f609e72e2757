"""The gain to expect from more training images: a learning curve, extrapolated to twice its length."""

from dataclasses import dataclass, replace

import numpy as np

from onepass.features.errors import OptionError, TrainingError
from onepass.heads.stats.bootstrap import draws
from onepass.heads.stats.intervals import wilson_interval
from onepass.heads.stats.training_draws import forecast_doubled

_EXPONENTS = np.linspace(0.02, 2, 100)

# A curve without a floor is believed possible where it fits worse by no more than this, the 95 %
# quantile of chi squared with one degree of freedom.
_AS_GOOD = 3.84


@dataclass(frozen=True)
class Forecast:
    """Accuracy by number of training images, and what twice the largest number would add; or another score.

    Attributes:
        sizes: (s,) numbers of training images, ascending.
        scores: (s,) accuracy at each.
        intervals: (s,) 95 % Wilson interval of each, (low, high); of errors by a bootstrap.
        gain: Accuracy that the mean curve gains by doubling the largest size, as a fraction, >= 0; of errors by how
            much they fall.
        gain_interval: Its 95 % interval, (low, high).
        doubled: Accuracy expected to be measured on the same test images with twice the images; None if unknown.
        doubled_interval: 95 % interval of what will be measured on them with one set of new images, (low, high).
        score: What `scores` are, in words.
        is_error: Whether they are errors in a unit of their own, of which less is better, and no shares.
    """

    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    gain: float
    gain_interval: tuple[float, float]
    doubled: float | None = None
    doubled_interval: tuple[float, float] | None = None
    score: str = "accuracy"
    is_error: bool = False

    def shown(self, value: float) -> str:
        """One of the scores in digits."""
        return f"{value:.4g}" if self.is_error else f"{value:.3f}"

    def __str__(self) -> str:
        low, high = self.gain_interval
        gain = f"twice the images: {100 * self.gain:+.1f} points ({100 * low:.1f} to {100 * high:.1f})"
        if self.is_error:
            gain = f"twice the images: {-self.gain:+.4g} ({-high:.4g} to {-low:.4g})"
        if self.doubled is None or self.doubled_interval is None:
            return gain
        low, high = self.doubled_interval
        return (
            f"{gain} on average over sets of new images, to decide whether collecting them pays; with one such set "
            f"these test images will show {self.shown(self.doubled)} ({self.shown(low)} to {self.shown(high)}), to "
            "promise or check a result"
        )


@dataclass(frozen=True)
class _Curves:
    """Fitted error(x) = floor + slope x^-exponent, x being the share of the largest size; each (b,)."""

    floor: np.ndarray
    slope: np.ndarray
    exponent: np.ndarray
    misfit: np.ndarray

    def gains(self) -> np.ndarray:
        """(b,) error(1) - error(2)."""
        return np.asarray(self.slope * (1 - 2**-self.exponent))


def forecast_gain(sizes: np.ndarray, right: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Forecast:
    """Forecasts the accuracy that twice the training images would add, and what will then be measured.

    From repeated subsets of one set `forecast_doubled` gives the gain and what the same test images will show; see
    there. The interval of the gain is then the hull of its own and the one below. Otherwise the gain is that of the
    best fit, and too small by 0.1 to 0.5 points where the error falls without a floor, because best fits to noisy
    scores level off.

    For the interval of the gain the error is taken to fall as a + b m^-c with a, b >= 0 and 0.02 <= c <= 2. For each
    c of a grid a and b are a weighted least squares problem with a closed form, so the best fit is found for certain.
    The interval comes from resampled test images (the same ones at all sizes), refitted each time. Two terms make
    it wider:

    - Another draw of training images would have scored differently. With repeats the variance between
      them shows by how much, as a share of the error; see `_noise`. Without repeats it is left out, and the
      interval is too short unless draws hardly matter.
    - Fits to noisy scores tend to see the curve level off when it does not. Where a curve without a floor (a = 0)
      fits about as well, the upper end is that of such curves, if higher.

    In simulations of 44 kinds of learners (error 2 to 15 % at 1000 images, c 0.02 to 1.5, floors from none to
    all of the error, 200 or 1000 test images, 1, 3 or 5 repeats) the interval held the true gain in 91 to
    100 % of the cases, 97 % on average. Where one test image was wrong at the largest size it fell to 60 %.

    Gain and its interval are those of the learning curve, the mean over draws of new images, for any test
    images; what one doubled set will score differs from it by the luck of its draw, and that is in `doubled_interval`.

    Args:
        sizes: (s,) numbers of training images, ascending, s >= 3; well spread, such as 10, 20, 40, 80, 100 %.
        right: (s, n) whether each of n test images is classified correctly, 0 to 1; or (r, s, n) with repeats:
            subsets drawn anew, of which the largest may be the same in all.
        resamples: How many, at least 200.
        seed: Of the draws.

    Raises:
        OptionError: `resamples` is too small.
        TrainingError: The sizes are too few or not ascending, or `right` has another shape or range.

    Source: R. L. Figueroa et al. (2012), BMC Med. Inform. Decis. Mak. 12:8 (weighted power laws); T. Viering, M. Loog
    (2021), The Shape of Learning Curves, arXiv:2103.10948, on how well they hold.
    """
    sizes, right = np.asarray(sizes), np.asarray(right, np.float64)
    _require(sizes, right, resamples)
    repeats = right if right.ndim == 3 else right[None]
    shares = sizes / sizes[-1]
    wrong = 1 - repeats.mean(axis=0)
    n, errors = wrong.shape[1], wrong.mean(axis=1)
    noise = _noise(repeats, shares)
    smoothed = (wrong.sum(axis=1) + 1) / (n + 2)  # so that no error at all is not taken as certain
    weights = 1 / (smoothed * (1 - smoothed) / n + noise)

    rng = np.random.default_rng(seed)
    batches = draws(n, resamples, seed=seed, batch=max(1, 2**20 // n))
    drawn = np.concatenate([counts @ wrong.T / n for counts in batches])
    drawn = np.maximum(drawn + np.sqrt(noise) * rng.normal(size=drawn.shape), 0)

    best, without = (_fit_one(errors, shares, weights, floor=floor) for floor in (True, False))
    doubled = forecast_doubled(sizes, repeats) if _subsets(repeats) else None
    gain = doubled.gain if doubled else float(best.gains()[0])
    ends = np.quantile(_fit(drawn, shares, weights).gains(), [0.025, 0.975])
    if without.misfit[0] - best.misfit[0] <= _AS_GOOD:
        ends[1] = max(ends[1], np.quantile(_fit(drawn, shares, weights, floor=False).gains(), 0.975))
    if doubled:
        ends = np.array([min(ends[0], doubled.gain_interval[0]), max(ends[1], doubled.gain_interval[1])])
    scores = tuple(float(score) for score in 1 - errors)
    return Forecast(
        sizes=tuple(int(size) for size in sizes),
        scores=scores,
        intervals=tuple(wilson_interval(score * n, n) for score in scores),
        gain=gain,
        gain_interval=(min(float(ends[0]), gain), max(float(ends[1]), gain)),
        doubled=doubled.accuracy if doubled else None,
        doubled_interval=doubled.interval if doubled else None,
    )


def forecast_error(sizes: np.ndarray, errors: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Forecast:
    """`forecast_gain` of absolute errors: by how much twice the training images would lower their mean.

    Each error counts as a share of the largest. No spread of such shares is wider than that of right and wrong answers
    of the same mean, so the intervals are rather too wide than too narrow.

    Args:
        sizes, resamples, seed: As for `forecast_gain`.
        errors: (r, s, n) absolute errors of n test images, 0 or more, in any unit.

    Raises:
        OptionError, TrainingError: As `forecast_gain`.

    >>> falling = np.tile((4 / np.sqrt([10, 20, 40]))[None, :, None], (1, 1, 50))
    >>> forecast_error(np.array([10, 20, 40]), falling).gain.__round__(2)
    0.19
    """
    largest = float(errors.max(initial=0.0)) or 1.0
    found = forecast_gain(sizes, 1 - errors / largest, resamples=resamples, seed=seed)
    means, n = errors.mean(axis=0), errors.shape[2]
    drawn = np.concatenate(
        [counts @ means.T / n for counts in draws(n, resamples, seed=seed, batch=max(1, 2**20 // n))]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    doubled = found.doubled_interval
    return replace(
        found,
        scores=tuple(means.mean(axis=1).tolist()),
        intervals=tuple(zip(low.tolist(), high.tolist(), strict=True)),
        gain=found.gain * largest,
        gain_interval=(found.gain_interval[0] * largest, found.gain_interval[1] * largest),
        doubled=None if found.doubled is None else (1 - found.doubled) * largest,
        doubled_interval=None if doubled is None else ((1 - doubled[1]) * largest, (1 - doubled[0]) * largest),
        score="mean absolute error",
        is_error=True,
    )


def _subsets(repeats: np.ndarray) -> bool:
    """Whether the largest size is the same set of training images in all of several repeats."""
    return len(repeats) > 1 and not np.ptp(repeats[:, -1], axis=0).any()


def _noise(repeats: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Variance of each mean error that comes from the draw of training images; 0 without repeats.

    The standard deviation between draws is taken as proportional to the error. Subsets of one set, a
    share f of it each, agree the more the larger f is: their variance is 1 - f of that between
    independent draws, and their mean keeps f + (1 - f) / r of it however many repeats there are.

    Args:
        repeats: (r, s, n) right or not.
        shares: (s,) of the largest size.
    """
    r, s, n = repeats.shape
    if r == 1:
        return np.zeros(s)
    overlap = shares if _subsets(repeats) else np.zeros(s)
    level = np.maximum(1 - repeats.mean(axis=(0, 2)), 1 / n)
    drawn = overlap < 1
    between = repeats.mean(axis=2).var(axis=0, ddof=1)[drawn] / (1 - overlap[drawn])
    relative = np.mean(between / level[drawn] ** 2)
    return np.asarray(relative * level**2 * (overlap + (1 - overlap) / r))


def _fit(
    errors: np.ndarray,
    shares: np.ndarray,
    weights: np.ndarray,
    *,
    floor: bool = True,
    exponents: np.ndarray = _EXPONENTS,
) -> _Curves:
    """(b, s) errors at (s,) shares of the largest size -> the b curves of least weighted squares."""
    powers = shares ** -exponents[:, None]
    w, wx, wxx = weights.sum(), powers @ weights, np.square(powers) @ weights
    wy, wxy = (errors @ weights)[:, None], errors @ (powers * weights).T
    a, b = np.zeros_like(wxy), wxy / wxx
    if floor:
        slope = (w * wxy - wx * wy) / (w * wxx - wx**2)
        level = (wy - slope * wx) / w
        # Outside the bounds the best is on the bound: a flat curve, or one without a floor.
        a = np.where(slope < 0, wy / w, np.maximum(level, 0))
        b = np.where(slope < 0, 0, np.where(level < 0, b, slope))
    squares = (np.square(errors) @ weights)[:, None]
    misfit = squares - 2 * (a * wy + b * wxy) + a**2 * w + 2 * a * b * wx + b**2 * wxx
    rows, place = np.arange(len(errors)), misfit.argmin(axis=1)
    return _Curves(a[rows, place], b[rows, place], exponents[place], misfit[rows, place])


def _fit_one(errors: np.ndarray, shares: np.ndarray, weights: np.ndarray, *, floor: bool) -> _Curves:
    """(s,) errors -> their curve, with the exponent between the points of the grid."""
    curve, step = _fit(errors[None], shares, weights, floor=floor), _EXPONENTS[1] - _EXPONENTS[0]
    for _ in range(3):
        near = np.linspace(curve.exponent[0] - step, curve.exponent[0] + step, 81)
        curve = _fit(errors[None], shares, weights, floor=floor, exponents=np.clip(near, 0.02, 2))
        step /= 40
    return curve


def _require(sizes: np.ndarray, right: np.ndarray, resamples: int) -> None:
    if resamples < 200:
        raise OptionError(f"resamples is {resamples}; needed: at least 200.", resamples=resamples)
    if len(sizes) < 3 or sizes[0] < 1 or (np.diff(sizes) <= 0).any():
        raise TrainingError(
            f"the sizes are {', '.join(map(str, sizes))}; needed: 3 or more ascending numbers of training images.",
            sizes=tuple(sizes),
        )
    if right.ndim not in {2, 3} or right.shape[-2] != len(sizes) or right.size == 0:
        raise TrainingError(
            f"right has the shape {right.shape}; needed: ({len(sizes)}, n) or (repeats, {len(sizes)}, n) with n >= 1.",
            shape=right.shape,
        )
    outside = right[~((right >= 0) & (right <= 1))]
    if outside.size:
        raise TrainingError(f"right holds {outside[0]}; needed: 0 (wrong) to 1 (right).", value=float(outside[0]))
