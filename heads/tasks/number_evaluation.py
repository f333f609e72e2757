"""Scores of numbers: mean absolute error, root mean squared error, R2."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onepass.features.errors import OptionError, TrainingError, opt
from onepass.features.tables import Record, fitted_table
from onepass.heads.stats.bootstrap import bootstrap_interval
from onepass.heads.stats.metrics import metric
from onepass.heads.tasks.score import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Interval = tuple[float, float]


@dataclass(frozen=True)
class NumberLeakFree:
    """The score without images that training saw in another guise.

    Attributes:
        leaked: Images that are exact or near copies of training images.
        n: The others.
        mae: Their mean absolute error; None if there are none.
        interval: 95 %; None for fewer than two images.
    """

    leaked: int
    n: int
    mae: float | None
    interval: Interval | None

    def __str__(self) -> str:
        copies = "is a copy" if self.leaked == 1 else "are copies"
        rest = "none is left to score" if self.mae is None else f"{_with(self.mae, self.interval)}, n={self.n}"
        return f"{self.leaked} of these images {copies} of training images; without them {rest}"


@dataclass(frozen=True)
class NumberEvaluation(Score):
    """A head's score on images that have a number.

    Intervals are 95 % bootstrap intervals; None for fewer than two images.

    Attributes:
        measured_on: Which images: "test", "val", ...
        n: How many.
        name: What the number is.
        mae: Mean absolute error, in its unit.
        mae_interval: Of it.
        rmse: Root mean squared error, in its unit.
        rmse_interval: Of it.
        r2: Share of the variance that is explained, 1 at most; 0 for a head that always says the mean of these
            images. None where all have the same number.
        r2_interval: Of it.
        leak_free: The score without copies of training images; None if there are none, or nobody looked.
        pairs: True and predicted number of each image; None where they were not kept, as in a head file.
    """

    measured_on: str
    n: int
    name: str
    mae: float
    mae_interval: Interval | None
    rmse: float
    rmse_interval: Interval | None
    r2: float | None
    r2_interval: Interval | None
    leak_free: NumberLeakFree | None = None
    pairs: list[tuple[float, float]] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.headline()

    def headline(self) -> str:
        return f"mean absolute error {_with(self.mae, self.mae_interval)}, n={self.n}"

    @property
    def without_copies(self) -> str:
        return str(self.leak_free or "")

    def record(self) -> Record:
        """The same as plain values, for JSON, without the single images."""
        return {name: value for name, value in super().record().items() if name != "pairs"}

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Predicted against true numbers.

        Raises:
            OptionError: The score comes from a head file, which keeps no single images.
        """
        from onepass.heads.plots.charts import number_chart

        if self.pairs is None:
            raise OptionError("a head file keeps no single predictions to be drawn; evaluate the head again.")
        true, told = np.array(self.pairs).T
        return number_chart(true, told, self.name, self._title(), ax)

    def rows(self) -> list[list[str]]:
        lines: list[tuple[str, float | None, Interval | None]] = [
            ("mean absolute error", self.mae, self.mae_interval),
            ("root mean squared error", self.rmse, self.rmse_interval),
            ("R2", self.r2, self.r2_interval),
        ]
        told = [[name, _text(value), _between(ends)] for name, value, ends in lines]
        return [[self.name, "value", "95 % interval"], *told]

    def details(self) -> str:
        return "\n".join([*([self.without_copies] if self.leak_free else []), fitted_table(self.rows())])


def score_numbers(
    told: np.ndarray,
    y: np.ndarray,
    name: str,
    *,
    measured_on: str = "the rows given",
    copies: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> NumberEvaluation:
    """Scores what a head said of n images.

    Args:
        told: (n, 1) numbers.
        y: (n,) true ones.
        name: What the number is.
        measured_on: What to call these images.
        copies: (n,) bool, True for copies of training images, if that is known.
        weights: (n,) how much each image counts.

    Raises:
        TrainingError: n is 0.

    >>> print(score_numbers(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.5, 3.0]), "age").mae)
    0.5
    """
    if not len(y):
        raise TrainingError(f"no images to score in {measured_on}. Choose another part with {opt.split}.")
    wanted = np.asarray(y, np.float64)[:, None]
    weights = np.ones(len(y)) if weights is None else weights
    found = {one: _scored(one, told, wanted, weights) for one in ("mae", "rmse", "r2")}
    leaked = copies if copies is not None and copies.any() else None
    apart = None
    if leaked is not None:
        rest = ~leaked
        mae, ends = _scored("mae", told[rest], wanted[rest], weights[rest]) if rest.any() else (None, None)
        apart = NumberLeakFree(int(leaked.sum()), int(rest.sum()), mae, ends)
    mae, rmse = found["mae"][0], found["rmse"][0]
    assert mae is not None
    assert rmse is not None
    return NumberEvaluation(
        measured_on,
        len(y),
        name,
        mae,
        found["mae"][1],
        rmse,
        found["rmse"][1],
        *found["r2"],
        leak_free=apart,
        pairs=[(float(true), float(one)) for true, one in zip(wanted[:, 0], told[:, 0], strict=True)],
    )


def _scored(name: str, told: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float | None, Interval | None]:
    value = float(metric(name, told, y, weights=weights[None])[0])
    if not np.isfinite(value):
        return None, None
    return value, bootstrap_interval(name, told, y, sample_weights=weights) if len(y) > 1 else None


def _with(value: float, interval: Interval | None) -> str:
    return f"{_text(value)} ({_between(interval)})" if interval else _text(value)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _between(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
