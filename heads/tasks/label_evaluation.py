"""Scores of several labels per image: average precision, F1, and whole answers that are right."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onepass.features.errors import TrainingError, opt
from onepass.features.tables import fitted_table
from onepass.heads.stats.bootstrap import bootstrap_interval
from onepass.heads.stats.metrics import calibration_error, metric
from onepass.heads.tasks.number_evaluation import Interval
from onepass.heads.tasks.score import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORED = {
    "map": "mean average precision",
    "micro-f1": "micro F1",
    "macro-f1": "macro F1",
    "subset": "all labels right",
}
"""Metric -> its name in words."""

_BINS = 10


@dataclass(frozen=True)
class LabelScore:
    """The score of one label.

    Attributes:
        n: Images that have it.
        precision: Share of the images called so that have it; 0 if none was.
        recall: Share of the images that have it that were called so; 0 if none has it.
        f1: Harmonic mean of the two.
        average_precision: Area under precision over recall; None if no image has it.
        calibration: Of the images in each tenth of the probabilities, where there are any: mean probability, share of
            them that has the label, and how many there are. Files of an earlier onepass have none.
    """

    n: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None
    calibration: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class LabelsLeakFree:
    """The score without images that training saw in another guise.

    Attributes:
        leaked: Images that are exact or near copies of training images.
        n: The others.
        value: Their mean average precision; None if there are none, or none of them has a label.
    """

    leaked: int
    n: int
    value: float | None

    def __str__(self) -> str:
        copies = "is a copy" if self.leaked == 1 else "are copies"
        rest = "there is nothing to score" if self.value is None else f"{self.value:.3f}, n={self.n}"
        return f"{self.leaked} of these images {copies} of training images; without them {rest}"


@dataclass(frozen=True)
class LabelsEvaluation(Score):
    """A head's score on images that have several labels or none.

    Attributes:
        measured_on: Which images: "test", "val", ...
        n: How many.
        scores: Name of a metric, map, micro-f1, macro-f1 or subset -> its value; None where no image has a label.
        intervals: The same -> 95 % bootstrap interval; None for fewer than two images.
        per_label: Label name -> its score.
        log_loss: Mean over images and labels.
        calibration_error: Expected calibration error, mean over labels.
        leak_free: The score without copies of training images; None if there are none, or nobody looked.
    """

    measured_on: str
    n: int
    scores: dict[str, float | None]
    intervals: dict[str, Interval | None]
    per_label: dict[str, LabelScore]
    log_loss: float
    calibration_error: float
    leak_free: LabelsLeakFree | None = None

    def __str__(self) -> str:
        return self.headline()

    def headline(self) -> str:
        return f"mean average precision {self._told('map')}, n={self.n}"

    def _told(self, name: str) -> str:
        value, ends = self.scores[name], self.intervals[name]
        return ("-" if value is None else f"{value:.3f}") + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")

    @property
    def without_copies(self) -> str:
        return str(self.leak_free or "")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The average precision of each label."""
        from onepass.heads.plots.charts import bar_chart

        values = {name: one.average_precision for name, one in self.per_label.items()}
        counts = [one.n for one in self.per_label.values()]
        return bar_chart(values, "average precision", self._title(), ax, n=counts)

    def rows(self) -> list[list[str]]:
        lines = [
            [
                name,
                str(one.n),
                *(f"{v:.3f}" if one.n else "-" for v in (one.precision, one.recall, one.f1)),
                "-" if one.average_precision is None else f"{one.average_precision:.3f}",
            ]
            for name, one in self.per_label.items()
        ]
        return [["label", "n", "precision", "recall", "f1", "average precision"], *lines]

    def details(self) -> str:
        told = ", ".join(f"{SCORED[name]} {self._told(name)}" for name in ("micro-f1", "macro-f1", "subset"))
        calibration = f"log loss {self.log_loss:.3f}, calibration error {self.calibration_error:.3f}"
        copies = [self.without_copies] if self.leak_free else []
        return "\n".join([told, calibration, *copies, fitted_table(self.rows())])


def score_labels(
    named: np.ndarray,
    probabilities: np.ndarray,
    y: np.ndarray,
    names: tuple[str, ...],
    *,
    measured_on: str = "the rows given",
    copies: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> LabelsEvaluation:
    """Scores what a head said of n images.

    Args:
        named: (n, k) of 0 and 1: the labels it names.
        probabilities: (n, k) of each.
        y: (n, k) of 0 and 1: those that the images have.
        names: k.
        measured_on: What to call these images.
        copies: (n,) bool, True for copies of training images, if that is known.
        weights: (n,) how much each image counts.

    Raises:
        TrainingError: n is 0.
    """
    if not len(y):
        raise TrainingError(f"no images to score in {measured_on}. Choose another part with {opt.split}.")
    weights = np.ones(len(y)) if weights is None else weights
    scores: dict[str, float | None] = {}
    intervals: dict[str, Interval | None] = {}
    for name in SCORED:
        told = probabilities if name == "map" else named.astype(float)
        value = _value(name, told, y, weights)
        scores[name] = value
        able = value is not None and len(y) > 1
        intervals[name] = bootstrap_interval(name, told, y, sample_weights=weights) if able else None
    leaked = copies if copies is not None and copies.any() else None
    apart = None
    if leaked is not None:
        rest = ~leaked
        value = _value("map", probabilities[rest], y[rest], weights[rest]) if rest.any() else None
        apart = LabelsLeakFree(int(leaked.sum()), int(rest.sum()), value)
    hits, called, true = (weights @ one for one in (y * named, named, y))
    least = float(weights.min())
    errors = [
        calibration_error(np.stack([1 - p, p], axis=1), has.astype(np.int64), weights=weights)
        for p, has in zip(probabilities.T, y.T, strict=True)
    ]
    return LabelsEvaluation(
        measured_on=measured_on,
        n=len(y),
        scores=scores,
        intervals=intervals,
        per_label={
            name: LabelScore(
                n=int((y[:, i] == 1).sum()),
                precision=float(hits[i] / max(called[i], least)),
                recall=float(hits[i] / max(true[i], least)),
                f1=float(2 * hits[i] / max(called[i] + true[i], least)),
                average_precision=_value("map", probabilities[:, [i]], y[:, [i]], weights),
                calibration=calibration_bins(probabilities[:, i], y[:, i], weights),
            )
            for i, name in enumerate(names)
        },
        log_loss=float(metric("log-loss", probabilities, y, weights=weights[None])[0]),
        calibration_error=float(np.mean(errors)),
        leak_free=apart,
    )


def calibration_bins(p: np.ndarray, has: np.ndarray, weights: np.ndarray) -> list[list[float]]:
    """What a calibration plot of one label shows; see `LabelScore`.

    Args:
        p: (n,) probabilities of the label.
        has: (n,) 1 for images that have it, else 0.
        weights: (n,) how much each image counts.

    >>> calibration_bins(np.array([0.25, 0.25, 0.8]), np.array([0, 1, 1]), np.ones(3))
    [[0.25, 0.5, 2], [0.8, 1.0, 1]]
    """
    place = np.clip((p * _BINS).astype(np.int64), 0, _BINS - 1)
    bins = [place == i for i in range(_BINS)]
    return [
        [*(float(np.average(one[some], weights=weights[some])) for one in (p, has)), int(some.sum())]
        for some in bins
        if some.any()
    ]


def _value(name: str, told: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float | None:
    value = float(metric(name, told, y, weights=weights[None])[0])
    return value if np.isfinite(value) else None
