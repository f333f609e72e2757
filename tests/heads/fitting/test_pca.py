import gc
import weakref

import numpy as np
import pytest

from onepass.features.moments import moments
from onepass.heads import KNNHead, RidgeHead
from onepass.heads.fitting.pca import SharedComponents
from support import blobs


def test_moments_of_pieces_are_those_of_all_rows_however_far_from_zero_they_lie(rng: np.random.Generator):
    rows = (rng.normal(size=(500, 30)) @ rng.normal(size=(30, 30)) + 1000).astype(np.float32)
    n, mean, covariance = moments(np.array_split(rows, [3, 10, 400]))
    exact = rows.astype(np.float64)
    assert n == 500
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(covariance, np.cov(exact.T, bias=True), rtol=1e-4, atol=1e-4)


def test_shared_components_are_computed_once_for_the_same_rows_and_change_no_head(rng: np.random.Generator):
    x, y = blobs(rng, 90)
    shared = SharedComponents()
    heads = [kind().fit(x, y, shared=shared) for kind in (RidgeHead, KNNHead)]
    components = shared.of(x)
    assert shared.of(x.copy()) is components
    assert shared.of(x[1:]) is not components
    for head in heads:
        np.testing.assert_array_equal(head.predict_proba(x), type(head)().fit(x, y).predict_proba(x))


def test_a_fit_keeps_no_training_rows_alive(rng: np.random.Generator):
    x, y = blobs(rng, 60)
    made = []
    original = SharedComponents.of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedComponents, "of", lambda s, rows: made.append(weakref.ref(s)) or original(s, rows))
        head = RidgeHead().fit(x, y)
    gc.collect()
    assert made
    assert [ref() for ref in made] == [None] * len(made)
    assert head.score(x, y) > 0.5
