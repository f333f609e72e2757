"""Labels and numbers that are worth a look, by the predictions of heads that were not trained on the image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onepass.heads.audit.label_errors import nearest_labels, suspects
from onepass.heads.audit.report import InspectedImage, LabelError, OneLabelError, SurprisingNumber
from onepass.heads.classifiers.base import Head
from onepass.heads.classifiers.knn import KNNHead
from onepass.heads.classifiers.ridge import RidgeHead
from onepass.heads.fitting.pca import SharedComponents

UNLIKELY = 4.0
"""Robust standard deviations from what is predicted from which on a number is listed; of a normal distribution, 1 in
16,000 lies beyond."""

DOUBTFUL = 0.1
"""Probability of what an image is labelled with up to which one of several labels is listed.

Labels that photos have to a degree, such as bright, are uncertain for many. Of 2,527 photos with ten labels, four of
them such, 547 were listed without this limit and 195 with it; among them were 56 and 52 of 75 labels made wrong.
"""


class Labelled(NamedTuple):
    """Images with what they are labelled with.

    Attributes:
        x: (n, d) rows.
        y: (n, k) labels of 0 and 1, or (n,) numbers.
        groups: (n,) equal for images that are held out together.
        images: n.
    """

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    images: Sequence[InspectedImage]


def surprising_labels(given: Labelled, names: Sequence[str]) -> list[LabelError]:
    """Images with a label that is probably missing or too many, the least probable first.

    Each label is taken by itself, as one of two classes, and decided on as `suspects` does; see `DOUBTFUL`.

    Args:
        given: The images.
        names: k labels.
    """
    told, found = held_out(given, "labels"), dict[int, list[tuple[float, int]]]()
    for label in np.flatnonzero((given.y == 1).any(axis=0) & (given.y == 0).any(axis=0)).tolist():
        has = (given.y[:, label] == 1).astype(np.int64)
        both = np.stack([1 - told[:, label], told[:, label]], axis=1)
        for i in suspects(both, has).positions.tolist():
            if both[i, has[i]] <= DOUBTFUL:
                found.setdefault(i, []).append((float(both[i, has[i]]), label))
    order = sorted(found, key=lambda i: min(found[i]))
    first = {i: min(found[i]) for i in order}
    nearest = nearest_labels(given.x, np.arange(len(given.x)), given.groups, np.array(order, np.int64))
    errors: list[LabelError] = []
    for i, others in zip(order, nearest, strict=True):
        confidence, label = first[i]
        having, has = int((given.y[others, label] == 1).sum()), bool(given.y[i, label] == 1)
        right = given.y[i].copy()
        for _, wrong in found[i]:
            right[wrong] = 1 - right[wrong]
        errors.append(
            OneLabelError(
                image=given.images[i],
                suggested=", ".join(name for name, has_it in zip(names, right == 1, strict=True) if has_it),
                confidence=confidence,
                suggested_confidence=1 - confidence,
                nearest=len(others),
                nearest_suggested=len(others) - having if has else having,
                nearest_own=having if has else len(others) - having,
                about=names[label],
                has=has,
            )
        )
    return errors


def surprising_numbers(given: Labelled) -> list[SurprisingNumber]:
    """Images whose number is far from what is predicted, the farthest first.

    How far is counted from the median error in units of 1.4826 times the median absolute deviation, the standard
    deviation of a normal distribution, so that wrong numbers do not hide each other.
    """
    told = held_out(given, "number")[:, 0]
    judged = np.flatnonzero(np.isfinite(told))
    errors = given.y[judged] - told[judged]
    away = errors - np.median(errors)
    spread = 1.4826 * float(np.median(np.abs(away)))
    scores = np.abs(away) / (spread or 1e-12)
    order = np.argsort(-scores, kind="stable")
    chosen = judged[order[: int((scores >= UNLIKELY).sum())]]
    nearest = nearest_labels(given.x, given.y, given.groups, chosen)
    return [
        SurprisingNumber(
            image=given.images[i],
            predicted=float(told[i]),
            score=float(score),
            nearest=tuple(np.quantile(others, [0.25, 0.75]).tolist()) if len(others) else None,
        )
        for i, score, others in zip(chosen.tolist(), scores[order], nearest, strict=False)
    ]


def held_out(given: Labelled, task: str) -> np.ndarray:
    """(n, k) mean of what two heads that err differently, ridge and neighbours, say of images they did not see."""
    shared = SharedComponents()
    heads: list[Head] = [RidgeHead(task=task), KNNHead(task=task)]
    found = [head.fit(given.x, given.y, groups=given.groups, shared=shared).held_out_ for head in heads]
    unknown = np.full((len(given.y), given.y.shape[1] if given.y.ndim == 2 else 1), np.nan)
    return np.asarray(np.mean([unknown if one is None else one for one in found], axis=0))
