"""Ridge regression, its strength found by exact leave-one-out from one factorisation."""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh

from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.kernel_machine import KernelMachine, squared_distances
from onepass.heads.inference.network import DenseNetwork


class RidgeHead(Head):
    """Ridge regression on numbers; or on targets of +1 for the class and -1 for the others.

    With H = X (X'X + alpha)^-1 X' the prediction of a group g of images by a fit without them is
    t_g - (1 - H_gg)^-1 (t_g - H t): exact, and X'X is decomposed once for all alphas and all images.
    All views of an image, and all images of a group, are left out together.

    Args:
        alpha: Strength of the penalty, as in scikit-learn; found by leave-one-out if None.
        class_weight, tune, time_limit, seed, task: As for every `Head`.

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
        task: str = "classes",
    ) -> None:
        self.alpha = alpha
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed
        self.task = task

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        weights = rows.row_importance
        centre, axes, z = components.weighted(weights)
        z = z * np.sqrt(weights)[:, None]
        targets = np.repeat(rows.objective.targets(rows.y), rows.views, axis=0)
        problem = _Weighted(z, targets, weights)
        best = None
        if rows.scored.any():
            best = best_trial(rows, _trials(problem, rows, self._alphas(problem, rows.thorough)))
        alpha = best.setting if best else self.alpha or 1e-2 * problem.squares.sum()
        kernel = axes @ problem.weights(alpha)
        bias = problem.mean_target - centre @ kernel
        network = DenseNetwork(
            components.mean,
            components.scale,
            (kernel.astype(np.float32),),
            (bias.astype(np.float32),),
            rows.objective.output,
        )
        return Fit(network, {"alpha": alpha}, best.scores if best else None)

    def _alphas(self, problem: "_Weighted", thorough: bool) -> list[float]:
        """From strong to weak, relative to the sum of squares of the rows, so that n and d do not matter."""
        if self.alpha is not None:
            return [float(self.alpha)]
        exponents = np.arange(0, -6.1, -0.25 if thorough else -0.5)
        return [float(f"{problem.squares.sum() * 10.0**e:.3g}") for e in exponents]


class KernelRidgeHead(Head):
    """Ridge regression in a Gaussian kernel, for numbers and labels: what `RidgeHead` does, along other axes.

    The centred kernel is decomposed once for each gamma; its axes then serve all alphas, all labels and all images
    left out.

    Args:
        alpha: Strength of the penalty, as in scikit-learn; found by leave-one-out if None.
        gamma: Kernel exp(-gamma |x - s|^2) of standardised rows; found by leave-one-out if None.
        class_weight, tune, time_limit, seed, task: As for every `Head`.

    >>> rows, numbers = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), [1.0, 1.2, 3.1, 3.0]
    >>> KernelRidgeHead(alpha=0.01, gamma=0.1).fit(rows, numbers).predict([[5.0, 1]]).round(1).tolist()
    [3.1]

    Source: B. Scholkopf, A. Smola and K.-R. Muller (1998), Neural Computation 10(5), 1299-1319 (principal components
    of a kernel).
    """

    kind = "kernel-ridge"

    def __init__(
        self,
        *,
        alpha: float | None = None,
        gamma: float | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
        task: str = "number",
    ) -> None:
        self.alpha = alpha
        self.gamma = gamma
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed
        self.task = task

    def memory_needed(self, images: int, views: int, width: int) -> int:
        """Also the distances, a kernel, its axes, and what decomposing it takes."""
        return super().memory_needed(images, views, width) + 44 * (images * views) ** 2

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        distances = squared_distances(components.standardised, components.standardised)
        usual = float(f"{1 / np.square(components.standardised).sum(axis=1).mean():.3g}")
        # The usual gamma comes first, because time may end.
        factors = (1.0, 0.5, 0.25, 0.125, 2.0, 4.0) if rows.thorough else (0.5, 0.125, 2.0)
        gammas = [usual * factor for factor in factors] if self.gamma is None else [float(self.gamma)]
        setting, scores = (self.alpha or 1e-2, gammas[0]), None
        if rows.scored.any():
            best = best_trial(rows, self._trials(distances, rows, gammas))
            setting, scores = best.setting, best.scores
        alpha, gamma = setting
        axes = _KernelAxes(np.exp(-gamma * distances.astype(np.float64)), rows)
        coefficients, bias = axes.machine(alpha)
        network = KernelMachine(
            components.mean,
            components.scale,
            components.standardised,
            coefficients.astype(np.float32),
            bias.astype(np.float32),
            gamma,
            rows.objective.output,
        )
        return Fit(network, {"alpha": alpha, "gamma": gamma}, scores)

    def _trials(
        self, distances: np.ndarray, rows: TrainingRows, gammas: list[float]
    ) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
        """((alpha, gamma), held-out scores)."""
        exponents = np.arange(1, -4.1, -0.25 if rows.thorough else -0.5)
        alphas = [float(f"{10.0**e:.3g}") for e in exponents] if self.alpha is None else [float(self.alpha)]
        for gamma in gammas:
            axes = _KernelAxes(np.exp(-gamma * distances.astype(np.float64)), rows)
            for alpha, scores in _trials(axes.problem, rows, alphas):
                yield (alpha, gamma), scores


class _KernelAxes:
    """The principal components of a kernel, and the ridge problem along them.

    Args:
        kernel: (m, m) float64, of all rows.
        rows: What they are.
    """

    def __init__(self, kernel: np.ndarray, rows: TrainingRows) -> None:
        weights = rows.row_importance
        self.shares = weights / weights.sum()
        self.roots = np.sqrt(weights)[:, None]
        self.middle = kernel @ self.shares
        kernel = kernel - self.middle - self.middle[:, None] + self.shares @ self.middle
        values, vectors = eigh(kernel * self.roots * self.roots.T, driver="evd", check_finite=False, overwrite_a=True)
        kept = values > max(values[-1], 1e-300) * 1e-12
        self.lengths, self.vectors = np.sqrt(values[kept]), vectors[:, kept]
        targets = np.repeat(rows.objective.targets(rows.y), rows.views, axis=0)
        self.problem = _Weighted(self.vectors * self.lengths, targets, weights)

    def machine(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(m, k) coefficients of the kernel as it is, and (k,) biases.

        With a the coefficients of the centred kernel, f(x) = sum_i a_i (k(x, x_i) - mean_j k(x_j, x_i) - mean_j
        k(x, x_j) + mean_jl k(x_j, x_l)) + mean target, the means being weighted.
        """
        centred = self.roots * (self.vectors @ (self.problem.weights(alpha) / self.lengths[:, None]))
        total = centred.sum(axis=0)
        bias = self.problem.mean_target - self.middle @ centred + self.shares @ self.middle * total
        return centred - self.shares[:, None] * total, bias


class _Weighted:
    """A ridge problem in axes where X'X is diagonal.

    Args:
        z: (m, r) centred rows, each times the root of its weight.
        targets: (m, k).
        weights: (m,).
    """

    def __init__(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
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
