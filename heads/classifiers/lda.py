"""Linear discriminant analysis with a shrunk covariance, all shrinkages and folds from one factorisation."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.network import DenseNetwork

_SHRINKAGES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)


class LDAHead(Head):
    """Gaussian classes with one covariance, shrunk towards a multiple of the identity.

    In the rows' principal axes the total scatter is diagonal, and the scatter within the classes of the
    rows outside a fold is that minus a few outer products: those of the class means, and those of the
    fold's rows. So each fold and shrinkage costs one small linear system (Woodbury's formula).

    Class weights act on the priors.

    Args:
        shrinkage: 0 < shrinkage <= 1 of the covariance, as in scikit-learn; found on the folds if None.
        class_weight, tune, time_limit, seed: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> LDAHead(shrinkage=0.1).fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']

    Source: J. H. Friedman (1989), J. Am. Stat. Assoc. 84(405), 165-175; M. A. Woodbury (1950).
    """

    kind = "lda"

    def __init__(
        self,
        *,
        shrinkage: float | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        self.shrinkage = shrinkage
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        weights = np.repeat(rows.sample_weights, rows.views)
        centre, axes, z = components.weighted(weights)
        width = len(components.mean)
        scatter = _Scatter(z, np.repeat(rows.y, rows.views), weights, rows.class_weights, width)
        best = None
        if rows.scored.any():
            best = best_trial(rows, _trials(scatter, rows, self._shrinkages(rows.thorough)))
        shrinkage = best.setting if best else self.shrinkage or 0.1
        weights, bias = scatter.without(np.empty(0, np.int64)).fit(shrinkage)
        kernel = axes @ weights
        bias = bias - centre @ kernel
        network = DenseNetwork(
            components.mean, components.scale, (kernel.astype(np.float32),), (bias.astype(np.float32),)
        )
        return Fit(network, {"shrinkage": shrinkage}, best.scores if best else None)

    def _shrinkages(self, thorough: bool) -> tuple[float, ...]:
        if self.shrinkage is not None:
            return (float(self.shrinkage),)
        between = [float(f"{np.sqrt(a * b):.2g}") for a, b in pairwise(_SHRINKAGES)]
        return tuple(sorted({*_SHRINKAGES, *between}, reverse=True)) if thorough else _SHRINKAGES


class _Scatter:
    """Class means and scatter within classes, in axes where the total scatter is diagonal.

    Args:
        z: (m, r) rows along their principal axes, of mean 0.
        y: (m,) classes 0 to k - 1.
        weights: (m,) of the rows.
        priors: (k,) factors on the class shares.
        width: Features d; the r axes may be fewer.
    """

    def __init__(self, z: np.ndarray, y: np.ndarray, weights: np.ndarray, priors: np.ndarray, width: int) -> None:
        self.z, self.y, self.weights, self.priors, self.width = z, y, weights, priors, width
        self.total = weights @ np.square(z)
        self.counts = np.bincount(y, weights, minlength=len(priors))
        self.means = np.stack([np.average(z[y == c], axis=0, weights=weights[y == c]) for c in range(len(priors))])

    def without(self, held_out: np.ndarray) -> "_Downdated":
        """The same of all rows but those at the given positions."""
        z, y, weights = self.z[held_out], self.y[held_out], self.weights[held_out]
        gone = np.bincount(y, weights, minlength=len(self.priors))
        kept = self.counts - gone
        apart = z - self.means[y]
        removed = apart * np.sqrt(weights)[:, None]
        sums = np.zeros_like(self.means)
        np.add.at(sums, y, apart * weights[:, None])
        # Taking g rows away moves a class mean by -sum / kept, and its scatter by as much again as below.
        further = sums[gone > 0] / np.sqrt(kept[gone > 0])[:, None]
        columns = np.concatenate([np.sqrt(self.counts)[:, None] * self.means, removed, further])
        return _Downdated(self, self.means - sums / kept[:, None], kept, columns)


class _Downdated:
    """What is left of a scatter when rows are taken away: diag(total) - columns' columns."""

    def __init__(self, scatter: _Scatter, means: np.ndarray, counts: np.ndarray, columns: np.ndarray) -> None:
        self.means, self.total, self.columns = means, scatter.total, columns
        self.trace = (self.total.sum() - np.square(columns).sum()) / scatter.width
        shares = counts * scatter.priors
        self.log_priors, self.count = np.log(shares / shares.sum()), counts.sum()

    def fit(self, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
        """(r, k) weights and (k,) biases of the discriminants, in the shrunk covariance."""
        # cov = ((1 - shrinkage) scatter + shrinkage trace / d) / count. As much as rounding leaves stays above 0.
        ridge = max(shrinkage * self.trace, 1e-9 * self.total.max())
        weights = self.count * self._solve((1 - shrinkage), ridge, self.means.T)
        return weights, self.log_priors - 0.5 * np.einsum("kr,rk->k", self.means, weights)

    def _solve(self, share: float, ridge: float, right: np.ndarray) -> np.ndarray:
        """(share * (diag(total) - columns' columns) + ridge)^-1 right."""
        diagonal = (share * self.total + ridge)[:, None]
        if len(self.columns) > len(self.total) // 2:
            matrix = np.diag(diagonal[:, 0]) - share * (self.columns.T @ self.columns)
            return np.asarray(cho_solve(cho_factor(matrix, overwrite_a=True), right))
        first = right / diagonal
        inner = np.eye(len(self.columns)) - share * (self.columns @ (self.columns.T / diagonal))
        correction = cho_solve(cho_factor(inner), self.columns @ first)
        return np.asarray(first + share * (self.columns.T @ correction) / diagonal)


def _trials(scatter: _Scatter, rows: TrainingRows, shrinkages: tuple[float, ...]) -> Iterator[tuple[float, np.ndarray]]:
    """(shrinkage, held-out scores)."""
    plain = scatter.z[:: rows.views]
    all_views = np.repeat(rows.held_out, rows.views, axis=0)
    folds = [scatter.without(np.flatnonzero(fold)) for fold in all_views.T]
    for shrinkage in shrinkages:
        scores = np.zeros((len(rows.y), rows.outputs))
        for held_out, fold in zip(rows.held_out.T, folds, strict=True):
            weights, bias = fold.fit(shrinkage)
            scores[held_out] = plain[held_out] @ weights + bias
        yield shrinkage, scores
