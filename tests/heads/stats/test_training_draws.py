import numpy as np
import pytest
from scipy.stats import norm

from onepass.heads.stats.power_law import forecast_gain
from onepass.heads.stats.training_draws import forecast_doubled

SIZES = np.array([100, 200, 400, 800, 1000])
LAWS = [(0.0, 0.06, 0.5), (0.0, 0.18, 0.28), (0.03, 0.03, 0.5), (0.0, 0.15, 0.2)]


def learned(rng: np.random.Generator, law: tuple[float, float, float], n: int) -> tuple[np.ndarray, float]:
    """(3, 5, n) right from subsets of one set of 1000 training images, and accuracy with 1000 new ones beside them.

    Every training image moves the error of all test images a little, and the score of each of them.
    """
    floor, slope, exponent = law
    of_all, of_each, hardness = rng.normal(size=2000), rng.normal(size=(2000, n)), rng.normal(size=n)

    def right(some: np.ndarray) -> np.ndarray:
        luck = of_all[some].sum() / np.sqrt(len(some))
        error = (floor + slope * (len(some) / 1000) ** -exponent) * (1 + 0.08 * luck)
        scores = np.sqrt(0.9) * hardness + np.sqrt(0.1 / len(some)) * of_each[some].sum(axis=0)
        return scores >= norm.ppf(np.clip(error, 1e-6, 0.99))

    draws = []
    for _ in range(3):
        order = rng.permutation(1000)
        draws.append([right(order[:size] if size < 1000 else np.arange(1000)) for size in SIZES])
    return np.array(draws, float), float(right(np.arange(2000)).mean())


def test_the_interval_holds_what_is_measured_with_new_images():
    rng, held, shown, gains, best_fits = np.random.default_rng(8), 0, 0, [], []
    for law in LAWS:
        for _ in range(15):
            right, measured = learned(rng, law, 300)
            found = forecast_gain(SIZES, right, resamples=200)
            low, high = found.doubled_interval
            held += low <= measured <= high
            shown += found.gain_interval[0] <= measured - found.scores[-1] <= found.gain_interval[1]
            if law[0] == 0:
                gains.append(found.gain - law[1] * (1 - 2 ** -law[2]))
                best_fits.append(forecast_gain(SIZES, right.mean(axis=0), resamples=200).gain - found.gain)
    assert held >= 0.85 * 60
    assert shown < 0.75 * 60  # the interval of the mean curve is not for that
    assert abs(np.mean(gains)) < 0.004
    assert np.mean(best_fits) < 0  # which is why curves are averaged


def test_a_smooth_power_law_is_continued(rng: np.random.Generator):
    errors = 0.2 * (SIZES / 1000) ** -0.4
    right = np.ones((3, 5, 1000))
    for i, error in enumerate(errors):
        right[:, i, : round(1000 * error)] = 0
    found = forecast_doubled(SIZES, right)
    assert found.gain == pytest.approx(0.2 * (1 - 2**-0.4), abs=0.004)
    assert found.accuracy == pytest.approx(1 - 0.2 * 2**-0.4, abs=0.004)
    assert found.interval[0] <= found.accuracy <= found.interval[1]


def test_a_head_without_mistakes_may_still_make_one():
    found = forecast_doubled(SIZES, np.ones((3, 5, 50)))
    assert (found.gain, found.accuracy) == (0, 1)
    assert found.interval[0] < 1 == found.interval[1]


def test_a_curve_that_rises_is_not_continued_below_0():
    right = np.zeros((3, 5, 40))
    right[:, 0, :20] = 1
    found = forecast_doubled(SIZES, right)
    assert 0 <= found.interval[0] <= found.accuracy <= found.interval[1] <= 1


def test_without_repeated_subsets_nothing_is_said_of_what_will_be_measured(rng: np.random.Generator):
    right = (rng.random((5, 100)) < 0.8).astype(float)
    assert forecast_gain(SIZES, right, resamples=200).doubled is None
    own = (rng.random((3, 5, 100)) < 0.8).astype(float)  # repeats of training images of their own
    assert forecast_gain(SIZES, own, resamples=200).doubled_interval is None
