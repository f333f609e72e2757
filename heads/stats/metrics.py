"""Scores of class probabilities, for the images as they are or for many weightings of them at once.

A bootstrap resample is a weighting: each image counts as often as it was drawn. So a metric is split
into what is done once (who is right, the order of the probabilities) and what is done for all
resamples together, which are matrix products and one cumulative sum per class.
"""

from collections.abc import Callable
from typing import overload

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.errors import OptionError, TrainingError

Scorer = Callable[[np.ndarray], np.ndarray]
"""(b, n) weights -> (b,) scores, NaN where a score is undefined."""

HIGHER_IS_BETTER = {
    "accuracy": True,
    "balanced": True,
    "macro-f1": True,
    "log-loss": False,
    "auroc": True,
    "map": True,
    "micro-f1": True,
    "subset": True,
    "mae": False,
    "rmse": False,
    "r2": True,
}
METRICS_OF = {
    CLASSES: ("accuracy", "balanced", "macro-f1", "log-loss", "auroc"),
    LABELS: ("map", "micro-f1", "macro-f1", "subset", "log-loss"),
    NUMBER: ("mae", "rmse", "r2"),
}
"""Task -> metrics of a comparison, the usual one first."""

METRICS = METRICS_OF[CLASSES]

_CACHED = 2**17
"""Weights that are summed up at a time, label by label: half a MB, which stays near the processor."""

SHARES = ("accuracy", "balanced", "macro-f1", "auroc", "map", "micro-f1", "subset")
"""Those that are shares of images or the like, 0 to 1, of which differences are told in points."""

UNBOUNDED = ("log-loss", "mae", "rmse")
"""Losses, 0 or more, that are no shares."""


@overload
def metric(name: str, probabilities: np.ndarray, y: np.ndarray, *, weights: None = None) -> float: ...
@overload
def metric(name: str, probabilities: np.ndarray, y: np.ndarray, *, weights: np.ndarray) -> np.ndarray: ...
def metric(
    name: str, probabilities: np.ndarray, y: np.ndarray, *, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """A head's score on images.

    - accuracy: share of the images whose most probable class is the true one.
    - balanced: mean over classes of the share of their images that are right.
    - macro-f1: mean over classes of F1, 2 hits / (images of the class + images called so).
    - log-loss: mean of -log(probability of the true class), probabilities clipped to [e, 1 - e] with
      e = 2.2e-16, the float64 spacing at 1; so one image costs 36.04 at most.
    - auroc: area under the ROC curve of each class against the rest, averaged over classes; for two
      classes the area of class 1. Equal probabilities count half.

    The means over classes leave out classes without images in `y`, or in a resample, as scikit-learn's
    balanced accuracy does. F1 of such a class would be 0 however well the head does; images called so
    by mistake still cost their own class. auroc also leaves out a class to which all images belong,
    and is NaN if no class remains.

    Of labels, of which one is named from a probability of 0.5 on:

    - map: mean over labels of the average precision; labels that no image has are left out.
    - micro-f1, macro-f1: F1 of all labels together, and its mean over the labels that images have.
    - subset: share of the images of which all labels are right.
    - log-loss: mean over images and labels.

    Of numbers:

    - mae, rmse: mean absolute error, and root of the mean squared error.
    - r2: 1 - squared errors / squared deviations from the mean of `y`; NaN where all of `y` is one number.

    Args:
        name: One of `METRICS_OF`.
        probabilities: (n, k), each row sums to 1; or of each label; or (n, 1) numbers.
        y: (n,) true classes, 0 to k - 1; or (n, k) of 0 and 1; or (n, 1) true numbers.
        weights: (b, n) how often each image counts, >= 0 and not all 0 in a row; every image once by default.

    Returns:
        The score, or (b,) float64 scores if there are weights.

    Raises:
        OptionError: The metric is unknown.
        TrainingError: n is 0.

    >>> p, y = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([0, 1, 1])
    >>> round(metric("accuracy", p, y), 3), metric("balanced", p, y), metric("auroc", p, y)
    (0.667, 0.75, 1.0)
    """
    score = scorer(name, probabilities, y)
    return score(weights) if weights is not None else float(score(np.ones((1, len(y))))[0])


def scorer(name: str, probabilities: np.ndarray, y: np.ndarray) -> Scorer:
    """The part of `metric` that does not depend on the weights; arguments and errors as there."""
    known = METRICS_OF[CLASSES] if y.ndim == 1 else (*METRICS_OF[NUMBER], *METRICS_OF[LABELS])
    if name not in known:
        raise OptionError(f"unknown metric {name!r}; there are {', '.join(known)}.", metric=name)
    if len(y) == 0:
        raise TrainingError(f"there are no images to compute {name} on; needed: at least 1.", metric=name)
    scorers = _SCORERS if y.ndim == 1 or name in METRICS_OF[NUMBER] else _LABEL_SCORERS
    return scorers[name](np.asarray(probabilities, np.float64), np.asarray(y, np.int64 if y.ndim == 1 else np.float64))


def calibration_error(
    probabilities: np.ndarray, y: np.ndarray, *, bins: int = 15, weights: np.ndarray | None = None
) -> float:
    """Expected calibration error: how far the probability of the answer is from the share that is right.

    Images are sorted into bins of equal width by the probability of their most probable class; the error is
    the mean over images of |share right - mean probability| of their bin. It is above 0 by chance
    even for a calibrated head, the more so the fewer images there are.

    Args:
        probabilities: (n, k), each row sums to 1.
        y: (n,) true classes, 0 to k - 1.
        bins: How many; bin i is (i / bins, (i + 1) / bins].
        weights: (n,) how much each image counts; all alike by default.

    Raises:
        OptionError: `bins` is below 1.
        TrainingError: n is 0.

    Source: Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599, eq. 3.

    >>> round(calibration_error(np.array([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1])), 3)
    0.25
    """
    if bins < 1:
        raise OptionError(f"bins is {bins}; needed: at least 1.", bins=bins)
    if len(y) == 0:
        raise TrainingError("there are no images to compute the calibration error on; needed: at least 1.")
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == y
    place = np.digitize(sure, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    weights = np.ones(len(y)) if weights is None else weights
    return float(np.abs(np.bincount(place, weights=weights * (right - sure))).sum() / weights.sum())


def _accuracy(p: np.ndarray, y: np.ndarray) -> Scorer:
    right = (p.argmax(axis=1) == y).astype(np.float64)
    return lambda weights: np.asarray(weights @ right / weights.sum(axis=1))


def _balanced(p: np.ndarray, y: np.ndarray) -> Scorer:
    true = np.eye(p.shape[1])[y]
    hits = true * (p.argmax(axis=1) == y)[:, None]

    def score(weights: np.ndarray) -> np.ndarray:
        images = weights @ true
        return _mean_over_classes(weights @ hits / np.maximum(images, 1e-300), images > 0)

    return score


def _macro_f1(p: np.ndarray, y: np.ndarray) -> Scorer:
    classes, answers = np.eye(p.shape[1]), p.argmax(axis=1)
    true, both = classes[y], classes[y] + classes[answers]
    hits = true * (answers == y)[:, None]

    def score(weights: np.ndarray) -> np.ndarray:
        return _mean_over_classes(2 * (weights @ hits) / np.maximum(weights @ both, 1e-300), weights @ true > 0)

    return score


def _log_loss(p: np.ndarray, y: np.ndarray) -> Scorer:
    smallest = np.finfo(np.float64).eps
    losses = -np.log(np.clip(p[np.arange(len(y)), y], smallest, 1 - smallest))
    return lambda weights: np.asarray(weights @ losses / weights.sum(axis=1))


def _auroc(p: np.ndarray, y: np.ndarray) -> Scorer:
    classes = [1] if p.shape[1] == 2 else np.unique(y)
    areas = [_area(p[:, i], y == i) for i in classes]

    def score(weights: np.ndarray) -> np.ndarray:
        columns = np.ascontiguousarray(weights.T, np.float64)  # so that sums run along memory
        found = np.stack([area(columns) for area in areas], axis=1)
        return _mean_over_classes(np.nan_to_num(found), np.isfinite(found))

    return score


def _area(scores: np.ndarray, positive: np.ndarray) -> Scorer:
    """(n,) scores, (n,) bool -> function of (n, b) weights: the area under the ROC curve.

    The area is the probability that a positive image scores above a negative one: each positive
    counts the weight of the negatives below it, and half of those level with it.
    """
    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive)
    no = no[np.argsort(scores[no], kind="stable")]
    below = np.searchsorted(scores[no], scores[yes], "left")
    up_to = np.searchsorted(scores[no], scores[yes], "right")

    def area(weights: np.ndarray) -> np.ndarray:
        total = np.zeros((len(no) + 1, weights.shape[1]))
        np.cumsum(weights[no], axis=0, out=total[1:])
        pairs = weights[yes].sum(axis=0) * total[-1]
        won = np.einsum("ib,ib->b", weights[yes], total[below] + total[up_to]) / 2
        return np.where(pairs > 0, won / np.maximum(pairs, 1e-300), np.nan)

    return area


def _mae(told: np.ndarray, y: np.ndarray) -> Scorer:
    errors = np.abs(told - y)[:, 0]
    return lambda weights: np.asarray(weights @ errors / weights.sum(axis=1))


def _rmse(told: np.ndarray, y: np.ndarray) -> Scorer:
    squares = np.square(told - y)[:, 0]
    return lambda weights: np.sqrt(weights @ squares / weights.sum(axis=1))


def _r2(told: np.ndarray, y: np.ndarray) -> Scorer:
    squares = np.square(told - y)[:, 0]
    y = y[:, 0] - y.mean()  # or the variance would be the difference of two large numbers
    smallest = 1e-14 * float(np.square(y).max(initial=0.0))

    def score(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1)
        variance = weights @ np.square(y) / total - np.square(weights @ y / total)
        share = weights @ squares / total / np.maximum(variance, 1e-300)
        return np.where(variance > smallest, 1 - share, np.nan)

    return score


def _map(p: np.ndarray, y: np.ndarray) -> Scorer:
    parts = [_average_precision(told, has == 1) for told, has in zip(p.T, y.T, strict=True) if (has == 1).any()]

    # Of many labels and resamples sums take long, and how sure a score is needs no more than single precision.
    def mean(weights: np.ndarray) -> np.ndarray:
        columns = np.ascontiguousarray(weights.T, np.float64 if len(weights) == 1 else np.float32)
        found = np.stack([part(columns) for part in parts] or [np.full(len(weights), np.nan)], axis=1)
        return _mean_over_classes(np.nan_to_num(found), np.isfinite(found))

    def score(weights: np.ndarray) -> np.ndarray:
        step = max(1, _CACHED // len(y))
        return np.concatenate([mean(weights[start : start + step]) for start in range(0, len(weights), step)])

    return score


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> Scorer:
    """(n,) scores, (n,) bool -> function of (n, b) weights: the mean precision at the images that have the label."""
    order = np.argsort(-scores, kind="stable")
    ordered, has = scores[order], positive[order]
    # Images of equal scores are called together: the precision is that behind the last of them.
    behind, first = np.unique(np.searchsorted(-ordered, -ordered[has], "right"), return_index=True)
    looked_at, starts, yes = order[: behind[-1]], np.append(0, behind[:-1]), order[has]

    def area(weights: np.ndarray) -> np.ndarray:
        called = np.cumsum(np.add.reduceat(weights[looked_at], starts, axis=0), axis=0)
        right = np.add.reduceat(weights[yes], first, axis=0)
        hits = np.cumsum(right, axis=0)
        total = hits[-1]
        found = (right * hits / np.maximum(called, 1e-30)).sum(axis=0)
        return np.where(total > 0, found / np.maximum(total, 1e-30), np.nan)

    return area


def _micro_f1(p: np.ndarray, y: np.ndarray) -> Scorer:
    named = p >= 0.5
    hits, both = (named * y).sum(axis=1), named.sum(axis=1) + y.sum(axis=1)
    return lambda weights: 2 * (weights @ hits) / np.maximum(weights @ both, 1e-300)


def _label_macro_f1(p: np.ndarray, y: np.ndarray) -> Scorer:
    named = p >= 0.5
    hits, both = named * y, named + y
    return lambda weights: _mean_over_classes(
        2 * (weights @ hits) / np.maximum(weights @ both, 1e-300), weights @ y > 0
    )


def _subset(p: np.ndarray, y: np.ndarray) -> Scorer:
    right = ((p >= 0.5) == (y == 1)).all(axis=1).astype(np.float64)
    return lambda weights: np.asarray(weights @ right / weights.sum(axis=1))


def _label_log_loss(p: np.ndarray, y: np.ndarray) -> Scorer:
    smallest = np.finfo(np.float64).eps
    losses = -np.log(np.clip(np.where(y == 1, p, 1 - p), smallest, 1 - smallest)).mean(axis=1)
    return lambda weights: np.asarray(weights @ losses / weights.sum(axis=1))


_LABEL_SCORERS: dict[str, Callable[[np.ndarray, np.ndarray], Scorer]] = {
    "map": _map,
    "micro-f1": _micro_f1,
    "macro-f1": _label_macro_f1,
    "subset": _subset,
    "log-loss": _label_log_loss,
}


def _mean_over_classes(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(b, k) values, (b, k) bool -> (b,) mean of those that count, NaN if none does."""
    number = counted.sum(axis=1)
    return np.where(number > 0, np.where(counted, values, 0).sum(axis=1) / np.maximum(number, 1), np.nan)


_SCORERS: dict[str, Callable[[np.ndarray, np.ndarray], Scorer]] = {
    "accuracy": _accuracy,
    "balanced": _balanced,
    "macro-f1": _macro_f1,
    "log-loss": _log_loss,
    "auroc": _auroc,
    "mae": _mae,
    "rmse": _rmse,
    "r2": _r2,
}
