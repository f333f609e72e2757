"""Heads that keep training rows: nearest neighbours and the SVM with a Gaussian kernel."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from onepass.features.errors import OptionError
from onepass.heads import KNNHead, RBFSVMHead
from onepass.heads.classifiers.base import Head
from onepass.heads.fitting.pca import PrincipalComponents
from onepass.heads.inference.kernel_machine import squared_distances
from onepass.heads.inference.neighbour_table import vote_scores
from support import blobs


def scaled(x: np.ndarray) -> np.ndarray:
    return PrincipalComponents.of(x).standardised.astype(np.float64)


def test_knn_votes_as_scikit_learns(rng: np.random.Generator):
    x, y = blobs(rng, 200, 15, spread=0.5)
    z = scaled(x[:120])
    head = KNNHead(neighbours=7, decay=0.1, tune="none").fit(x[:120], y[:120])
    new = (x[120:] - head.network_.mean) / head.network_.scale

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / 0.1)

    reference = KNeighborsClassifier(7, metric="cosine", algorithm="brute", weights=weights).fit(z, y[:120])
    nearest = reference.kneighbors(new)[0]
    total = weights(nearest).sum(axis=1, keepdims=True)
    shares = reference.predict_proba(new)
    np.testing.assert_allclose(head.predict_proba(x[120:]), (shares * total + 1 / 3) / (total + 1), atol=1e-5)


def test_knn_leaves_each_image_and_its_group_out(rng: np.random.Generator):
    x, y = blobs(rng, 60, 15, spread=0.5)
    groups = np.arange(60) // 2
    head = KNNHead(neighbours=5, decay=0.2).fit(x, y, groups=groups)
    z = scaled(x) / np.linalg.norm(scaled(x), axis=1, keepdims=True)
    for i in (0, 17, 59):
        others = np.flatnonzero(groups != groups[i])
        cosines = z[others] @ z[i]
        nearest = np.argsort(-cosines)[:5]
        scores = vote_scores(cosines[nearest][None], np.eye(3)[y[others[nearest]]][None], 0.2)[0]
        expected = np.exp(head.network_.inverse_temperature * scores)
        np.testing.assert_allclose(head.held_out_[i], expected / expected.sum(), atol=1e-5)


def test_knn_with_fewer_rows_than_neighbours(rng: np.random.Generator):
    x, y = blobs(rng, 9, 5)
    assert KNNHead(neighbours=50, tune="none").fit(x, y).network_.neighbours == 9
    assert KNNHead(neighbours=50).fit(x, y).network_.neighbours == 8


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_rbf_svm_equals_scikit_learns(k: int, class_weight: str | None, rng: np.random.Generator):
    x, y = blobs(rng, 300, 12, k, spread=0.5)
    head = RBFSVMHead(C=3.0, gamma=0.05, class_weight=class_weight, tune="none").fit(x[:200], y[:200])
    new, scores = (x[200:] - head.network_.mean) / head.network_.scale, head.network_.scores(x[200:])
    weights = head._class_weights(y[:200])[y[:200]]
    for c in range(k):
        reference = SVC(C=3.0, gamma=0.05).fit(scaled(x[:200]), y[:200] == c, sample_weight=weights)
        # libsvm itself ends at a tolerance of 1e-3 on the margins.
        np.testing.assert_allclose(scores[:, c], reference.decision_function(new), atol=2e-3)


def test_rbf_tuning_holds_out_whole_folds(rng: np.random.Generator):
    x, y = blobs(rng, 100, 12, 2, spread=0.5)
    head = RBFSVMHead(C=3.0, gamma=0.05)
    rows = head._training_rows(x, y, None, None)
    found, z = head._fit(rows).held_out, scaled(x)
    for fold in rows.held_out.T:
        reference = SVC(C=3.0, gamma=0.05).fit(z[~fold], y[~fold])
        np.testing.assert_allclose(
            (found[fold, 1] - found[fold, 0]) / 2, reference.decision_function(z[fold]), atol=1e-4
        )


def test_squared_distances_are_right(rng: np.random.Generator):
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    np.testing.assert_allclose(squared_distances(a, b), np.square(a[:, None] - b).sum(axis=2), atol=1e-12)


@pytest.mark.parametrize(("head", "message"), [
    (KNNHead(neighbours=0), "neighbours is 0; needed: a finite number above 0."),
    (KNNHead(decay=-1.0), "decay is -1.0; needed: a finite number above 0."),
    (RBFSVMHead(C=0), "C is 0; needed: a finite number above 0."),
    (RBFSVMHead(gamma=float("inf")), "gamma is inf; needed: a finite number above 0."),
])  # fmt: skip
def test_settings_out_of_range_are_refused(head: Head, message: str, rng: np.random.Generator):
    with pytest.raises(OptionError, match=f"^{message}$"):
        head.fit(*blobs(rng, 30))
