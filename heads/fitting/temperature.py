"""Calibration of scores: one temperature, fitted on held-out rows, that claims no more than their number allows."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from onepass.heads.inference.network import softmax

_SEARCHED = (-5.0, 8.0)
"""Logarithms between which the factor is looked for, on scores whose largest is 1 above their mean on average."""

_LARGEST = 1e5
"""Of a factor, so that scores that hardly differ are not blown up to what a head file refuses."""


def log_loss(scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean negative log probability of the true class under a softmax of (n, k) scores.

    Args:
        scores: (n, k).
        y: (n,) classes.
        weights: (n,) weights of the images; all alike by default.
    """
    probability = softmax(scores)[np.arange(len(y)), y]
    return float(np.average(-np.log(np.maximum(probability, 1e-300)), weights=weights))


def best_inverse_temperature(scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The inverse temperature, a factor b on scores, at which their softmax has the lowest smoothed log loss.

    No predicted label changes, because all scores of an image are multiplied alike.

    Rows that are classified without an error have their lowest log loss at infinity. But n rows without an error do
    not say that there are none: by Laplace's rule of succession the next one is wrong with probability
    e = 1 / (n + 2). So, as in Platt's scaling, the target is (n + 1) / (n + 2) for the true class, and the e that is
    left is spread evenly over the k - 1 others. (For two classes this is Platt's (N+ + 1) / (N+ + 2) with all rows
    in place of one class's: his one pseudo-image a class and side would, for k classes, be k (k - 1) errors that
    nobody has seen, and drown a hundred classes of thirty images each.)

    What this allows. Let p_i be the probability of the true class of row i, m_i the mean lead of its score over
    those of the other classes, and h_i the mean of these leads that the softmax weighs. Where the derivative by b
    is zero,

        sum_i h_i (1 - p_i) = e sum_i m_i,   and h_i <= m_i for b > 0,

    because the softmax gives more weight to the smaller leads. So the mean of 1 - p_i, weighted by h_i, is
    1 / (n + 2) at least: a head that made no error on n held-out rows claims one in n + 2 (0.990 right for a hundred
    rows), and where all rows lead alike no probability is above 1 - 1 / (n + 2). That is a mean: as in any logistic
    model, a row that leads r times as far as the one that leads least leaves about (n + 1)^-r to the other classes.

    Args:
        scores: (n, k) of images that the fit did not see.
        y: (n,) classes.
        weights: (n,) weights of the images; all alike by default. Uneven ones count as fewer rows, by L. Kish's
            (sum of weights)^2 / sum of squared weights.

    Returns:
        A factor above 0; 1 where all scores of each image are equal.

    Source: C. Guo et al. (2017), arXiv:1706.04599; J. Platt (1999), Probabilistic outputs for support vector
    machines, in Advances in Large Margin Classifiers.
    """
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    centred = scores - scores.mean(axis=1, keepdims=True, dtype=np.float64)
    size = float(np.average(centred.max(axis=1), weights=weights))
    if not size > 0:
        return 1.0
    centred /= size
    targets = _smoothed_targets(y, scores.shape[1], weights)

    def smoothed_loss(t: float) -> float:
        scaled = np.exp(t) * centred
        return float(np.average(logsumexp(scaled, axis=1) - (targets * scaled).sum(axis=1), weights=weights))

    found = minimize_scalar(smoothed_loss, bounds=_SEARCHED, method="bounded")
    return min(float(np.exp(found.x) / size), _LARGEST)


def _smoothed_targets(y: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """(n, k): (m + 1) / (m + 2) for the class of each row, the rest for the others; m is Kish's number of rows."""
    error = 1 / (weights.sum() ** 2 / np.square(weights).sum() + 2)
    targets = np.full((len(y), classes), error / (classes - 1))
    targets[np.arange(len(y)), y] = 1 - error
    return targets


def calibrated_loss(scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Log loss of held-out scores at their best temperature, by which heads are tuned."""
    return log_loss(scores * best_inverse_temperature(scores, y, weights), y, weights)
