"""What is said of one image: a class, some labels, or a number; as a line, as JSON, and as a row of a table."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.names import shown
from onepass.features.tables import Record
from onepass.heads.saved_head import SavedHead


class Told(ABC):
    """What is said of one image.

    Attributes:
        path: The image as it was named.
        unknown: Whether it is none of those the head knows, as far as can be told; None if that was not asked.
    """

    path: str
    unknown: bool | None

    @abstractmethod
    def words(self) -> str:
        """What follows the path in a line for people."""

    @abstractmethod
    def facts(self) -> Record:
        """All but path and unknown, as JSON takes it."""

    @abstractmethod
    def cells(self) -> Record:
        """The same by the columns of a table; see `columns`."""

    def __str__(self) -> str:
        return f"{shown(self.path)}  {f'unknown ({self.words()})' if self.unknown else self.words()}"

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {"path": self.path, **self.facts(), **({} if self.unknown is None else {"unknown": self.unknown})}


@dataclass(frozen=True)
class Prediction(Told):
    """One image's answer.

    Attributes:
        path: The image as it was named.
        top: (class, probability) pairs, the most probable first.
        unknown: Whether it belongs to none of the classes, as far as can be told; None if that was not asked.
    """

    path: str
    top: list[tuple[str, float]]
    unknown: bool | None = None

    def words(self) -> str:
        return "  ".join(f"{shown(name)} {probability:.3f}" for name, probability in self.top)

    def facts(self) -> Record:
        best, probability = self.top[0]
        top = [{"class": name, "probability": value} for name, value in self.top]
        return {"class": best, "probability": probability, "top": top}

    def cells(self) -> Record:
        found: Record = {}
        for rank, (name, probability) in enumerate(self.top, start=1):
            ending = "" if rank == 1 else f"_{rank}"
            found |= {f"class{ending}": shown(name), f"probability{ending}": probability}
        return found


@dataclass(frozen=True)
class NumberPrediction(Told):
    """The number of one image.

    Attributes:
        path: The image as it was named.
        name: What the number is.
        number: In its unit.
        interval: (low, high) between which 95 % of such numbers lie; None if the head keeps nothing to tell it by.
        unknown: Whether the image is unlike those of the training; None if that was not asked.
    """

    path: str
    name: str
    number: float
    interval: tuple[float, float] | None = None
    unknown: bool | None = None

    def words(self) -> str:
        between = f" ({self.interval[0]:.4g} to {self.interval[1]:.4g})" if self.interval else ""
        return f"{shown(self.name)} {self.number:.4g}{between}"

    def facts(self) -> Record:
        low, high = self.interval or (None, None)
        return {"name": self.name, "number": self.number, "low": low, "high": high}

    def cells(self) -> Record:
        ends = {"low": self.interval[0], "high": self.interval[1]} if self.interval else {}
        return {"number": self.number, **ends}


@dataclass(frozen=True)
class LabelsPrediction(Told):
    """The labels of one image.

    Attributes:
        path: The image as it was named.
        labels: Those it has, the most probable first; maybe none.
        probabilities: Label -> its probability, of all labels.
        unknown: Whether the image is unlike those of the training; None if that was not asked.
    """

    path: str
    labels: list[str]
    probabilities: dict[str, float]
    unknown: bool | None = None

    def words(self) -> str:
        named = "  ".join(f"{shown(name)} {self.probabilities[name]:.3f}" for name in self.labels)
        return named or "no label"

    def facts(self) -> Record:
        return {"labels": self.labels, "probabilities": self.probabilities}

    def cells(self) -> Record:
        each = {f"probability_{shown(name)}": value for name, value in self.probabilities.items()}
        return {"labels": ", ".join(map(shown, self.labels)), **each}


def teller(head: SavedHead, *, top: int) -> Callable[[str, np.ndarray, bool | None], Told]:
    """What makes answers of (k,) outputs of a head.

    Args:
        head: The head.
        top: Classes to name per image.

    Returns:
        Path, outputs and whether the image is unknown -> what is said of it.
    """
    if head.task == NUMBER:
        width = head.half_width()
        ends = None if width is None or not np.isfinite(width) else width

        def number(path: str, outputs: np.ndarray, unknown: bool | None) -> Told:
            value = float(outputs[0])
            interval = None if ends is None else (value - ends, value + ends)
            return NumberPrediction(path, head.class_names[0], value, interval, unknown)

        return number

    if head.task == LABELS:
        thresholds = np.full(len(head.class_names), 0.5) if head.thresholds is None else head.thresholds

        def several(path: str, outputs: np.ndarray, unknown: bool | None) -> Told:
            order = np.argsort(-outputs, kind="stable")
            named = [head.class_names[i] for i in order if outputs[i] >= thresholds[i]]
            each = dict(zip(head.class_names, outputs.tolist(), strict=True))
            return LabelsPrediction(path, named, each, unknown)

        return several

    def ranked(path: str, outputs: np.ndarray, unknown: bool | None) -> Told:
        order = np.argsort(-outputs, kind="stable")[:top]
        return Prediction(path, [(head.class_names[i], float(outputs[i])) for i in order], unknown)

    return ranked


def columns(head: SavedHead, *, top: int, unknown: bool) -> list[str]:
    """Names of a table's columns, of which path comes first and skipped last.

    Args:
        head: Of classes: class, probability, and those of further ranks. Of labels: labels, and the probability of
            each. Of numbers: number, low, high.
        top: Classes to name per image.
        unknown: Whether it is said of each image.
    """
    if head.task == CLASSES:
        return ranked_columns(min(top, len(head.class_names)), unknown=unknown)
    own = ["number", "low", "high"]
    if head.task == LABELS:
        own = ["labels", *(f"probability_{shown(name)}" for name in head.class_names)]
    return ["path", *own, *(["unknown"] if unknown else []), "skipped"]


def ranked_columns(ranks: int, *, unknown: bool) -> list[str]:
    """Those of classes: path, class, probability, those of further ranks, unknown if asked, skipped."""
    further = [f"{what}_{i}" for i in range(2, ranks + 1) for what in ("class", "probability")]
    return ["path", "class", "probability", *further, *(["unknown"] if unknown else []), "skipped"]
