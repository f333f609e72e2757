"""Calibration of scores: one temperature, fitted on held-out rows."""

import numpy as np
from scipy.optimize import minimize_scalar

from onepass.heads.inference.network import softmax


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
    """The inverse temperature, a factor on scores, at which their softmax has the lowest log loss.

    No predicted label changes, because all scores of an image are multiplied alike.

    Args:
        scores: (n, k) of images that the fit did not see.
        y: (n,) classes.
        weights: (n,) weights of the images; all alike by default.

    Returns:
        A factor from exp(-5) to exp(8).

    Source: C. Guo et al. (2017), arXiv:1706.04599.
    """
    found = minimize_scalar(lambda t: log_loss(scores * np.exp(t), y, weights), bounds=(-5, 8), method="bounded")
    return float(np.exp(found.x))


def calibrated_loss(scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Log loss of held-out scores at their best temperature, by which heads are tuned."""
    return log_loss(scores * best_inverse_temperature(scores, y, weights), y, weights)
