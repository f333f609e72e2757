"""The result of a comparison of heads, as a table and as one sentence."""

import csv
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onepass.features.atomic import replacing
from onepass.features.errors import OptionError, OutputError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.tables import command_line, fitted_table, html_table
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.metrics import HIGHER_IS_BETTER, SHARES
from onepass.heads.stats.multiple_comparison import Comparison
from onepass.heads.stats.power_law import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUMBERS = ("mae", "rmse")
"""Metrics in the unit of what is measured, whatever its size."""


@dataclass(frozen=True)
class HeadScore:
    """One line of the table.

    Attributes:
        name: Of the candidate.
        head: Kind.
        features: Its feature file.
        parameters: With what tuning found, in the last round.
        score: By the metric of the comparison.
        interval: 95 %.
        log_loss: Of classes: mean over the rounds.
        calibration_error: Of classes: of all predictions together.
        leak_free: Score without copies of training images; None if there are none.
        fit_seconds: Median over the rounds, tuning included.
        predict_microseconds: Per image.
        head_bytes: Size of the head file, without what tells unknown images, which is the same for all heads.
        further: Of other tasks than classes: their other metrics by name, None where one has no value.
    """

    name: str
    head: str
    features: str
    parameters: dict[str, object]
    score: float
    interval: tuple[float, float]
    log_loss: float | None
    calibration_error: float | None
    leak_free: float | None
    fit_seconds: float
    predict_microseconds: float
    head_bytes: int
    further: dict[str, float | None] = field(default_factory=dict)

    @property
    def cost(self) -> tuple[int, float]:
        """Size of the head file, in steps of 25 %, then seconds of the fit: what "cheapest" is decided by."""
        return round(math.log(self.head_bytes, 1.25)), self.fit_seconds


@dataclass(frozen=True)
class HeadsComparison:
    """Result of `compare_heads`.

    Attributes:
        measured_on: Which images, in words.
        images: How many images, each counted once.
        metric: One of `METRICS`.
        scores: The best first.
        test: The paired tests.
        copies: Scored images that are copies of training images.
        leak_free: The paired tests without them; None if there are none.
        left_out: Images that not every feature file has.
        learning: Learning curve by candidate, if asked for.
        saved: The head file of the answer, if asked for.
        failed: Name of each candidate that could not be trained -> the reason.
    """

    measured_on: str
    images: int
    metric: str
    scores: list[HeadScore]
    test: Comparison
    copies: int = 0
    leak_free: Comparison | None = None
    left_out: int = 0
    learning: dict[str, Forecast] = field(default_factory=dict)
    saved: Path | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def cheapest(self) -> HeadScore:
        """The member of the tie set that costs least."""
        return min((score for score in self.scores if score.name in self.test.ties), key=lambda score: score.cost)

    def answer(self) -> str:
        """The comparison in one sentence.

        Its intervals are those of the table: all of them hold together with 95 % probability, and one leaves out 0
        exactly where the sentence calls a head worse.
        """
        return self._answer(self.test, self.images)

    @property
    def unit(self) -> str:
        """What stands behind a difference: points for shares, nothing for a loss."""
        return " points" if self.metric in SHARES else ""

    def _answer(self, test: Comparison, images: int) -> str:
        tied = [score for score in self.scores if score.name in test.ties]
        cheapest = min(tied, key=lambda score: score.cost)
        price = f"{cheapest.name} ({cheapest.fit_seconds:.1f} s, {_size(cheapest.head_bytes)})"
        names = [score.name for score in tied]
        if len(names) > 1:
            seen = self.seen([test.detectable[name] for name in names if name in test.detectable])
            parts = [f"{_listed(names)} cannot be told apart with {images} images{seen}", f"the cheapest is {price}"]
        else:
            parts = [f"{price} is the best"]
        worse = [score.name for score in self.scores if score.name not in test.ties]
        parts += [f"{name} is worse by {self.amount(test.to_best[name])}" for name in worse]
        return "; ".join(parts)

    def seen(self, detectable: list[float], *, over: str = "head") -> str:
        """The difference that the test would have found, as the end of a sentence; one number or a range of them."""
        known = [gap for gap in detectable if gap > 0]
        if not known:
            return ""
        if math.isinf(max(known)) or (self.metric in SHARES and max(known) > 1):
            return ", too few to see any difference in four of five cases"
        low, high = self.number(min(known)), self.number(max(known))
        unit = self.unit
        amount = f"{high}{unit}" if low == high else f"{low} to {high}{unit}, depending on the {over},"
        return f"; a difference of {amount} would have been seen in four of five cases"

    def amount(self, gap: Difference) -> str:
        """A difference to the best as a positive number, in points for shares."""
        low, high = sorted(abs(end) for end in gap.interval)
        unit = " points" if self.metric in SHARES else ""
        return f"{self.number(abs(gap.difference))}{unit} ({self.number(low)} to {self.number(high)})"

    def number(self, value: float) -> str:
        """In points for shares; what is not 0 does not read as 0."""
        shown = f"{100 * value:.1f}" if self.metric in SHARES else self._plain(value)
        if float(shown) == 0:
            return f"{100 * value if self.metric in SHARES else value:.1g}" if abs(value) > 1e-9 else shown.lstrip("-")
        return shown

    def _plain(self, value: float) -> str:
        return f"{value:.4g}" if self.metric in _NUMBERS else f"{value:.3f}"

    def _to_best(self, name: str) -> str:
        if name == self.test.best:
            return "best"
        gap = self.test.to_best[name]
        low, high = (self.number(end) for end in gap.interval)
        return f"{self.number(gap.difference)} ({low} to {high})"

    def rows(self) -> list[list[str]]:
        """The table as text, its heading first: what decides, then probabilities and costs."""
        return [quality + costs for quality, costs in zip(self._qualities(), self._costs(), strict=True)]

    def _qualities(self) -> list[list[str]]:
        unit = "points to best" if self.metric in SHARES else "to best"
        lines = [["head", self.metric, "95 % interval", f"{unit} (joint 95 %)"]]
        for score in self.scores:
            low, high = score.interval
            ends = f"{self._plain(low)} to {self._plain(high)}"
            lines.append([score.name, self._plain(score.score), ends, self._to_best(score.name)])
        return lines

    def _costs(self) -> list[list[str]]:
        leaky = any(score.leak_free is not None for score in self.scores)
        of_classes = self.scores[0].log_loss is not None
        others = ["log loss", "calib. error"] if of_classes else list(self.scores[0].further)
        lines = [["without copies"] * leaky + [*others, "fit s", "us/image", "size"]]
        for score in self.scores:
            without = [self._plain(score.leak_free) if score.leak_free is not None else "-"] * leaky
            measured = [score.log_loss, score.calibration_error] if of_classes else list(score.further.values())
            digits = ".4g" if self.metric in (*_NUMBERS, "r2") else ".3f"
            lines.append(
                [
                    *without,
                    *("-" if value is None else f"{value:{digits}}" for value in measured),
                    f"{score.fit_seconds:.1f}",
                    f"{score.predict_microseconds:.0f}",
                    _size(score.head_bytes),
                ]
            )
        return lines

    def __str__(self) -> str:
        lines = [f"{self.metric} on {self.measured_on}"]
        if self.left_out:
            lines.append(f"{self.left_out} images that not every feature file has are left out")
        names = [["head"], *([score.name] for score in self.scores)]
        costs = [name + rest for name, rest in zip(names, self._costs(), strict=True)]
        # Side by side they would not fit into 80 columns.
        lines += [fitted_table(self._qualities()), "", fitted_table(costs), ""]
        lines += [f"{name} could not be trained: {reason}" for name, reason in self.failed.items()]
        for name, forecast in self.learning.items():
            pairs = zip(forecast.sizes, forecast.scores, strict=True)
            curve = ", ".join(f"{forecast.shown(score)} with {size}" for size, score in pairs)
            what = "" if forecast.score == "accuracy" else f"{forecast.score} "
            lines.append(f"{name}: {what}{curve} training images; {forecast}")
        if self.saved:
            lines.append(f"{self.cheapest.name} is in {shown(self.saved)}")
        if self.leak_free:
            copies = "1 image is a copy" if self.copies == 1 else f"{self.copies} images are copies"
            lines.append(
                f"{copies} of training images; without: {self._answer(self.leak_free, self.images - self.copies)}"
            )
        return "\n".join([*lines, self.answer()])

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed: predict with the head that was saved, or train the cheapest of the best."""
        if self.saved:
            return command_line("onepass", "predict", self.saved, "IMAGES")
        best = self.cheapest
        layers = best.parameters.get("hidden")
        hidden = ["--hidden", ",".join(map(str, layers)) or "0"] if isinstance(layers, list | tuple) else []
        return command_line("train-head", Path(best.features), "--head", best.head, *hidden)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The score of each head with its 95 % interval, the best on top; those that tie for the best are dark.

        With learning curves these are beside it, where no axes are given; `plot_learning` draws them alone.
        """
        from onepass.heads.plots.charts import interval_chart
        from onepass.heads.plots.files import pair_of_axes

        left = ax
        if ax is None and self.learning:
            left, right = pair_of_axes()
            self.plot_learning(right)
        scores = {score.name: (score.score, score.interval) for score in self.scores}
        title = f"{self.measured_on}, n={self.images}; dark: tied for the best"
        return interval_chart(scores, self.test.ties, self.metric, title, left)

    def plot_learning(self, ax: "Axes | None" = None) -> "Axes":
        """Accuracy by number of training images, with what twice as many would give.

        Raises:
            OptionError: No learning curves were asked for.
        """
        from onepass.heads.plots.charts import learning_chart

        if not self.learning:
            raise OptionError(f"this comparison has no learning curves; compare with {opt.learning_curve(True)}.")
        return learning_chart(self.learning, f"{self.measured_on}; dashed: twice the images", ax)

    def _repr_html_(self) -> str:
        return html_table(self.rows(), title=f"{self.metric} on {self.measured_on}")

    def record(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {
            "measured_on": self.measured_on,
            "images": self.images,
            "metric": self.metric,
            "higher_is_better": HIGHER_IS_BETTER[self.metric],
            "heads": [_flat(score) for score in self.scores],
            **_tests(self.test),
            "cheapest": self.cheapest.name,
            "answer": self.answer(),
            "copies": self.copies,
            "leak_free": _tests(self.leak_free) if self.leak_free else None,
            "left_out": self.left_out,
            "learning": {name: asdict(forecast) | {"words": str(forecast)} for name, forecast in self.learning.items()},
            "saved": str(self.saved) if self.saved else None,
            "failed": self.failed,
        }

    def write_csv(self, path: Path) -> None:
        """Writes one line per head.

        Raises:
            OutputError: The place cannot be written.
        """
        try:
            with replacing(Path(path)) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                fields = [name for name in _flat(self.scores[0]) if name not in ("interval", "parameters")]
                further = ["low", "high", "difference", "difference_low", "difference_high", "tied", "detectable"]
                table.writerow([*fields, *further])
                for score in self.scores:
                    gap = self.test.to_best[score.name]
                    values = [_flat(score)[name] for name in fields]
                    tied = score.name in self.test.ties
                    detectable = self.test.detectable.get(score.name)
                    table.writerow([*values, *score.interval, gap.difference, *gap.interval, tied, detectable])
        except OSError as error:
            raise OutputError(cannot_write(path, error, opt.csv), path=path) from None


def _flat(score: HeadScore) -> dict[str, object]:
    """A line as plain values: those of classes, or the other metrics of its task, in front of the rest."""
    values = asdict(score)
    further, log_loss, calibration_error = (values.pop(name) for name in ("further", "log_loss", "calibration_error"))
    own = {"log_loss": log_loss, "calibration_error": calibration_error} if log_loss is not None else further
    rest = {name: values.pop(name) for name in ("leak_free", "fit_seconds", "predict_microseconds", "head_bytes")}
    return {**values, **own, **rest}


def _tests(test: Comparison) -> dict[str, object]:
    return {
        "best": test.best,
        "ties": list(test.ties),
        "to_best": {name: asdict(gap) for name, gap in test.to_best.items()},
        "detectable": {name: gap if math.isfinite(gap) else None for name, gap in test.detectable.items()},
        "adjusted_p": [{"heads": list(pair), "p": p} for pair, p in test.adjusted_p.items()],
    }


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
