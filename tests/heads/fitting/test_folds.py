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
    assert np.isclose(
        best_inverse_temperature(scores, y, times), best_inverse_temperature(scores[repeated], y[repeated]), rtol=1e-3
    )
