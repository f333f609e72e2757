"""SVM with a Gaussian kernel: distances computed once, for all kernels, strengths and folds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np

from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.kernel_machine import KernelMachine, squared_distances

try:
    from sklearnex.svm import SVC  # Intel's, where it is installed
except ImportError:
    from sklearn.svm import SVC

_GAMMAS = (0.25, 1.0, 4.0)
_STRENGTHS = (4.0, 16.0)


class RBFSVMHead(Head):
    """Support vector machine with a Gaussian kernel, by scikit-learn's libsvm on a kernel computed once.

    One machine per class against the rest: they share the kernel, become one matrix, and their margins
    make better probabilities than the votes of pairwise machines. With two classes it is scikit-learn's.

    Args:
        C: Weight of the errors, as in scikit-learn; found on the folds if None.
        gamma: Kernel exp(-gamma |x - s|^2) of standardised rows; found on the folds if None.
        class_weight, tune, time_limit, seed: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> RBFSVMHead(C=4.0, gamma=0.5).fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "rbf-svm"

    def __init__(
        self,
        *,
        C: float | None = None,  # noqa: N803 (scikit-learn's name)
        gamma: float | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.gamma = gamma
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed

    def memory_needed(self, images: int, views: int, width: int) -> int:
        """Also the distances, a kernel, and a fold's part of it."""
        return super().memory_needed(images, views, width) + 24 * (images * views) ** 2

    @staticmethod
    def grid(usual: float, *, thorough: bool = False) -> dict[str, list[float]]:
        """The values of gamma, the usual one first, and of C that tuning tries.

        Args:
            usual: 1 / mean squared length of a standardised row.
            thorough: Values between as well, and one beyond each end.
        """
        gammas = [float(f"{usual * factor:.3g}") for factor in _grid(_GAMMAS, thorough)]
        return {"gamma": sorted(gammas, key=lambda g: abs(np.log(g / usual))), "C": _grid(_STRENGTHS, thorough)}

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        x = components.standardised
        distances = squared_distances(x, x)
        usual = float(f"{1 / np.square(x).sum(axis=1).mean():.3g}")
        best = None
        if rows.scored.any():
            best = best_trial(rows, self._trials(distances, rows, usual))
        gamma, strength = best.setting if best else (self.gamma or usual, self.C or 4.0)
        kernel = np.exp(-gamma * distances.astype(np.float64))
        support, coefficients, bias = _machines(kernel, rows, np.ones(len(rows.y), bool), strength)
        network = KernelMachine(
            components.mean,
            components.scale,
            x[support],
            coefficients.astype(np.float32),
            bias.astype(np.float32),
            gamma,
        )
        return Fit(network, {"C": strength, "gamma": gamma}, best.scores if best else None)

    def _trials(
        self, distances: np.ndarray, rows: TrainingRows, usual: float
    ) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
        """((gamma, C), held-out scores), the usual kernel first."""
        grid = self.grid(usual, thorough=rows.thorough)
        for gamma in [self.gamma] if self.gamma else grid["gamma"]:
            kernel = np.exp(-gamma * distances.astype(np.float64))
            for strength in [self.C] if self.C else grid["C"]:
                yield (gamma, strength), _held_out(kernel, rows, strength)


def _grid(values: tuple[float, ...], thorough: bool) -> list[float]:
    """The values; for a thorough search also those between, and one beyond each end."""
    if not thorough:
        return list(values)
    step = np.sqrt(values[1] / values[0])
    return [float(values[0] / step * step**i) for i in range(2 * len(values) + 1)]


def _held_out(kernel: np.ndarray, rows: TrainingRows, strength: float) -> np.ndarray:
    """(n, k) scores of each fold's plain rows by machines fitted on the others."""
    scores = np.zeros((len(rows.y), rows.outputs))
    plain = kernel[:: rows.views]
    for held_out in rows.held_out.T:
        support, coefficients, bias = _machines(kernel, rows, ~held_out, strength)
        scores[held_out] = plain[np.ix_(held_out, support)] @ coefficients + bias
    return scores


def _machines(
    kernel: np.ndarray, rows: TrainingRows, images: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits one machine per class on some images with all their views.

    Args:
        kernel: (n v, n v) float64 of all rows.
        rows: Their classes and weights.
        images: (n,) bool.
        strength: C.

    Returns:
        (m,) positions of the support vectors among the n v rows, (m, k) coefficients, (k,) biases.
    """
    used = np.flatnonzero(np.repeat(images, rows.views))
    among = np.ascontiguousarray(kernel[np.ix_(used, used)])
    y = np.repeat(rows.y[images], rows.views)
    weights = np.repeat(rows.importance[images], rows.views) / rows.views
    coefficients, bias = np.zeros((len(used), rows.outputs)), np.zeros(rows.outputs)

    def fill(c: int) -> None:
        machine = SVC(kernel="precomputed", C=strength).fit(among, y == c, sample_weight=weights)
        coefficients[machine.support_, c] = machine.dual_coef_[0]
        bias[c] = machine.intercept_[0]

    if rows.outputs == 2:
        fill(1)
        coefficients[:, 0], bias[0] = -coefficients[:, 1], -bias[1]
    else:
        # libsvm lets go of Python's lock.
        with ThreadPoolExecutor(cpu_count()) as pool:
            list(pool.map(fill, range(rows.outputs)))
    support = np.flatnonzero(coefficients.any(axis=1))
    return used[support], coefficients[support], bias
