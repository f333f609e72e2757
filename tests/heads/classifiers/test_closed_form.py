"""Ridge, discriminant analysis and centroids, against scikit-learn and against fits that really leave images out."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from onepass.features.errors import OptionError
from onepass.heads import CentroidHead, LDAHead, RidgeHead
from onepass.heads.classifiers.base import Head
from onepass.heads.classifiers.centroid import _Moments
from onepass.heads.classifiers.lda import _Scatter
from onepass.heads.classifiers.ridge import _Weighted
from onepass.heads.fitting.pca import PrincipalComponents, principal_axes
from onepass.heads.inference.network import softmax
from support import blobs

SHAPES = pytest.mark.parametrize("shape", [(120, 20), (60, 150)], ids=["tall", "wide"])


def scaled(x: np.ndarray) -> np.ndarray:
    return PrincipalComponents.of(x).standardised.astype(np.float64)


def targets(y: np.ndarray) -> np.ndarray:
    return 2.0 * (y[:, None] == np.arange(y.max() + 1)) - 1


@SHAPES
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 1.0, 2: 0.2}])
def test_ridge_equals_scikit_learns(shape: tuple[int, int], class_weight, rng: np.random.Generator):
    x, y = blobs(rng, *shape)
    kept = (y > 0) | (rng.random(len(y)) < 0.5)
    x, y = x[kept], y[kept]
    head = RidgeHead(alpha=5.0, class_weight=class_weight, tune="none").fit(x, y)
    weights = head._class_weights(y)[y]
    reference = Ridge(alpha=5.0).fit(scaled(x), targets(y), sample_weight=weights)
    np.testing.assert_allclose(head.network_.scores(x), reference.predict(scaled(x)), atol=2e-5)


@SHAPES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_ridge_leaves_groups_out_exactly(shape: tuple[int, int], weighted: bool, size: int, rng: np.random.Generator):
    x, y = blobs(rng, *shape)
    z = scaled(x)
    weights = rng.uniform(0.5, 2, len(y)) if weighted else np.ones(len(y))
    centre = np.average(z, axis=0, weights=weights)
    _, rotated = principal_axes((z - centre) * np.sqrt(weights)[:, None])
    groups = np.split(rng.permutation(len(y)), len(y) // size) if size > 1 else []
    found = _Weighted(rotated, targets(y), weights).left_out(4.0, groups)
    for group in (groups or np.arange(len(y))[:, None])[:7]:
        kept = np.setdiff1d(np.arange(len(y)), group)
        without = Ridge(alpha=4.0).fit(z[kept], targets(y)[kept], sample_weight=weights[kept])
        np.testing.assert_allclose(found[group], without.predict(z[group]), atol=1e-6)


def test_ridge_tuning_uses_those_scores(rng: np.random.Generator):
    x, y = blobs(rng, 60, 30, spread=0.8)
    head = RidgeHead(alpha=20.0).fit(x, y)
    z, factors = (
        scaled(x),
        head.network_.kernels[0] / RidgeHead(alpha=20.0, tune="none").fit(x, y).network_.kernels[0],
    )
    factor = float(np.median(factors))
    for i in range(5):
        kept = np.arange(60) != i
        scores = Ridge(alpha=20.0).fit(z[kept], targets(y)[kept]).predict(z[i : i + 1])
        np.testing.assert_allclose(head.held_out_[i], softmax(factor * scores)[0], atol=1e-4)


@SHAPES
@pytest.mark.parametrize("shrinkage", [0.05, 0.6, 1.0])
def test_lda_equals_scikit_learns(shape: tuple[int, int], shrinkage: float, rng: np.random.Generator):
    x, y = blobs(rng, *shape, spread=0.6)
    head = LDAHead(shrinkage=shrinkage, tune="none").fit(x, y)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(scaled(x), y)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(scaled(x)), atol=1e-4)


@pytest.mark.parametrize("shape", [(120, 20), (60, 150), (40, 150)])
def test_lda_takes_rows_away_exactly(shape: tuple[int, int], rng: np.random.Generator):
    x, y = blobs(rng, *shape, spread=0.6)
    components = PrincipalComponents.of(x)
    scatter = _Scatter(components.exact, y, np.ones(len(y)), np.ones(3), components.exact.shape[1])
    for gone in (np.array([5]), np.arange(0, len(y), 4), np.arange(len(y) // 2)):
        kept = np.setdiff1d(np.arange(len(y)), gone)
        weights, bias = scatter.without(gone).fit(0.3)
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(components.exact[kept], y[kept])
        found = softmax(components.exact[gone] @ weights + bias)
        np.testing.assert_allclose(found, reference.predict_proba(components.exact[gone]), atol=1e-6)


@pytest.mark.parametrize("shrink", [0.0, 1.5])
def test_centroids_equal_scikit_learns(shrink: float, rng: np.random.Generator):
    x, y = blobs(rng, 90, 30, spread=0.5)
    head = CentroidHead(shrink=shrink, tune="none").fit(x, y)
    reference = NearestCentroid(shrink_threshold=shrink or None).fit(scaled(x), y)
    distances = np.square(scaled(x)[:, None] - reference.centroids_).sum(axis=2)
    np.testing.assert_array_equal(head.predict(x), reference.classes_[distances.argmin(axis=1)])
    logs = np.log(head.predict_proba(x))
    np.testing.assert_allclose(logs - logs[:, :1], -0.5 * (distances - distances[:, :1]), atol=2e-3)


def test_moments_of_a_fold_can_be_taken_away(rng: np.random.Generator):
    x, y = blobs(rng, 60, 10)
    fold = np.arange(60) % 4 == 0
    w = rng.uniform(0.5, 2, 60)
    left = _Moments.of(x, y, w, 3).minus(_Moments.of(x[fold], y[fold], w[fold], 3)).discriminants(0.7, np.ones(3))
    direct = _Moments.of(x[~fold], y[~fold], w[~fold], 3).discriminants(0.7, np.ones(3))
    for found, expected in zip(left, direct, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("head", "message"), [
    (RidgeHead(alpha=-1), "alpha is -1; needed: a finite number above 0."),
    (LDAHead(shrinkage=0), "shrinkage is 0; needed: above 0, and at most 1."),
    (LDAHead(shrinkage=1.5), "shrinkage is 1.5; needed: above 0, and at most 1."),
    (CentroidHead(shrink=-0.1), "shrink is -0.1; needed: a finite number, 0 or more."),
])  # fmt: skip
def test_strengths_out_of_range_are_refused(head: Head, message: str, rng: np.random.Generator):
    with pytest.raises(OptionError, match=f"^{message}$"):
        head.fit(*blobs(rng, 30))


@pytest.mark.parametrize("kind", [RidgeHead, LDAHead, CentroidHead])
def test_a_thorough_search_is_no_worse_on_the_folds(kind: type[Head], rng: np.random.Generator):
    x, y = blobs(rng, 150, 40, spread=0.5)
    losses = []
    for tune in ("fast", "thorough"):
        found = kind(tune=tune).fit(x, y).held_out_
        losses.append(-np.log(found[np.arange(150), y]).mean())
    assert losses[1] <= losses[0] + 1e-6
