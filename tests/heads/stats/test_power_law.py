from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.stats import norm

from onepass.features.errors import OptionError, TrainingError
from onepass.heads import wilson_interval
from onepass.heads.stats.power_law import Forecast, forecast_gain

SHARES = np.array([0.1, 0.2, 0.4, 0.8, 1.0])
SIZES = np.array([100, 200, 400, 800, 1000])


def power_law(a: float, b: float, c: float) -> tuple[np.ndarray, float]:
    """(s,) errors a + b x^-c at the shares of the largest size, and the gain from twice that."""
    return a + b * SHARES**-c, b * (1 - 2**-c)


def draw_right(
    rng: np.random.Generator, errors: np.ndarray, n: int, *, repeats: int = 1, spread: float = 0.0
) -> np.ndarray:
    """(r, s, n) images that are easy or hard at all sizes alike, from subsets of one set of training images."""
    difficulty, of_all = rng.normal(size=n), rng.normal(size=len(errors))
    right = np.empty((repeats, len(errors), n))
    own = rng.normal(size=(repeats, len(errors), n))
    own[:, -1] = own[0, -1]
    for i in range(repeats):
        luck = np.sqrt(SHARES) * of_all + np.sqrt(1 - SHARES) * rng.normal(size=len(errors))
        limit = norm.ppf(np.clip(errors * (1 + spread * luck), 1e-6, 0.99))
        right[i] = np.sqrt(0.8) * difficulty + np.sqrt(0.2) * own[i] >= limit[:, None]
    return right


@pytest.mark.parametrize(
    ("a", "b", "c"),
    [(0.0, 0.06, 0.5), (0.03, 0.03, 0.5), (0.02, 0.02, 1.3), (0.0, 0.2, 0.02), (0.01, 0.005, 1.99), (0.04, 0.0, 1.0)],
)
def test_a_curve_without_noise_is_continued_exactly(a: float, b: float, c: float):
    errors, gain = power_law(a, b, c)
    found = forecast_gain(SIZES, np.tile(1 - errors[:, None], 300))
    assert found.gain == pytest.approx(gain, abs=2e-6)
    assert found.gain_interval[0] <= found.gain <= found.gain_interval[1]
    np.testing.assert_allclose(found.scores, 1 - errors)


def test_the_fit_is_that_of_nonnegative_least_squares(rng: np.random.Generator):
    for _ in range(15):
        errors = np.clip(power_law(0.05, 0.05, 0.5)[0] + 0.03 * rng.normal(size=5), 0.01, 1)
        n = 100
        smoothed = (errors * n + 1) / (n + 2)
        scale = np.sqrt(n / (smoothed * (1 - smoothed)))
        fits = []
        for c in np.linspace(0.02, 2, 397):
            design = np.stack([np.ones(5), SHARES**-c], axis=1)
            (_, b), misfit = nnls(design * scale[:, None], errors * scale)
            fits.append((misfit, b * (1 - 2**-c)))
        found = forecast_gain(SIZES, np.tile(1 - errors[:, None], n), resamples=200)
        assert found.gain == pytest.approx(min(fits)[1], abs=3e-4)


@pytest.mark.parametrize("rise", [0.0, 0.01])
def test_a_curve_that_does_not_fall_promises_nothing(rise: float):
    errors = 0.1 + rise * np.arange(5)
    found = forecast_gain(SIZES, np.tile(1 - errors[:, None], 200))
    assert found.gain == pytest.approx(0, abs=1e-9)
    assert found.gain_interval[0] == pytest.approx(0, abs=1e-9)


def test_a_head_without_mistakes_has_nothing_to_gain():
    found = forecast_gain(SIZES, np.ones((5, 50)))
    assert (found.gain, found.gain_interval) == (0.0, (0.0, 0.0))
    assert found.intervals[0] == wilson_interval(50, 50)


def test_a_forecast_reads_as_a_sentence():
    values = Forecast(sizes=(10,), scores=(0.9,), intervals=((0.8, 1.0),), gain=0.0112, gain_interval=(0.0041, 0.0178))
    assert str(values) == "twice the images: +1.1 points (0.4 to 1.8)"
    measured = replace(values, doubled=0.9123, doubled_interval=(0.8914, 0.9331))
    assert str(measured) == (
        "twice the images: +1.1 points (0.4 to 1.8) on average over sets of new images, to decide whether collecting "
        "them pays; with one such set these test images will show 0.912 (0.891 to 0.933), to promise or check a result"
    )


def test_scores_have_wilsons_interval_and_the_seed_decides(rng: np.random.Generator):
    right = draw_right(rng, power_law(0.02, 0.05, 0.5)[0], 200)[0]
    found = forecast_gain(SIZES, right)
    assert found.sizes == tuple(SIZES)
    assert found.intervals == tuple(pytest.approx(wilson_interval(int(row.sum()), 200)) for row in right)
    assert found == forecast_gain(SIZES, right)
    assert found == forecast_gain(SIZES, right[None])
    assert found.gain_interval != forecast_gain(SIZES, right, seed=1).gain_interval


def test_luck_of_the_draw_widens_the_interval():
    errors = power_law(0.03, 0.03, 0.5)[0]
    right = draw_right(np.random.default_rng(2), errors, 5000, repeats=5, spread=0.2)
    with_luck, without = (np.ptp(forecast_gain(SIZES, part).gain_interval) for part in (right, right.mean(axis=0)))
    assert with_luck > 1.3 * without


def test_repeats_with_training_images_of_their_own_average_out():
    rng, errors = np.random.default_rng(4), power_law(0.03, 0.03, 0.5)[0]
    right = np.stack([draw_right(rng, errors * (1 + 0.2 * rng.normal(size=5)), 2000)[0] for _ in range(12)])
    few, many = (np.ptp(forecast_gain(SIZES, part).gain_interval) for part in (right[:3], right))
    assert many < few


@pytest.mark.parametrize(
    ("law", "n", "repeats", "spread"),
    [
        ((0.0, 0.06, 0.5), 200, 1, 0.0),
        ((0.03, 0.03, 0.5), 1000, 3, 0.1),
        ((0.018, 0.042, 1.0), 200, 5, 0.07),
        ((0.0, 0.15, 0.2), 200, 1, 0.0),
        ((0.01, 0.01, 0.5), 1000, 1, 0.0),
    ],
)
def test_the_interval_holds_the_true_gain(law: tuple[float, float, float], n: int, repeats: int, spread: float):
    rng, (errors, gain), held = np.random.default_rng(6), power_law(*law), 0
    for _ in range(40):
        right = draw_right(rng, errors, n, repeats=repeats, spread=spread)
        low, high = forecast_gain(SIZES, right, resamples=300).gain_interval
        held += low <= gain <= high
    assert held >= 0.85 * 40


def test_what_cannot_be_forecast_is_refused():
    right = np.ones((5, 10))
    with pytest.raises(OptionError, match=r"^resamples is 10; needed: at least 200\.$"):
        forecast_gain(SIZES, right, resamples=10)
    for sizes, listed in [
        (SIZES[:2], "100, 200"),
        (SIZES[::-1], "1000, 800, 400, 200, 100"),
        (SIZES * 0, "0, 0, 0, 0, 0"),
    ]:
        with pytest.raises(
            TrainingError,
            match=rf"^the sizes are {listed}; needed: 3 or more ascending numbers of training images\.$",
        ):
            forecast_gain(sizes, right)
    with pytest.raises(
        TrainingError,
        match=r"^right has the shape \(4, 10\); needed: \(5, n\) or \(repeats, 5, n\) with n >= 1\.$",
    ):
        forecast_gain(SIZES, right[:4])
    with pytest.raises(TrainingError, match=r"^right holds 2\.0; needed: 0 \(wrong\) to 1 \(right\)\.$"):
        forecast_gain(SIZES, 2 * right)
