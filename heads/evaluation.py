"""Scores of a head, each with what it was measured on and how sure it is."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from features import FeatureFile
from features.errors import TrainingError


class Classifier(Protocol):
    """Anything that names a class for each row, scikit-learn's classifiers included."""

    def predict(self, x: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class ClassScore:
    """How one class fared.

    Attributes:
        n: Images of the class.
        precision: Share of the images called this class that belong to it; 0 if none was.
        recall: Share of the class's images that were called so; 0 if there are none.
        f1: Harmonic mean of the two.
    """

    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """A head's score on images.

    Attributes:
        measured_on: Which images: "test", "val", ...
        n: How many.
        accuracy: Share classified correctly.
        interval: 95 % Wilson interval of the accuracy, (low, high).
        per_class: Class name -> its score.
        confusion: [true class][predicted class] -> images, in the order of `per_class`.
    """

    measured_on: str
    n: int
    accuracy: float
    interval: tuple[float, float]
    per_class: dict[str, ClassScore]
    confusion: list[list[int]]

    def __str__(self) -> str:
        low, high = self.interval
        return f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f}), n={self.n}"


def wilson_interval(correct: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Interval for an accuracy that stays sensible for few images and near 0 or 1.

    Args:
        correct: Images classified correctly, 0 <= correct <= total.
        total: Images scored. Views of one image count once.
        z: Normal quantile; 1.96 covers about 95 %.

    Returns:
        (low, high) as fractions in [0, 1]. wilson_interval(9, 10) is about (0.596, 0.982).

    Raises:
        ValueError: `total` is 0, or `correct` lies outside 0..total.

    Source: E. B. Wilson (1927), J. Am. Stat. Assoc. 22(158), 209-212.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}; needed: 0 <= correct <= total and total >= 1")
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At the ends the formula is exactly 0 or 1; rounding would put it a hair beside.
    low = 0.0 if correct == 0 else (centre - half) / scale
    high = 1.0 if correct == total else (centre + half) / scale
    return low, high


def evaluate(
    head: Classifier, file: FeatureFile, *, rows: np.ndarray, measured_on: str = "the rows given"
) -> Evaluation:
    """Scores a head on rows of a feature file.

    Args:
        head: Anything with `predict` that returns positions in `file.class_names`.
        file: The feature file.
        rows: (n,) positions of the images to score.
        measured_on: What to call them.

    Raises:
        TrainingError: There are no rows to score.
    """
    x, y = file.read(rows)
    return score(head, x, y, file.class_names, measured_on=measured_on)


def match_labels(y: np.ndarray, class_names: tuple[str, ...], head_names: tuple[str, ...]) -> np.ndarray:
    """Labels of one data set as positions in a head's classes, matched by name.

    Args:
        y: (n,) positions in `class_names`.
        class_names: The data's classes.
        head_names: The head's classes.

    Raises:
        TrainingError: The data has a class that the head does not know.
    """
    present = [class_names[i] for i in np.unique(y)]
    if unknown := [name for name in present if name not in head_names]:
        raise TrainingError(
            f"the images have the class {unknown[0]!r}, which the head does not know; it knows "
            f"{', '.join(head_names)}. Rename the class folders, or train a head on these images."
        )
    place = {name: i for i, name in enumerate(head_names)}
    return np.array([place[class_names[i]] for i in y], np.int64)


def score(
    head: Classifier, x: np.ndarray, y: np.ndarray, class_names: tuple[str, ...], *, measured_on: str
) -> Evaluation:
    """Scores a head on rows at hand.

    Args:
        head: Anything with `predict` that returns positions in `class_names`.
        x: (n, d) float32.
        y: (n,) positions in `class_names`.
        class_names: k names.
        measured_on: What to call these images.

    Raises:
        TrainingError: n is 0.
    """
    if len(y) == 0:
        raise TrainingError(f"no images to score in {measured_on}. Choose another part with --split.")
    k = len(class_names)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (y, np.asarray(head.predict(x), np.int64)), 1)
    hits, true, called = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = hits / np.maximum(called, 1), hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + called, 1)
    columns: Any = zip(class_names, true, precision, recall, f1, strict=True)
    return Evaluation(
        measured_on=measured_on,
        n=len(y),
        accuracy=float(hits.sum() / len(y)),
        interval=wilson_interval(int(hits.sum()), len(y)),
        per_class={name: ClassScore(int(n), float(p), float(r), float(f)) for name, n, p, r, f in columns},
        confusion=confusion.tolist(),
    )
