"""Several labels or none per image: how heads are fitted to them, calibrated label by label, and where each begins."""

import numpy as np

from onepass.features.tasks import strata_of_labels
from onepass.heads.inference.network import Network, sigmoid, softplus
from onepass.heads.tasks.objectives import Objective

_STEPS, _HALVINGS = 30, 10
"""Of Newton's method at most, and of a step that would not lead down."""
_NOISE = 1e-12
"""Of a loss, by rounding."""
_PULL = 1e-3
"""Of the slopes towards 1: what keeps those of labels that scores tell apart without an error finite."""


class Labels(Objective):
    """Each of k labels by itself; probabilities of each calibrated on held-out images."""

    task, output = "labels", "sigmoids"

    def __init__(self, labels: int) -> None:
        self.outputs = labels

    def strata(self, y: np.ndarray) -> np.ndarray:
        return np.unique(strata_of_labels(y), return_inverse=True)[1]

    def targets(self, y: np.ndarray) -> np.ndarray:
        return np.asarray(2 * y - 1)

    def votes(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        behind = np.broadcast_to(weights[:, None], y.shape)
        return np.concatenate([y * weights[:, None], behind], axis=1).astype(np.float32)

    def loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        slopes, shifts = calibrated(scores, y, weights)
        return self.own_loss(scores * slopes + shifts, y, weights)

    def own_loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        """Mean log loss of all labels."""
        losses = softplus((1 - 2 * y) * scores).mean(axis=1)
        return float(np.average(losses, weights=weights))

    def finished(
        self, network: Network, scores: np.ndarray, y: np.ndarray, weights: np.ndarray
    ) -> tuple[Network, np.ndarray]:
        if not len(y):
            return network, scores
        slopes, shifts = calibrated(scores, y, weights)
        return network.scaled(slopes, shifts), sigmoid(scores * slopes + shifts)


def calibrated(scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and shift of each label's scores at which their sigmoids fit best, by J. Platt's scaling.

    His targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) claim no more than so many images allow. All labels are fitted at
    once, by Newton's method. A slope is above 0, so that no order is turned around.

    Args:
        scores: (n, k) of images that the fit did not see.
        y: (n, k) of 0 and 1.
        weights: (n,) of the images.

    Returns:
        (k,) slopes and (k,) shifts.

    Source: J. Platt (1999), Probabilistic outputs for support vector machines, in Advances in Large Margin Classifiers.
    """
    w = weights[:, None] / weights.sum()
    count = float(weights.sum() ** 2 / np.square(weights).sum())
    having = count * (w * y).sum(axis=0)
    targets = np.where(y == 1, (having + 1) / (having + 2), 1 / (count - having + 2))
    middle = (w * scores).sum(axis=0)
    unit = np.sqrt((w * np.square(scores - middle)).sum(axis=0))
    unit = np.where(unit > 0, unit, 1)
    z = (scores - middle) / unit
    slope, shift = np.ones(z.shape[1]), np.zeros(z.shape[1])
    pull = _PULL / count

    def losses(slope: np.ndarray, shift: np.ndarray) -> np.ndarray:
        t = slope * z + shift
        fit = (w * (softplus(t) - targets * t)).sum(axis=0)
        return np.asarray(fit + pull / 2 * np.square(slope - 1))

    best = losses(slope, shift)
    for _ in range(_STEPS):
        p = sigmoid(slope * z + shift)
        off, bend = w * (p - targets), w * np.maximum(p * (1 - p), 1e-9)
        by_slope, by_shift = (off * z).sum(axis=0) + pull * (slope - 1), off.sum(axis=0)
        a, b, c = (bend * z * z).sum(axis=0) + pull, (bend * z).sum(axis=0), bend.sum(axis=0)
        determinant = np.maximum(a * c - b * b, 1e-300)
        step = (c * by_slope - b * by_shift) / determinant, (a * by_shift - b * by_slope) / determinant
        size = np.ones_like(slope)
        for halvings in range(_HALVINGS + 1):
            found = losses(slope - size * step[0], shift - size * step[1])
            up = found > best + _NOISE
            if not up.any():
                break
            size = np.where(up, size / 2 if halvings < _HALVINGS else 0, size)
        slope, shift, moved = slope - size * step[0], shift - size * step[1], best - found
        best = np.minimum(best, found)
        if (moved < 1e-10).all():
            break
    base = (w * targets).sum(axis=0)
    turned = slope <= 1e-3
    slope = np.where(turned, 1e-3, slope)
    shift = np.where(turned, np.log(base / (1 - base)), shift)
    return slope / unit, shift - slope * middle / unit


def best_thresholds(probabilities: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Where each label begins: the probability from which on calling it has the highest F1 on held-out images.

    Args:
        probabilities: (n, k), NaN for images that were not held out.
        y: (n, k) of 0 and 1.
        weights: (n,) of the images.

    Returns:
        (k,) float32 between 0 and 1; 0.5 for a label that no image has.

    >>> p, y = np.array([[0.9], [0.4], [0.3], [0.1]]), np.array([[1], [1], [0], [0]])
    >>> round(float(best_thresholds(p, y, np.ones(4))[0]), 2)
    0.35
    """
    known = np.isfinite(probabilities).all(axis=1)
    probabilities, y, weights = probabilities[known], y[known], weights[known]
    found = np.full(y.shape[1], 0.5, np.float32)
    for label in np.flatnonzero((y == 1).any(axis=0)):
        order = np.argsort(-probabilities[:, label], kind="stable")
        p = probabilities[order, label]
        hits, called = np.cumsum(weights[order] * y[order, label]), np.cumsum(weights[order])
        f1 = 2 * hits / (called + hits[-1])
        ends = np.append(p[1:] < p[:-1], True)
        place = int(np.where(ends, f1, -1).argmax())
        below = p[place + 1] if place + 1 < len(p) else 0.0
        found[label] = min(max((p[place] + below) / 2, 1e-6), 1 - 1e-6)
    return found
