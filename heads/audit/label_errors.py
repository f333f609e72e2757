"""Labels that are probably wrong, by the predictions of heads that were not trained on the image."""

import importlib.util
from typing import NamedTuple

import numpy as np

from onepass.heads.classifiers.knn import KNNHead
from onepass.heads.classifiers.lda import LDAHead
from onepass.heads.fitting.pca import SharedComponents

CERTAIN = 0.9
"""Lowest probability of another class that makes a label suspicious, without cleanlab."""
OBVIOUS = 0.98
"""The same with cleanlab, for labels that it does not call wrong."""


class Suspects(NamedTuple):
    """Images whose label is probably wrong, the surest first.

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
    false alarms than either and found about as many (benchmarks/inspection.py), as did a kernel SVM that
    took four times as long.

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


def cleanlab_installed() -> bool:
    return importlib.util.find_spec("cleanlab") is not None


def suspects(probabilities: np.ndarray, y: np.ndarray, *, cleanlab: bool) -> Suspects:
    """Images whose label is improbable.

    With cleanlab, confident learning estimates how many labels are wrong, and as many images with the
    lowest probability of their own label are taken; and those for which another class has 0.98 or more,
    which it overlooks where the classes are told apart with still more certainty on average. Without it,
    those are taken for which another class has 0.9 or more: fewer false alarms, but where classes are
    alike only half as many are found.

    Args:
        probabilities: (n, k) float64, out of fold; NaN for images that cannot be judged.
        y: (n,) classes 0 to k - 1.
        cleanlab: Whether to use it.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70, 1373-1411.
    """
    judged = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    found, labels = probabilities[judged], y[judged]
    own = found[np.arange(len(judged)), labels]
    differing = found.argmax(axis=1) != labels
    called = found.max(axis=1) >= (OBVIOUS if cleanlab else CERTAIN)
    if cleanlab:
        called |= _confident_learning(found, labels)
    chosen = np.flatnonzero(called & differing)
    chosen = chosen[np.argsort(own[chosen], kind="stable")]
    return Suspects(judged[chosen], found[chosen].argmax(axis=1))


def _confident_learning(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(m, k) probabilities and (m,) classes -> (m,) bool, the labels that cleanlab calls wrong."""
    present, labels = np.unique(y, return_inverse=True)
    if len(present) < 2:
        return np.zeros(len(y), bool)
    from cleanlab.filter import find_label_issues

    # Classes without an image to judge are left out: cleanlab takes none that is empty.
    some = probabilities[:, present]
    some = some / some.sum(axis=1, keepdims=True)
    # One process: its pool would cost more than the work, and more memory.
    return np.asarray(find_label_issues(labels, some, filter_by="low_self_confidence", n_jobs=1))
