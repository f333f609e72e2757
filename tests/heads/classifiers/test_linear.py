"""Logistic regression and the linear SVM, and the solver below them."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import LinearSVC

from onepass.features.errors import OptionError
from onepass.heads import LogisticHead, SVMHead
from onepass.heads.classifiers.base import Head
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.fitting.linear_solver import Problems, fit_path, multinomial, squared_hinge
from onepass.heads.fitting.pca import PrincipalComponents, principal_axes
from onepass.heads.inference.keras_layers import to_keras
from onepass.heads.inference.network import standardisation
from support import blobs


@pytest.mark.parametrize("kind", [LogisticHead, SVMHead])
def test_a_strength_that_is_not_positive_is_refused(kind: type[Head], rng: np.random.Generator):
    with pytest.raises(OptionError, match="C is -1; needed: a finite number above 0."):
        kind(C=-1).fit(*blobs(rng))


def scaled(x: np.ndarray) -> np.ndarray:
    mean, scale = standardisation(x)
    return ((x - mean) / scale).astype(np.float64)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("shape", [(200, 30), (60, 150)], ids=["tall", "wide"])
def test_logistic_regression_equals_scikit_learns(k: int, shape: tuple[int, int], rng: np.random.Generator):
    x, y = blobs(rng, *shape, k)
    head = LogisticHead(C=0.05, tune="none").fit(x, y)
    reference = LogisticRegression(C=0.05, tol=1e-10, max_iter=10_000).fit(scaled(x), y)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(scaled(x)), atol=2e-4)


def test_the_svm_equals_liblinear(rng: np.random.Generator):
    x, y = blobs(rng, 200, 30, 3)
    z = scaled(x)
    ((fit,),) = fit_path(Problems(z, y, np.ones((200, 1), bool), squared_hinge), (0.01,), tolerance=1e-8)
    reference = LinearSVC(C=0.01, dual=False, tol=1e-10, intercept_scaling=1e4, max_iter=100_000).fit(z, y)
    np.testing.assert_allclose(fit.scores(z), reference.decision_function(z), atol=2e-3)


@pytest.mark.parametrize("loss", [multinomial, squared_hinge])
def test_the_derivatives_of_the_losses_are_right(loss, rng: np.random.Generator):
    y = np.array([0, 2, 1])

    def value(flat: np.ndarray) -> float:
        return loss.slope(flat.reshape(3, 1, 3), y)[0].sum()

    def slope(flat: np.ndarray) -> np.ndarray:
        return loss.slope(flat.reshape(3, 1, 3), y)[1].ravel()

    assert check_grad(value, slope, rng.normal(size=9)) < 1e-5


def test_folds_side_by_side_equal_folds_one_by_one(rng: np.random.Generator):
    x, y = blobs(rng, 120, 10)
    z = scaled(x)
    train = rng.random((120, 2)) < 0.7
    strengths = (0.01, 0.1)
    together = list(fit_path(Problems(z, y, train, multinomial), strengths, tolerance=1e-8))[-1]
    for fold in (0, 1):
        rows = train[:, fold]
        one = Problems(z[rows], y[rows], np.ones((rows.sum(), 1), bool), multinomial)
        alone = list(fit_path(one, strengths, tolerance=1e-8))
        np.testing.assert_allclose(together[fold].scores(z), alone[-1][0].scores(z), atol=1e-3)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_principal_axes_lose_nothing(shape: tuple[int, int], rng: np.random.Generator):
    x = rng.normal(size=shape).astype(np.float32)
    x -= x.mean(axis=0)
    axes, rotated = principal_axes(x)
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)
    np.testing.assert_allclose(rotated @ axes.T, x, atol=1e-5)
    np.testing.assert_allclose(np.square(rotated).sum(axis=0), np.linalg.svd(x)[1][: axes.shape[1]] ** 2, rtol=1e-4)


@pytest.mark.parametrize("shape", [(30, 80), (60, 80), (80, 30)])
def test_turned_rows_are_the_same_rows(shape: tuple[int, int], rng: np.random.Generator):
    components = PrincipalComponents.of((rng.normal(size=shape) * 0.9 ** np.arange(shape[1])).astype(np.float32))
    values, axes = components.rotation
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-5)
    np.testing.assert_allclose(components.rotated @ axes.T, components.standardised, atol=1e-5)
    np.testing.assert_allclose(np.square(components.rotated).sum(axis=0), values, rtol=1e-3, atol=1e-5 * values[0])


def test_the_second_derivatives_of_the_losses_are_right(rng: np.random.Generator):
    scores, y, step = rng.normal(size=(5, 1, 3)), np.array([0, 2, 1, 1, 0]), 1e-6
    for loss in (multinomial, squared_hinge):
        for j in range(3):
            moved = scores + step * (np.arange(3) == j)
            difference = (loss.slope(moved, y)[1] - loss.slope(scores, y)[1])[:, :, j] / step
            np.testing.assert_allclose(loss.curvature(scores, y)[:, :, j], difference, atol=1e-4)


def test_tuning_chooses_as_well_as_a_grid_search(rng: np.random.Generator):
    x, y = blobs(rng, 300, 60, 4, spread=1.0)
    head = LogisticHead().fit(x[:200], y[:200])
    search = GridSearchCV(
        LogisticRegression(max_iter=5000),
        {"C": LogisticHead.strengths()},
        scoring="neg_log_loss",
        cv=PredefinedSplit(assign_folds(y[:200])),
    ).fit(scaled(x[:200]), y[:200])
    assert abs(np.log10(head.chosen_["C"]) - np.log10(search.best_params_["C"])) <= 0.51


@pytest.mark.parametrize("class_weight", ["balanced", {0: 4.0, 1: 1.0, 2: 0.5}])
def test_class_weights_mean_what_they_mean_in_scikit_learn(class_weight, rng: np.random.Generator):
    x, y = blobs(rng, 150, 30)
    kept = (y > 0) | (rng.random(150) < 0.4)
    x, y = x[kept], y[kept]
    head = LogisticHead(C=0.05, class_weight=class_weight, tune="none").fit(x, y)
    reference = LogisticRegression(C=0.05, class_weight=class_weight, tol=1e-10, max_iter=10_000).fit(scaled(x), y)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(scaled(x)), atol=2e-4)


def test_svm_probabilities_are_calibrated_on_held_out_folds(rng: np.random.Generator):
    x, y = blobs(rng, 1200, 20, 3, spread=0.8)
    head = SVMHead().fit(x[:600], y[:600])
    probabilities = head.predict_proba(x[600:])
    confidence, right = probabilities.max(axis=1), head.predict(x[600:]) == y[600:]
    assert abs(confidence.mean() - right.mean()) < 0.05


@pytest.mark.parametrize("kind", [LogisticHead, SVMHead])
def test_linear_heads_fold_into_keras_too(kind: type[Head], rng: np.random.Generator):
    x, y = blobs(rng)
    head = kind().fit(x, y)
    np.testing.assert_allclose(head.predict_proba(x), to_keras(head.network_).predict(x, verbose=0), atol=1e-5)
