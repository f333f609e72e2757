import numpy as np

from onepass.heads.fitting.pca import moments


def test_moments_of_pieces_are_those_of_all_rows_however_far_from_zero_they_lie(rng: np.random.Generator):
    rows = (rng.normal(size=(500, 30)) @ rng.normal(size=(30, 30)) + 1000).astype(np.float32)
    n, mean, covariance = moments(np.array_split(rows, [3, 10, 400]))
    exact = rows.astype(np.float64)
    assert n == 500
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(covariance, np.cov(exact.T, bias=True), rtol=1e-4, atol=1e-4)
