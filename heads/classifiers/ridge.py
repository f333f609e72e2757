"""Ridge regression on class indicators, its strength found by exact leave-one-out from one factorisation."""

from collections.abc import Iterator

import numpy as np

from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.fitting.pca import principal_axes
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.network import DenseNetwork


class RidgeHead(Head):
    """Ridge classifier: least squares on targets of +1 for the class and -1 for the others.

    With H = X (X'X + alpha)^-1 X' the prediction of a group g of images by a fit without them is
    t_g - (1 - H_gg)^-1 (t_g - H t): exact, and X'X is decomposed once for all alphas and all images.
    All views of an image, and all images of a group, are left out together.

    Args:
        alpha: Strength of the penalty, as in scikit-learn; found by leave-one-out if None.
        class_weight, tune, time_limit, seed: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> RidgeHead(alpha=1.0).fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']

    Source: T. Hastie, R. Tibshirani and J. Friedman (2009), The Elements of Statistical Learning, 7.10.
    """

    kind = "ridge"

    def __init__(
        self,
        *,
        alpha: float | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        self.alpha = alpha
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        weights = np.repeat(rows.weights[rows.y], rows.views) / rows.views
        centre = np.average(components.standardised, axis=0, weights=weights)
        if np.ptp(weights) == 0:
            axes, z = components.axes, components.exact * np.sqrt(weights[0])
        else:
            axes, z = principal_axes((components.standardised - centre) * np.sqrt(weights)[:, None])
        problem = _Weighted(z, np.repeat(rows.y, rows.views), weights, rows.classes)
        best = None
        if rows.scored.any():
            best = best_trial(rows, _trials(problem, rows, self._alphas(problem, rows.thorough)))
        alpha = best.setting if best else self.alpha or 1e-2 * problem.squares.sum()
        kernel = axes @ problem.weights(alpha)
        bias = problem.mean_target - centre @ kernel
        network = DenseNetwork(
            components.mean, components.scale, (kernel.astype(np.float32),), (bias.astype(np.float32),)
        )
        return Fit(network, {"alpha": alpha}, best.scores if best else None)

    def _alphas(self, problem: "_Weighted", thorough: bool) -> list[float]:
        """From strong to weak, relative to the sum of squares of the rows, so that n and d do not matter."""
        if self.alpha is not None:
            return [float(self.alpha)]
        exponents = np.arange(0, -6.1, -0.25 if thorough else -0.5)
        return [float(f"{problem.squares.sum() * 10.0**e:.3g}") for e in exponents]


class _Weighted:
    """A ridge problem in axes where X'X is diagonal.

    Args:
        z: (m, r) centred rows, each times the root of its weight.
        y: (m,) classes.
        weights: (m,).
        classes: Their number k.
    """

    def __init__(self, z: np.ndarray, y: np.ndarray, weights: np.ndarray, classes: int) -> None:
        targets = 2.0 * (y[:, None] == np.arange(classes)) - 1
        self.mean_target = np.average(targets, axis=0, weights=weights)
        self.roots = np.sqrt(weights)[:, None]
        self.z = z
        self.targets = (targets - self.mean_target) * self.roots
        self.squares = np.square(z).sum(axis=0)
        self.products = z.T @ self.targets
        # What the intercept adds to the leverage: 1/m for equal weights.
        self.intercept = self.roots / np.linalg.norm(self.roots)

    def weights(self, alpha: float) -> np.ndarray:
        """(r, k)."""
        return np.asarray(self.products / (self.squares + alpha)[:, None])

    def left_out(self, alpha: float, groups: list[np.ndarray]) -> np.ndarray:
        """(m, k) scores of each group's rows by the fit without them.

        Args:
            alpha: Strength.
            groups: Positions of the rows of each group of two and more; all others are groups of their own.
        """
        errors = self.targets - self.z @ self.weights(alpha)
        leverage = np.square(self.z) @ (1 / (self.squares + alpha)) + np.square(self.intercept[:, 0])
        residuals = errors / (1 - leverage)[:, None]
        for group in groups:
            z, one = self.z[group], self.intercept[group]
            hat = (z / (self.squares + alpha)) @ z.T + one @ one.T
            residuals[group] = np.linalg.solve(np.eye(len(group)) - hat, errors[group])
        return np.asarray((self.targets - residuals) / self.roots + self.mean_target)


def _trials(problem: _Weighted, rows: TrainingRows, alphas: list[float]) -> Iterator[tuple[float, np.ndarray]]:
    """(alpha, held-out scores)."""
    belongs = np.repeat(rows.groups, rows.views)
    order = np.argsort(belongs, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(belongs[order])) + 1)
    groups = [group for group in groups if len(group) > 1]
    for alpha in alphas:
        yield alpha, problem.left_out(alpha, groups)[:: rows.views]
