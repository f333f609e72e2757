"""Scores of classes, each with what it was measured on and how sure it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from onepass.features.errors import OptionError, TrainingError, opt
from onepass.features.names import shown
from onepass.features.tables import WIDTH, fitted_table, text_table
from onepass.heads.stats.intervals import weighted_interval
from onepass.heads.stats.metrics import calibration_error, metric
from onepass.heads.tasks.score import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Classifier(Protocol):
    """Anything that names a class for each row, scikit-learn's classifiers included."""

    def predict(self, x: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class ClassScore:
    """The score of one class.

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


MATRIX = 10
"""Classes up to which the whole confusion matrix is shown."""

DRAWN = 40
"""Classes up to which the confusion matrix is drawn."""

FEW = 10
"""Images of a class below which its line in the table comes with a warning."""


@dataclass(frozen=True)
class LeakFree:
    """The score without images that training saw in another guise.

    Attributes:
        leaked: Images that are exact or near copies of training images.
        n: The others.
        accuracy: Their share classified correctly; 0 if there are none.
        interval: 95 % Wilson interval.
    """

    leaked: int
    n: int
    accuracy: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        copies = "is a copy" if self.leaked == 1 else "are copies"
        rest = f"{self.accuracy:.3f} ({low:.3f} to {high:.3f}), n={self.n}" if self.n else "none is left to score"
        return f"{self.leaked} of these images {copies} of training images; without them {rest}"


@dataclass(frozen=True)
class Evaluation(Score):
    """A head's score on images.

    Attributes:
        measured_on: Which images: "test", "val", ...
        n: How many.
        accuracy: Share classified correctly.
        interval: 95 % Wilson interval of the accuracy, (low, high).
        per_class: Class name -> its score.
        confusion: [true class][predicted class] -> images, in the order of `per_class`.
        log_loss: Mean negative log probability of the true class; None if the head gives no probabilities.
        calibration_error: Expected calibration error of the named class; None likewise.
        leak_free: The score without copies of training images; None if there are none, or nobody looked.
        weighted: Whether images count differently, in all but `n` and `confusion`.
    """

    measured_on: str
    n: int
    accuracy: float
    interval: tuple[float, float]
    per_class: dict[str, ClassScore]
    confusion: list[list[int]]
    log_loss: float | None = None
    calibration_error: float | None = None
    leak_free: LeakFree | None = None
    weighted: bool = False

    def __str__(self) -> str:
        return self.headline()

    def headline(self) -> str:
        low, high = self.interval
        return f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f}), n={self.n}"

    @property
    def without_copies(self) -> str:
        return str(self.leak_free or "")

    def details(self) -> str:
        """What stands below the headline: probabilities, copies, and a line per class."""
        lines = []
        if self.log_loss is not None:
            lines.append(f"log loss {self.log_loss:.3f}, calibration error {self.calibration_error:.3f}")
        if self.leak_free:
            lines.append(str(self.leak_free))
        return "\n".join([*lines, fitted_table(self.rows()), *self._warnings()])

    def confusions(self) -> str:
        """Who is taken for whom: a table of up to `MATRIX` classes, else the pairs most often confused."""
        names = list(self.per_class)
        if len(names) > MATRIX:
            return self._most_confused(names)
        lines = [[name, *map(str, row)] for name, row in zip(names, self.confusion, strict=True)]
        table = text_table([["", *names], *lines])
        if max(map(len, table.splitlines())) > WIDTH:  # then the columns have numbers, and the rows both
            numbers = [str(number) for number, _ in enumerate(names, 1)]
            lines = [[f"{number} {line[0]}", *line[1:]] for number, line in zip(numbers, lines, strict=True)]
            table = fitted_table([["", *numbers], *lines])
        return f"confusion (rows: true class, columns: predicted)\n{table}"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The confusion matrix; of more than `DRAWN` classes their recall, the worst on top.

        Raises:
            OptionError: It is the score that a certificate keeps, which has no classes.
        """
        from onepass.heads.plots.charts import bar_chart, confusion_chart

        names = list(self.per_class)
        if not names:
            raise OptionError("this score keeps no single classes to be drawn; evaluate the model on labelled images.")
        if len(names) <= DRAWN:
            return confusion_chart(np.array(self.confusion), names, self._title(), ax)
        worst = sorted((one.recall, name) for name, one in self.per_class.items() if one.n)
        counts = [self.per_class[name].n for _, name in worst]
        return bar_chart({name: recall for recall, name in worst}, "recall", self._title(), ax, n=counts)

    def _most_confused(self, names: Sequence[str]) -> str:
        counts = np.array(self.confusion)
        np.fill_diagonal(counts, 0)
        pairs = [np.unravel_index(place, counts.shape) for place in np.argsort(-counts, axis=None, kind="stable")]
        rows = [[names[i], f"taken for {names[j]}", str(counts[i, j])] for i, j in pairs[:MATRIX] if counts[i, j]]
        return f"most often confused\n{fitted_table(rows, columns=(0, 1), heading=False)}" if rows else "confused: none"

    def rows(self) -> list[list[str]]:
        scores = [
            [name, str(one.n), *(f"{v:.3f}" if one.n else "-" for v in (one.precision, one.recall, one.f1))]
            for name, one in self.per_class.items()
        ]
        return [["class", "n", "precision", "recall", "f1"], *scores]

    def _warnings(self) -> list[str]:
        few = [name for name, one in self.per_class.items() if one.n < FEW]
        if not few:
            return []
        named = ", ".join(map(shown, few[:5])) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        return [f"fewer than {FEW} images of {named}: what a line says of such a class hangs on single images"]


class Answers(NamedTuple):
    """What a head says of n images.

    Attributes:
        named: (n,) int64 positions in its classes; or float64 numbers.
        probabilities: (n, k), or None if it gives none.
    """

    named: np.ndarray
    probabilities: np.ndarray | None

    @classmethod
    def of(cls, head: Classifier, pieces: Iterable[np.ndarray], named: type = np.int64) -> Self:
        """The answers to rows that come as (m, d) float32 pieces.

        Args:
            head: Anything with `predict` that returns positions in its classes, better with `predict_proba`.
            pieces: Its rows.
            named: Type of what it names; numbers, np.float64, have no probabilities.
        """
        found: list[np.ndarray] = []
        probabilities: list[np.ndarray] = []
        tell = None if named is np.float64 else getattr(head, "predict_proba", None)
        for rows in pieces:
            found.append(np.asarray(head.predict(rows), named))
            if tell:
                probabilities.append(tell(rows))
        return cls(
            np.concatenate(found) if found else np.empty(0, named),
            np.concatenate(probabilities) if probabilities else None,
        )


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
    answers: Answers,
    y: np.ndarray,
    class_names: tuple[str, ...],
    *,
    measured_on: str = "the rows given",
    copies: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Evaluation:
    """Scores what a head said of n images.

    Args:
        answers: Positions in `class_names`.
        y: (n,) positions in `class_names`.
        class_names: k names.
        measured_on: What to call these images.
        copies: (n,) bool, True for copies of training images, if that is known.
        weights: (n,) how much each image counts; all alike by default.

    Raises:
        TrainingError: n is 0.
    """
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    if len(y) == 0:
        raise TrainingError(f"no images to score in {measured_on}. Choose another part with {opt.split}.")
    k = len(class_names)
    named, probabilities = answers
    confusion, shares = np.zeros((k, k), np.int64), np.zeros((k, k))
    np.add.at(confusion, (y, named), 1)
    np.add.at(shares, (y, named), weights)
    hits, true, called = shares.diagonal(), shares.sum(axis=1), shares.sum(axis=0)
    least = float(weights.min())  # of what is not 0
    precision, recall = hits / np.maximum(called, least), hits / np.maximum(true, least)
    f1 = 2 * hits / np.maximum(true + called, least)
    columns: Any = zip(class_names, confusion.sum(axis=1), precision, recall, f1, strict=True)
    told = probabilities if probabilities is not None and probabilities.shape[1] == k else None
    right = named == y
    return Evaluation(
        measured_on=measured_on,
        n=len(y),
        accuracy=float(np.average(right, weights=weights)),
        interval=weighted_interval(right, weights),
        per_class={name: ClassScore(int(n), float(p), float(r), float(f)) for name, n, p, r, f in columns},
        confusion=confusion.tolist(),
        log_loss=None if told is None else float(metric("log-loss", told, y, weights=weights[None])[0]),
        calibration_error=None if told is None else calibration_error(told, y, weights=weights),
        leak_free=_without_copies(right, copies, weights),
        weighted=bool(np.ptp(weights) > 0),
    )


def _without_copies(right: np.ndarray, copies: np.ndarray | None, weights: np.ndarray) -> LeakFree | None:
    if copies is None or not copies.any():
        return None
    rest = ~copies
    if not rest.any():
        return LeakFree(int(copies.sum()), 0, 0.0, (0.0, 1.0))
    share = float(np.average(right[rest], weights=weights[rest]))
    return LeakFree(int(copies.sum()), int(rest.sum()), share, weighted_interval(right[rest], weights[rest]))
