"""Fits linear classifiers with an L2 penalty: all folds at once, along a path of strengths.

Every head of this kind minimises, over weights W (r, k) and biases b (k,),

    sum_i loss(x_i W + b, y_i) + |W|^2 / (2 C)

as scikit-learn does. Two things make it fast. The folds share the rows, so their problems stand side
by side as columns of one matrix product, and the rows are read once per step for all of them. And in
the rows' principal axes X'X is diagonal and the Hessian nearly so: dividing each weight by the root of
its second derivative, taken where the last strength ended, leaves a problem of nearly equal curvature
in all directions, on which L-BFGS needs few steps.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from onepass.heads.inference.network import sigmoid, softplus

_LEAST_CURVATURE = 1e-6
"""Of a score, on average over the rows: what less of it is taken for, so that no step is endless."""

_LBFGS = {"maxcor": 5, "maxiter": 300, "ftol": 0.0}
"""Steps the curvature is estimated from, steps at most, and no end but by the derivative."""

_BLOCKS, _FEWEST_ROWS = 8, 512


@dataclass(frozen=True)
class LinearFit:
    """One linear classifier.

    Attributes:
        weights: (r, k) float64.
        bias: (k,) float64.
    """

    weights: np.ndarray
    bias: np.ndarray

    def scores(self, x: np.ndarray) -> np.ndarray:
        """(n, r) -> (n, k)."""
        return np.asarray(x @ self.weights + self.bias)


@dataclass(frozen=True)
class Loss:
    """A convex loss of (n, f, k) scores, given (n,) classes.

    Attributes:
        slope: Scores and classes -> (n, f) losses and (n, f, k) derivatives.
        curvature: Scores and classes -> (n, f, k) second derivatives by each score.
    """

    slope: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    curvature: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _softmax_slope(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(y))
    shifted = scores - scores.max(axis=2, keepdims=True)
    gradient = np.exp(shifted)
    total = gradient.sum(axis=2, keepdims=True)
    gradient /= total
    losses = np.log(total[:, :, 0]) - shifted[rows, :, y]
    gradient[rows, :, y] -= 1
    return losses, gradient


def _softmax_curvature(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    missing = np.abs(_softmax_slope(scores, y)[1])  # p, or 1 - p for the true class
    return np.asarray(missing * (1 - missing))


def _hinge_slope(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target = _target(scores, y)
    short = np.maximum(1 - target * scores, 0)
    return np.square(short).sum(axis=2), -2 * target * short


def _hinge_curvature(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(_target(scores, y) * scores < 1, 2, 0).astype(scores.dtype)


def _target(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 1, k): 1 for the true class, or the labels that a row has, else -1."""
    if y.ndim == 2:
        return (2 * y[:, None] - 1).astype(scores.dtype)
    target = np.full((len(y), 1, scores.shape[2]), -1, scores.dtype)
    target[np.arange(len(y)), 0, y] = 1
    return target


def _logistic_slope(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target = _target(scores, y)
    margin = target * scores
    return softplus(-margin).sum(axis=2), -target * sigmoid(-margin)


def _logistic_curvature(scores: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: ARG001
    p = sigmoid(scores)
    return np.asarray(p * (1 - p))


logistic = Loss(_logistic_slope, _logistic_curvature)
"""Sum over labels of the negative log probability of having it or not, each under a sigmoid of its own."""

multinomial = Loss(_softmax_slope, _softmax_curvature)
"""Negative log probability of the true class under a softmax."""

squared_hinge = Loss(_hinge_slope, _hinge_curvature)
"""Sum over classes of max(0, 1 - t score)^2 with t = +1 for the true class, else -1."""


@dataclass(frozen=True, eq=False)
class StartScores:
    """Scores that a classifier has before anything is fitted, in each of f problems.

    Attributes:
        scores: (n, k) float32.
        factors: (f,) what they are multiplied with in each problem.
    """

    scores: np.ndarray
    factors: np.ndarray


@dataclass(frozen=True, eq=False)
class Problems:
    """f linear problems that share their rows.

    Attributes:
        x: (n, r) rows along their principal axes, float32 or float64: the precision of the computation.
        y: (n,) classes 0 to k - 1; or (n, k) labels of 0 and 1.
        train: (n, f) bool or float, how much each row counts in each problem.
        loss: `multinomial` or `squared_hinge`; of labels `logistic` or `squared_hinge`.
        beside: Scores that those of the fit are added to, None for none. The bias is penalised beside them as weights
            are: under a penalty without end nothing is added.
    """

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    loss: Loss
    beside: StartScores | None = None


def fit_path(
    problems: Problems, strengths: tuple[float, ...], *, tolerance: float, start: LinearFit | None = None
) -> Iterator[list[LinearFit]]:
    """Fits f problems for one strength after the other.

    Args:
        problems: What is fitted.
        strengths: Values of C; each starts where the one before it ended.
        tolerance: A fit ends when its largest derivative falls below this share of the one at zero.
        start: Where the first strength starts, for all problems; zero by default.

    Yields:
        For each strength, f fits.
    """
    n, r = problems.x.shape
    f, k = problems.train.shape[1], problems.y.shape[1] if problems.y.ndim == 2 else int(problems.y.max()) + 1
    begin = start or LinearFit(np.zeros((r, k)), np.zeros(k))
    point = np.tile(np.concatenate([begin.weights, begin.bias[None]]), (1, f))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = _Rows(problems, pool)
        for strength in strengths:
            penalty = np.full((r + 1, 1), 1 / strength)
            if problems.beside is None:
                penalty[r] = 0
            unit = 1 / np.sqrt(np.maximum(rows.curvature(point), _LEAST_CURVATURE * n) + penalty)

            def objective(
                flat: np.ndarray, unit: np.ndarray = unit, penalty: np.ndarray = penalty
            ) -> tuple[float, np.ndarray]:
                at = flat.reshape(r + 1, f * k) * unit
                value, slope = rows.slope(at)
                pull = penalty * at
                return value + float((pull * at).sum()) / 2, ((slope + pull) * unit).ravel()

            first = np.abs(objective(np.zeros(point.size))[1]).max()
            options = {"gtol": tolerance * first, **_LBFGS}
            found = minimize(objective, (point / unit).ravel(), jac=True, method="L-BFGS-B", options=options)
            point = found.x.reshape(r + 1, f * k) * unit
            yield [LinearFit(fit[:r], fit[r]) for fit in np.split(point, f, axis=1)]


class _Rows:
    """The loss over all rows, worked out block by block in threads.

    Our own threads, because those of BLAS wait for each other in busy loops: on a machine that has anything else
    to do, a product of matrices on two of them takes ten times as long as on one. Blocks depend on the number of
    rows alone, so results do not depend on the machine's processors.
    """

    def __init__(self, problems: Problems, pool: Executor) -> None:
        x, train = problems.x, problems.train.astype(problems.x.dtype)
        starts = range(0, len(x), max(len(x) // _BLOCKS + 1, _FEWEST_ROWS))
        beside = problems.beside or StartScores(np.zeros((len(x), 0), x.dtype), np.zeros(train.shape[1]))
        shared = (x, problems.y, train, beside.scores.astype(x.dtype))
        self._blocks = list(zip(*(np.split(rows, starts[1:]) for rows in shared), strict=True))
        self._loss, self._pool, self._factors = problems.loss, pool, beside.factors.astype(x.dtype)

    def slope(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """(r + 1, f k) weights and biases -> value and (r + 1, f k) derivative."""

        def part(block: tuple[np.ndarray, ...]) -> tuple[float, np.ndarray]:
            x, y, train, beside = block
            losses, slope = self._loss.slope(self._scores(x, point, train, beside), y)
            value = float((losses * train).sum(dtype=np.float64))
            return value, _by_weight(x, slope * train[:, :, None])

        parts = list(self._pool.map(part, self._blocks))
        return sum(value for value, _ in parts), np.asarray(np.sum([d for _, d in parts], axis=0, dtype=np.float64))

    def curvature(self, point: np.ndarray) -> np.ndarray:
        """(r + 1, f k) second derivatives by each weight and bias."""

        def part(block: tuple[np.ndarray, ...]) -> np.ndarray:
            x, y, train, beside = block
            scores = self._scores(x, point, train, beside)
            return _by_weight(x * x, self._loss.curvature(scores, y) * train[:, :, None])

        return np.asarray(np.sum(list(self._pool.map(part, self._blocks)), axis=0, dtype=np.float64))

    def _scores(self, x: np.ndarray, point: np.ndarray, train: np.ndarray, beside: np.ndarray) -> np.ndarray:
        """`_scores`, and those that stand beside them: (b, k) in each problem by its factor."""
        scores = _scores(x, point, train)
        return scores + beside[:, None] * self._factors[:, None] if beside.shape[1] else scores


def _scores(x: np.ndarray, point: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(b, r) rows, (r + 1, f k) weights and biases, (b, f) shares -> (b, f, k)."""
    point = point.astype(x.dtype)
    return np.asarray(x @ point[:-1] + point[-1]).reshape(*train.shape, -1)


def _by_weight(x: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """(b, r) rows and what they have by (b, f, k) scores -> (r + 1, f k) by weight and bias."""
    flat = by_score.reshape(len(x), -1)
    return np.concatenate([x.T @ flat, flat.sum(axis=0)[None]])
