"""Nearest class mean, with means shrunk towards the middle."""

from collections.abc import Iterator

import numpy as np

from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.fitting.pca import PrincipalComponents
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.network import DenseNetwork


class CentroidHead(Head):
    """Nearest shrunken centroid by Euclidean distance of standardised rows.

    Every class mean moves towards the overall mean by `shrink` standard errors in each feature, and
    stops there: features that tell nothing drop out.

    Args:
        shrink: 0 or more standard errors; found on the folds if None.
        class_weight: Acts on the priors, which are even unless weights are given.
        tune, time_limit, seed: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> CentroidHead(tune="none").fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']

    Source: R. Tibshirani et al. (2002), PNAS 99(10), 6567-6572.
    """

    kind = "centroid"

    def __init__(
        self,
        *,
        shrink: float | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        self.shrink = shrink
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        weights = np.repeat(rows.sample_weights, rows.views)
        moments = _Moments.of(components.standardised, np.repeat(rows.y, rows.views), weights, rows.outputs)
        best = best_trial(rows, self._trials(moments, components, rows)) if rows.scored.any() else None
        shrink = best.setting if best else self.shrink or 0.0
        kernel, bias = moments.discriminants(shrink, rows.class_weights)
        network = DenseNetwork(
            components.mean, components.scale, (kernel.astype(np.float32),), (bias.astype(np.float32),)
        )
        return Fit(network, {"shrink": shrink}, best.scores if best else None)

    def _trials(
        self, whole: "_Moments", components: PrincipalComponents, rows: TrainingRows
    ) -> Iterator[tuple[float, np.ndarray]]:
        """(shrink, held-out scores)."""
        plain, step = components.standardised[:: rows.views], 0.25 if rows.thorough else 1.0
        all_views, y = np.repeat(rows.held_out, rows.views, axis=0), np.repeat(rows.y, rows.views)
        weights = np.repeat(rows.sample_weights, rows.views)
        parts = (_Moments.of(components.standardised[out], y[out], weights[out], rows.outputs) for out in all_views.T)
        folds = [whole.minus(part) for part in parts]
        for shrink in np.arange(0, 8.1, step).tolist() if self.shrink is None else [float(self.shrink)]:
            scores = np.zeros((len(rows.y), rows.outputs))
            for held_out, fold in zip(rows.held_out.T, folds, strict=True):
                kernel, bias = fold.discriminants(shrink, rows.class_weights)
                scores[held_out] = plain[held_out] @ kernel.astype(np.float32) + bias
            yield shrink, scores


class _Moments:
    """Counts (k,), sums (k, d) and sums of squares (d,) of weighted rows; they can be subtracted."""

    def __init__(self, counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> None:
        self.counts, self.sums, self.squares = counts, sums, squares

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weights: np.ndarray, classes: int) -> "_Moments":
        shares = (y == np.arange(classes)[:, None]) * weights
        return cls(shares.sum(axis=1), shares @ x, np.einsum("n,nd,nd->d", weights, x, x, dtype=np.float64))

    def minus(self, other: "_Moments") -> "_Moments":
        return _Moments(self.counts - other.counts, self.sums - other.sums, self.squares - other.squares)

    def discriminants(self, shrink: float, class_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(d, k) weights and (k,) biases whose scores order classes as the distances to their centroids do."""
        n, k = self.counts.sum(), len(self.counts)
        means, middle = self.sums / self.counts[:, None], self.sums.sum(axis=0) / n
        within = np.maximum(self.squares - (self.counts[:, None] * np.square(means)).sum(axis=0), 0)
        deviation = np.sqrt(within / max(n - k, 1))
        errors = np.sqrt(1 / self.counts - 1 / n)[:, None] * (deviation + np.median(deviation))
        moved = means - middle
        centroids = middle + np.sign(moved) * np.maximum(np.abs(moved) - shrink * errors, 0)
        return centroids.T, np.log(class_weights) - 0.5 * np.square(centroids).sum(axis=1)
