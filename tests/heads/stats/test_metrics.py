import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from onepass.features.errors import OptionError, TrainingError
from onepass.heads.stats.metrics import HIGHER_IS_BETTER, METRICS, calibration_error, metric


def reference(name: str, p: np.ndarray, y: np.ndarray) -> float:
    """The same score from scikit-learn, for the classes that have images."""
    answers, present = p.argmax(axis=1), np.unique(y)
    if name == "accuracy":
        return sk.accuracy_score(y, answers)
    if name == "balanced":
        return sk.recall_score(y, answers, labels=present, average="macro", zero_division=0)
    if name == "macro-f1":
        return sk.f1_score(y, answers, labels=present, average="macro", zero_division=0)
    if name == "log-loss":
        return sk.log_loss(y, p, labels=range(p.shape[1]))
    if len(present) == 1:
        return np.nan
    if p.shape[1] == 2:
        return sk.roc_auc_score(y, p[:, 1])
    return float(np.mean([sk.roc_auc_score(y == i, p[:, i]) for i in present]))


def draw_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Few or many images and classes, level probabilities, zeros and ones, classes without images."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(2, 60)), int(rng.integers(2, 7))
    p = rng.dirichlet(np.full(k, rng.choice([0.05, 1.0, 5.0])), n)
    if rng.random() < 0.5:
        p = np.round(p * 4) + 1e-9
        p /= p.sum(axis=1, keepdims=True)
    if rng.random() < 0.3:
        p = np.eye(k)[p.argmax(axis=1)]
    return p, rng.integers(0, rng.integers(1, k + 1), n), rng


@pytest.mark.parametrize("name", METRICS)
def test_scores_equal_scikit_learns(name: str):
    for seed in range(40):
        p, y, _ = draw_case(seed)
        np.testing.assert_allclose(metric(name, p, y), reference(name, p, y), rtol=1e-10, atol=1e-13)


def test_balanced_and_auroc_are_scikit_learns_own_where_it_has_them(rng: np.random.Generator):
    p, y = rng.dirichlet(np.ones(5), 300), rng.integers(0, 5, 300)
    assert metric("auroc", p, y) == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert metric("balanced", p, y) == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(axis=1)))
    assert metric("macro-f1", p, y) == pytest.approx(sk.f1_score(y, p.argmax(axis=1), average="macro"))


@pytest.mark.parametrize("name", METRICS)
def test_weights_are_repeated_images(name: str):
    for seed in range(40):
        p, y, rng = draw_case(seed)
        weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=5)
        expected = [metric(name, p[rows], y[rows]) for rows in (np.repeat(np.arange(len(y)), w) for w in weights)]
        np.testing.assert_allclose(metric(name, p, y, weights=weights), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["accuracy", "log-loss", "auroc"])
def test_fractional_weights_are_scikit_learns_sample_weights(name: str, rng: np.random.Generator):
    p, y, weights = rng.dirichlet(np.ones(2), 80), np.arange(80) % 2, rng.random((3, 80))
    by_sklearn = {
        "accuracy": lambda w: sk.accuracy_score(y, p.argmax(axis=1), sample_weight=w),
        "log-loss": lambda w: sk.log_loss(y, p, sample_weight=w),
        "auroc": lambda w: sk.roc_auc_score(y, p[:, 1], sample_weight=w),
    }[name]
    np.testing.assert_allclose(metric(name, p, y, weights=weights), [by_sklearn(w) for w in weights], rtol=1e-10)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_head_scores_best(name: str):
    y = np.array([0, 1, 2, 2])
    assert metric(name, np.eye(3)[y], y) == pytest.approx(1.0 if HIGHER_IS_BETTER[name] else 0.0, abs=1e-15)


def test_a_sure_mistake_costs_a_finite_loss():
    assert metric("log-loss", np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(36.04, abs=0.01)


def test_an_auroc_of_one_class_is_undefined_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(metric("auroc", np.full((4, 3), 1 / 3), np.zeros(4, int)))
        assert np.isnan(metric("auroc", np.full((4, 2), 1 / 2), np.ones(4, int)))
        found = metric(
            "auroc", np.full((4, 2), 1 / 2), np.array([0, 0, 1, 1]), weights=np.array([[1, 1, 0, 0], [1] * 4])
        )
    np.testing.assert_array_equal(found, [np.nan, 0.5])


def test_float32_probabilities_are_scored_in_float64(rng: np.random.Generator):
    p, y = rng.dirichlet(np.ones(4), 50).astype(np.float32), rng.integers(0, 4, 50)
    for name in METRICS:
        assert metric(name, p, y) == metric(name, p.astype(np.float64), y)


def test_an_unknown_metric_is_refused_with_the_ones_there_are():
    with pytest.raises(
        OptionError, match=r"^unknown metric 'f1'; there are accuracy, balanced, macro-f1, log-loss, auroc\.$"
    ):
        metric("f1", np.eye(2), np.arange(2))


@pytest.mark.parametrize("name", METRICS)
def test_no_images_are_refused(name: str):
    with pytest.raises(TrainingError, match=rf"^there are no images to compute {name} on; needed: at least 1\.$"):
        metric(name, np.zeros((0, 3)), np.zeros(0, int))


def test_the_calibration_error_is_the_mean_gap_of_the_bins(rng: np.random.Generator):
    p, y = rng.dirichlet(np.full(4, 0.5), 500), rng.integers(0, 4, 500)
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    expected = 0.0
    for i in range(15):
        inside = (sure > i / 15) & (sure <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert calibration_error(p, y) == pytest.approx(expected, abs=1e-12)


def test_a_head_that_is_right_as_often_as_it_says_is_calibrated():
    p = np.tile([0.75, 0.25], (8, 1))
    assert calibration_error(p, np.array([0] * 6 + [1] * 2)) == 0
    assert calibration_error(p, np.zeros(8, int)) == pytest.approx(0.25)
    assert calibration_error(np.eye(2), np.array([1, 0]), bins=1) == 1


def test_impossible_calibration_errors_are_refused():
    with pytest.raises(OptionError, match=r"^bins is 0; needed: at least 1\.$"):
        calibration_error(np.eye(2), np.arange(2), bins=0)
    with pytest.raises(
        TrainingError, match=r"^there are no images to compute the calibration error on; needed: at least 1\.$"
    ):
        calibration_error(np.zeros((0, 2)), np.zeros(0, int))
