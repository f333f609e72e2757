"""Fits linear classifiers with an L2 penalty: all folds at once, along a path of strengths.

Every head of this kind minimises, over weights W (r, k) and biases b (k,),

    sum_i loss(x_i W + b, y_i) + |W|^2 / (2 C)

as scikit-learn does. Two things make it fast. The folds share the rows, so their problems stand side
by side as columns of one matrix product, and the rows are read once per step for all of them. And in
the rows' principal axes X'X is diagonal, so its diagonal is the Hessian's up to a factor: dividing
axis j by sqrt(q s_j + 1/C), s_j being the sum of squares along it, leaves a problem of nearly equal
curvature in all directions, on which L-BFGS needs few steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from heads.lbfgs import minimize_convex

# The Hessian of the loss is a share of X'X that depends on how sure the fit is: at most 1/4 for the
# softmax, at most 2 for the squared hinge. Any value in between serves; it only steers the steps.
_HESSIAN_SHARE = 0.15

Loss = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(n, f, k) scores and (n,) classes -> (n, f) losses and (n, f, k) derivatives."""


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


def multinomial(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log probability of the true class under a softmax."""
    rows = np.arange(len(y))
    shifted = scores - scores.max(axis=2, keepdims=True)
    gradient = np.exp(shifted)
    total = gradient.sum(axis=2, keepdims=True)
    gradient /= total
    losses = np.log(total[:, :, 0]) - shifted[rows, :, y]
    gradient[rows, :, y] -= 1
    return losses, gradient


def squared_hinge(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum over classes of max(0, 1 - t score)^2 with t = +1 for the true class, else -1."""
    target = np.full((len(y), 1, scores.shape[2]), -1, scores.dtype)
    target[np.arange(len(y)), 0, y] = 1
    short = np.maximum(1 - target * scores, 0)
    return np.square(short).sum(axis=2), -2 * target * short


def fit_path(
    x: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    strengths: tuple[float, ...],
    loss: Loss,
    *,
    tolerance: float,
    start: LinearFit | None = None,
) -> Iterator[list[LinearFit]]:
    """Fits f problems that share their rows, for one strength after the other.

    Args:
        x: (n, r) rows in their principal axes, float32 or float64: the precision it computes in.
        y: (n,) classes 0 to k - 1.
        train: (n, f) bool or float, how much each row counts in each problem.
        strengths: Values of C; the next starts where the last ended.
        loss: `multinomial` or `squared_hinge`.
        start: Where the first strength begins, for all problems; zero by default.
        tolerance: Ends when the largest derivative falls below this share of the first one.

    Yields:
        For each strength, f fits.
    """
    n, r = x.shape
    f, k = train.shape[1], int(y.max()) + 1
    squares = np.square(x, dtype=np.float64).sum(axis=0)
    begin = start or LinearFit(np.zeros((r, k)), np.zeros(k))
    weights, bias = np.tile(begin.weights, (1, f)), np.tile(begin.bias, f)
    bias_scale = np.sqrt(_HESSIAN_SHARE * n)
    mask = train.astype(x.dtype)[:, :, None]
    for strength in strengths:
        curvature = np.sqrt(_HESSIAN_SHARE * squares + 1 / strength)[:, None]
        scaled = x / curvature.T.astype(x.dtype)

        def objective(
            flat: np.ndarray, scaled: np.ndarray = scaled, curvature: np.ndarray = curvature, c: float = strength
        ) -> tuple[float, np.ndarray]:
            v, b = flat[: r * f * k].reshape(r, f * k), flat[r * f * k :]
            scores = scaled @ v.astype(x.dtype) + (b / bias_scale).astype(x.dtype)
            losses, slope = loss(scores.reshape(n, f, k), y)
            slope = (slope * mask).reshape(n, f * k)
            w = v / curvature
            value = float((losses * mask[:, :, 0]).sum(dtype=np.float64)) + float(np.square(w).sum()) / (2 * c)
            gradient = scaled.T @ slope + w / curvature / c
            return value, np.concatenate([gradient.ravel(), slope.sum(axis=0, dtype=np.float64) / bias_scale])

        begin_at = np.concatenate([(weights * curvature).ravel(), bias * bias_scale])
        first = np.abs(objective(np.zeros_like(begin_at))[1]).max()
        found = minimize_convex(objective, begin_at, tolerance=tolerance * first)
        weights = found[: r * f * k].reshape(r, f * k) / curvature
        bias = found[r * f * k :] / bias_scale
        yield [LinearFit(weights[:, i * k : (i + 1) * k], bias[i * k : (i + 1) * k]) for i in range(f)]
