"""Labels that are worth a look, by the predictions of heads that were not trained on the image."""

from typing import NamedTuple

import numpy as np

from onepass.heads.classifiers.knn import KNNHead
from onepass.heads.classifiers.lda import LDAHead
from onepass.heads.fitting.pca import SharedComponents
from onepass.heads.inference.neighbour_table import nearest_first, unit_length
from onepass.heads.inference.network import standardisation

OBVIOUS = 0.98
"""Probability of another class from which on a label is suspicious in any case."""
NEAREST = 10
"""Images whose labels are given as a reason."""

_COSINES = 2**24
"""Held at a time: 64 MB."""


class Suspects(NamedTuple):
    """Images whose label is worth a look, the least probable label first.

    Attributes:
        positions: (m,) int64.
        suggested: (m,) int64, the class that is most probable instead.
    """

    positions: np.ndarray
    suggested: np.ndarray


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Calibrated class probabilities of each image by heads that saw neither it nor its group.

    They are the mean of two heads that err differently: LDA, which knows the shape of the classes, and
    nearest neighbours, which know the neighbourhood. Where 5 % of the labels were wrong, the mean gave fewer
    false alarms than either and found about as many (benchmarks/label_errors.py).

    Args:
        x: (n, d) rows.
        y: (n,) labels.
        groups: (n,) equal for images that are held out together. Copies must be: the label of one
            would hide that the other's is wrong.

    Returns:
        (n, k) float64 in the order of `np.unique(y)`; NaN where no fold can hold an image out, because
        its class has no other group.

    Raises:
        TrainingError: Fewer than two classes.
    """
    shared = SharedComponents()
    found = [head().fit(x, y, groups=groups, shared=shared).held_out_ for head in (LDAHead, KNNHead)]
    unknown = np.full((len(y), len(np.unique(y))), np.nan)
    return np.asarray(np.mean([unknown if p is None else p for p in found], axis=0))


def suspects(probabilities: np.ndarray, y: np.ndarray) -> Suspects:
    """Images whose label is worth a look, by confident learning.

    A class is confidently seen in an image if its probability is at least the mean over the images of that label. As
    many images as are confidently seen in another class than their own are taken, those with the
    lowest probability of their own label; so the limit rises and falls with the share of wrong labels, which lowers
    all probabilities. Those for which another class has `OBVIOUS` are taken too: classes that are told apart with more
    certainty still would hide them. Where 2 to 10 % of the labels were wrong, these were the images that cleanlab calls
    by the same rule, and its default called two to three times as many in vain (benchmarks/label_errors.py).

    Args:
        probabilities: (n, k) float64, out of fold; NaN for images that cannot be judged.
        y: (n,) classes 0 to k - 1.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70, 1373-1411.
    """
    judged = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    found, labels = probabilities[judged], y[judged]
    own = found[np.arange(len(judged)), labels]
    order = np.argsort(own, kind="stable")
    called = found.max(axis=1, initial=0) >= OBVIOUS
    called[order[: _confidently_elsewhere(found, labels)]] = True
    chosen = order[called[order] & (found[order].argmax(axis=1) != labels[order])]
    return Suspects(judged[chosen], found[chosen].argmax(axis=1))


def _confidently_elsewhere(probabilities: np.ndarray, y: np.ndarray) -> int:
    """How many images are confidently seen in another class than that of their label."""
    own = np.eye(probabilities.shape[1], dtype=bool)[y]
    counts = own.sum(axis=0)
    thresholds = np.where(counts > 0, (probabilities * own).sum(axis=0) / np.maximum(counts, 1), np.inf)
    # A class of which all images are equally probable is seen in all of them, whatever rounding made of the mean.
    confident = probabilities >= thresholds - 1e-6
    seen = np.where(confident, probabilities, -1.0).argmax(axis=1)
    return int((confident.any(axis=1) & (seen != y)).sum())


def nearest_labels(x: np.ndarray, y: np.ndarray, groups: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Labels of the images most like some images, by cosine of the standardised rows.

    Args:
        x: (n, d) rows.
        y: (n,) labels.
        groups: (n,) as for `out_of_fold`; an image's own group is left out.
        positions: (m,) the images asked about.

    Returns:
        (m, c) labels, the nearest first; c is `NEAREST`, or less where there are fewer other images.
    """
    mean, scale = standardisation(x)
    unit = unit_length((x - mean) / scale)
    count = min(NEAREST, len(x) - int(np.unique(groups, return_counts=True)[1].max()))
    nearest = [np.empty((0, count), np.int64)]
    step = max(1, _COSINES // len(x))
    for some in (positions[start : start + step] for start in range(0, len(positions), step)):
        cosines = unit[some] @ unit.T
        cosines[groups[some, None] == groups] = -np.inf
        nearest.append(nearest_first(cosines, count))
    return np.asarray(y[np.concatenate(nearest)])
