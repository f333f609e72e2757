"""What a head will score when its training set is doubled, the luck of the draw of training images included."""

from dataclasses import dataclass

import numpy as np

_EXPONENTS = np.linspace(0.05, 1.5, 30)
_FLOORS = np.linspace(0, 0.95, 20)

# Weight of a floor of a share phi of the error: (1 - phi)^5, a mean of 1/7. Equal weights, or the best fit, forecast
# too little: over one factor of ten a noisy curve without a floor looks like one that levels off.
_FLOOR_POWER = 5

# Of the variance between heads of different training sets, what even overlapping sets do not share: predictions of
# single images flip, and tuning ends elsewhere.
_OWN = 0.2

# Three repeats of four nested sizes hold 8 differences. Neighbours correlate, so they count as about 5 in the variance;
# two more are spent on the shape of the curve.
_DEGREES_OF_FREEDOM = 3

# By how much real curves leave the power law within one doubling: standard deviation as a share of the doubled set's
# error. They fall faster, for one, where new images show what test images show, from another side.
_BENT = 0.03


@dataclass(frozen=True)
class Doubled:
    """A head trained on twice the images: all that there are, and as many new ones.

    Attributes:
        gain: Accuracy that the mean curve gains on these test images, as a fraction, >= 0.
        gain_interval: Its 95 % interval, (low, high).
        accuracy: Expected to be measured on the same test images.
        interval: 95 % interval of what will be measured on them with one set of new images, (low, high).
    """

    gain: float
    gain_interval: tuple[float, float]
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class _Known:
    """What was measured: errors, their covariance, and that of each with the doubled set, in units of the errors.

    Attributes:
        shares: (s,) of the largest size.
        errors: (s,) mean over repeats.
        inverse: (s, s) of the covariance.
        ahead: (s,) covariance of the doubled set's luck, as a share of its error, with each error.
        relative: Variance of the luck as a share of the squared error.
        smallest: Error that one test image is; levels of errors are raised by it, so that none is without luck.
    """

    shares: np.ndarray
    errors: np.ndarray
    inverse: np.ndarray
    ahead: np.ndarray
    relative: float
    smallest: float

    @classmethod
    def of(cls, shares: np.ndarray, right: np.ndarray) -> "_Known":
        repeats, s, n = right.shape
        errors = 1 - right.mean(axis=(0, 2))
        levels = errors + 1 / n
        relative = _relative_variance(right, shares, levels)
        luck = _shared_luck(shares, repeats)
        inverse = np.linalg.inv(relative * luck[:s, :s] * np.outer(levels, levels))
        return cls(shares, errors, inverse, relative * luck[s, :s] * levels, relative, 1 / n)


def forecast_doubled(sizes: np.ndarray, right: np.ndarray) -> Doubled:
    """Forecasts from repeated subsets of one training set.

    The error is a (phi + (1 - phi) x^-c) at a share x of the set. Around it lies the luck of the draw, with a standard
    deviation of a constant share of the error. Were every training image to add its own bit of luck, two sets S and T
    would share |S and T| / sqrt(|S| |T|) of it; so the luck seen in subsets and in the whole set counts for
    the doubled set, which holds it. For each phi and c of a grid, a is found by generalised least squares and the
    doubled set's error by kriging; these are averaged by how likely they make the curve. The test images are taken as
    they are: the forecast is for these, and their number matters only in so far as single images flip.

    Args:
        sizes: (s,) numbers of training images, ascending.
        right: (r, s, n) right or not, r >= 2: subsets of the largest set, drawn anew, larger ones holding smaller ones.

    Source: C. E. Rasmussen, C. K. I. Williams (2006), Gaussian Processes for Machine Learning, section 2.7 (explicit
    basis functions); S. T. Buckland, K. P. Burnham, N. H. Augustin (1997), Biometrics 53(2), 603-618 (averages
    of models rather than the best one).
    """
    from scipy.special import stdtrit

    known = _Known.of(sizes / sizes[-1], right)
    exponents, floors = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _FLOORS, indexing="ij"))
    weights, gains, errors = _curves(known, exponents, floors)
    gain, gain_spread = gains.mixed(weights)
    error, spread = errors.mixed(weights)
    quantile, accuracy = float(stdtrit(_DEGREES_OF_FREEDOM, 0.975)), 1 - min(max(error, 0.0), 1.0)
    return Doubled(
        gain,
        (max(0.0, gain - quantile * gain_spread), gain + quantile * gain_spread),
        accuracy,
        (max(0.0, accuracy - quantile * spread), min(1.0, accuracy + quantile * spread)),
    )


@dataclass(frozen=True)
class _Predicted:
    """A number as each of (g,) curves predicts it, by mean and variance."""

    means: np.ndarray
    variances: np.ndarray

    def mixed(self, weights: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation over curves of these weights."""
        mean = float(weights @ self.means)
        return mean, float(np.sqrt(weights @ (self.variances + (self.means - mean) ** 2)))


def _curves(known: _Known, exponents: np.ndarray, floors: np.ndarray) -> tuple[np.ndarray, _Predicted, _Predicted]:
    """For (g,) curves: their weights, the gain of each, and the doubled set's error."""
    curves = floors[:, None] + (1 - floors[:, None]) * np.append(known.shares, 2.0) ** -exponents[:, None]
    here, ahead = curves[:, :-1], curves[:, -1]
    precision = np.einsum("gi,ij,gj->g", here, known.inverse, here)
    level = np.maximum(here @ known.inverse @ known.errors / precision, 0)
    rest = known.errors - level[:, None] * here
    misfit = np.einsum("gi,ij,gj->g", rest, known.inverse, rest)

    size = level * ahead + known.smallest
    pull = size[:, None] * (known.ahead @ known.inverse)
    told = np.square(size) * (known.ahead @ known.inverse @ known.ahead)
    unsure = (ahead - np.einsum("gi,gi->g", pull, here)) ** 2 / precision
    expected = level * ahead + np.einsum("gi,gi->g", pull, rest)

    # Student's, because the variance is estimated, too.
    df = _DEGREES_OF_FREEDOM
    fit = -(df + len(known.shares) - 1) / 2 * np.log1p(misfit / df) - np.log(precision) / 2
    weights = np.exp(fit - fit.max()) * (1 - floors) ** _FLOOR_POWER
    variance = known.relative * np.square(size) - told + unsure
    gains = _Predicted(level * (1 - ahead), (1 - ahead) ** 2 / precision + (_BENT * level * ahead) ** 2)
    return weights / weights.sum(), gains, _Predicted(expected, variance)


def _relative_variance(right: np.ndarray, shares: np.ndarray, levels: np.ndarray) -> float:
    """Variance between errors of heads of independent training sets, as a share of the squared error.

    Never below that of half an image.
    """
    n = right.shape[2]
    drawn = shares < 1
    apart = (1 - _OWN) * (1 - shares[drawn]) + _OWN
    between = right.mean(axis=2).var(axis=0, ddof=1)[drawn] / apart
    return max(float(np.mean(between / levels[drawn] ** 2)), float((0.5 / n / levels[-1]) ** 2))


def _shared_luck(shares: np.ndarray, repeats: int) -> np.ndarray:
    """(s + 1, s + 1) covariance of the luck at each size, mean over repeats, and of the doubled set, which is last.

    In one repeat the smaller set lies in the larger; sets of two repeats have the product of their shares in common.
    """
    x = np.append(shares, 2.0)
    low, high = np.minimum.outer(x, x), np.maximum.outer(x, x)
    nested = np.sqrt(low / high)
    apart = np.where(high < 1, np.sqrt(low * high), nested)
    own = np.diag(np.where(x < 1, 1 / repeats, 1.0))
    return np.asarray((1 - _OWN) * (nested + (repeats - 1) * apart) / repeats + _OWN * own)
