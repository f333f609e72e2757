import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss as sklearn_log_loss

from onepass.heads.fitting.folds import assign_folds, fold_masks
from onepass.heads.fitting.temperature import best_inverse_temperature, calibrated_loss, log_loss
from onepass.heads.inference.network import softmax


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=80), st.integers(0, 99))
def test_folds_never_tear_a_group_nor_take_a_class_away(images: list[tuple[int, int]], seed: int):
    labels, groups = (np.array(column) for column in zip(*images, strict=True))
    y = np.unique(labels, return_inverse=True)[1]
    folds = assign_folds(y, groups=groups, seed=seed)
    for group in np.unique(groups):
        assert len(set(folds[groups == group].tolist())) == 1
    for fold in fold_masks(folds).T:
        assert fold.any()
        assert set(y[~fold].tolist()) == set(y.tolist())


def test_folds_are_stratified_and_of_one_size(rng: np.random.Generator):
    y = rng.choice(4, 503, p=[0.5, 0.3, 0.15, 0.05])
    folds = assign_folds(y, seed=3)
    for c in range(4):
        counts = np.bincount(folds[y == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1
    assert (folds != assign_folds(y, seed=4)).any()
    np.testing.assert_array_equal(folds, assign_folds(y, seed=3))


def test_groups_are_dealt_evenly(rng: np.random.Generator):
    groups = rng.integers(0, 80, 600)
    y = (groups % 3 + (rng.random(600) < 0.2)) % 3
    folds = assign_folds(y, groups=groups)
    counts = np.array([np.bincount(y[folds == fold], minlength=3) for fold in range(5)])
    assert (np.abs(counts / counts.mean(axis=0) - 1) < 0.25).all()


def test_a_class_of_one_group_stays_in_training():
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    groups = np.array([0, 1, 2, 3, 4, 4, 5, 6, 0])  # class 1 has one group; class 2 shares one with class 0
    folds = assign_folds(y, groups=groups)
    assert (folds[y == 1] == -1).all()
    assert (folds[y != 1] >= 0).all()


def test_the_inverse_temperature_found_is_the_best(rng: np.random.Generator):
    logits = rng.normal(size=(4000, 3))
    y = np.array([rng.choice(3, p=p) for p in softmax(logits)])
    assert 0.9 < best_inverse_temperature(logits, y) < 1.1
    assert np.isclose(best_inverse_temperature(logits / 7, y) / best_inverse_temperature(logits, y), 7, rtol=1e-3)
    found = minimize_scalar(lambda b: sklearn_log_loss(y, softmax(b * logits / 7)), bracket=(1, 10)).fun
    assert np.isclose(calibrated_loss(logits / 7, y), found, atol=1e-6)


def test_weights_count_as_repetitions(rng: np.random.Generator):
    scores, y = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    times = rng.integers(1, 4, 50)
    repeated = np.repeat(np.arange(50), times)
    assert np.isclose(log_loss(scores, y, times), log_loss(scores[repeated], y[repeated]))


def test_weights_of_any_size_leave_the_temperature_and_uneven_ones_lower_it(rng: np.random.Generator):
    scores, y = separated(rng, n=50, k=3)
    even = best_inverse_temperature(scores, y)
    assert np.isclose(best_inverse_temperature(scores, y, np.full(50, 0.1)), even)
    alike = np.tile(scores[:1], (50, 1))
    uneven = np.where(np.arange(50) < 2, 1.0, 1e-9)  # two rows and next to nothing
    two = best_inverse_temperature(alike[:2], np.full(2, y[0]))
    assert np.isclose(best_inverse_temperature(alike, np.full(50, y[0]), uneven), two, rtol=1e-3)


def separated(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) scores of which the largest is that of the class."""
    y = np.arange(n) % k
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), y] = scores.max(axis=1) + rng.uniform(0.5, 3, n)
    return scores, y


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 400), st.integers(2, 30), st.floats(-9, 9), st.floats(0.01, 100))
def test_rows_that_lead_alike_get_the_probability_that_their_number_allows(n: int, k: int, shift: float, lead: float):
    y = np.arange(n) % k
    scores = shift + lead * np.eye(k)[y]
    p = softmax(best_inverse_temperature(scores, y) * scores)[np.arange(n), y]
    np.testing.assert_allclose(1 - p, 1 / (n + 2), rtol=1e-3)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 400), st.integers(2, 12), st.integers(0, 10**6), st.floats(-3, 6))
def test_rows_without_an_error_are_claimed_to_have_one_in_n_plus_2(n: int, k: int, seed: int, size: float):
    scores, y = separated(np.random.default_rng(seed), n, k)
    scores *= 10**size  # what the scores are measured in does not matter
    p = softmax(best_inverse_temperature(scores, y) * scores)
    own = (np.arange(n), y)
    leads, wrong = scores[own][:, None] - scores, p.copy()
    wrong[own] = 0
    weighed = (wrong * leads).sum(axis=1)
    assert np.isclose(weighed.sum(), leads.sum() / (k - 1) / (n + 2), rtol=1e-2)
    h = weighed / wrong.sum(axis=1)
    assert np.average(1 - p[own], weights=h) >= 0.99 / (n + 2)


def test_scores_that_do_not_differ_are_left_alone():
    assert best_inverse_temperature(np.ones((4, 3)), np.array([0, 1, 2, 0])) == 1
