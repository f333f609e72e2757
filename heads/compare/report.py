"""The result of a comparison of heads, as a table and as one sentence."""

import csv
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onepass.features.errors import OptionError, opt
from onepass.features.tables import html_table, text_table
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.metrics import HIGHER_IS_BETTER
from onepass.heads.stats.multiple_comparison import Comparison
from onepass.heads.stats.power_law import Forecast

_SHARES = ("accuracy", "balanced", "macro-f1", "auroc")


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
        log_loss: Mean over the rounds.
        calibration_error: Of all predictions together.
        leak_free: Score without copies of training images; None if there are none.
        fit_seconds: Median over the rounds, tuning included.
        predict_microseconds: Per image.
        head_bytes: Size of the head file, without what tells unknown images, which is the same for all heads.
    """

    name: str
    head: str
    features: str
    parameters: dict[str, object]
    score: float
    interval: tuple[float, float]
    log_loss: float
    calibration_error: float
    leak_free: float | None
    fit_seconds: float
    predict_microseconds: float
    head_bytes: int

    @property
    def cost(self) -> tuple[int, float]:
        """Size of the head file, in steps of 25 %, then seconds of the fit: what "cheapest" is decided by."""
        return round(math.log(self.head_bytes, 1.25)), self.fit_seconds


@dataclass(frozen=True)
class HeadsComparison:
    """Result of `compare_heads`.

    Attributes:
        measured_on: Which images, in words.
        metric: One of `METRICS`.
        scores: The best first.
        test: The paired tests.
        copies: Scored images that are copies of training images.
        leak_free: The paired tests without them; None if there are none.
        left_out: Images that not every feature file has.
        learning: Learning curve by candidate, if asked for.
        saved: The head file of the answer, if asked for.
    """

    measured_on: str
    metric: str
    scores: list[HeadScore]
    test: Comparison
    copies: int = 0
    leak_free: Comparison | None = None
    left_out: int = 0
    learning: dict[str, Forecast] = field(default_factory=dict)
    saved: Path | None = None

    @property
    def cheapest(self) -> HeadScore:
        """The member of the tie set that costs least."""
        return min((score for score in self.scores if score.name in self.test.ties), key=lambda score: score.cost)

    def answer(self) -> str:
        """The comparison in one sentence."""
        return self._answer(self.test)

    def _answer(self, test: Comparison) -> str:
        tied = [score for score in self.scores if score.name in test.ties]
        cheapest = min(tied, key=lambda score: score.cost)
        price = f"{cheapest.name} ({cheapest.fit_seconds:.1f} s, {_size(cheapest.head_bytes)})"
        names = [score.name for score in tied]
        parts = [f"{_listed(names)} tie; the cheapest is {price}" if len(names) > 1 else f"{price} is the best"]
        worse = [score.name for score in self.scores if score.name not in test.ties]
        parts += [f"{name} is worse by {self._amount(test.to_best[name])}" for name in worse]
        return "; ".join(parts)

    def _amount(self, gap: Difference) -> str:
        """A difference to the best as a positive number, in points for shares."""
        low, high = sorted(abs(end) for end in gap.interval)
        if self.metric in _SHARES:
            return f"{100 * abs(gap.difference):.1f} points ({100 * low:.1f} to {100 * high:.1f})"
        return f"{abs(gap.difference):.3f} ({low:.3f} to {high:.3f})"

    def rows(self) -> list[list[str]]:
        """The table as text, its heading first."""
        heading = ["head", self.metric, "95 % interval", "log loss", "calibration error", "fit s", "us/image", "size"]
        leaky = any(score.leak_free is not None for score in self.scores)
        lines = [heading[:3] + ["without copies"] * leaky + heading[3:]]
        for score in self.scores:
            low, high = score.interval
            without = [f"{score.leak_free:.3f}" if score.leak_free is not None else "-"] * leaky
            lines.append(
                [
                    score.name,
                    f"{score.score:.3f}",
                    f"{low:.3f} to {high:.3f}",
                    *without,
                    f"{score.log_loss:.3f}",
                    f"{score.calibration_error:.3f}",
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
        lines.append(text_table(self.rows()))
        for name, forecast in self.learning.items():
            curve = ", ".join(f"{s:.3f} with {m}" for m, s in zip(forecast.sizes, forecast.scores, strict=True))
            lines.append(f"{name}: {curve} training images; {forecast}")
        if self.saved:
            lines.append(f"{self.cheapest.name} is in {self.saved}")
        if self.leak_free:
            copies = "1 image is a copy" if self.copies == 1 else f"{self.copies} images are copies"
            lines.append(f"{copies} of training images; without: {self._answer(self.leak_free)}")
        return "\n".join([*lines, self.answer()])

    def _repr_html_(self) -> str:
        return html_table(self.rows(), title=f"{self.metric} on {self.measured_on}")

    def record(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {
            "measured_on": self.measured_on,
            "metric": self.metric,
            "higher_is_better": HIGHER_IS_BETTER[self.metric],
            "heads": [asdict(score) for score in self.scores],
            **_tests(self.test),
            "cheapest": self.cheapest.name,
            "answer": self.answer(),
            "copies": self.copies,
            "leak_free": _tests(self.leak_free) if self.leak_free else None,
            "left_out": self.left_out,
            "learning": {name: asdict(forecast) | {"words": str(forecast)} for name, forecast in self.learning.items()},
            "saved": str(self.saved) if self.saved else None,
        }

    def write_csv(self, path: Path) -> None:
        """Writes one line per head.

        Raises:
            OptionError: The place cannot be written.
        """
        try:
            with open(path, "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                fields = [name for name in asdict(self.scores[0]) if name not in ("interval", "parameters")]
                further = ["low", "high", "difference", "difference_low", "difference_high", "tied"]
                table.writerow([*fields, *further])
                for score in self.scores:
                    gap = self.test.to_best[score.name]
                    values = [getattr(score, name) for name in fields]
                    tied = score.name in self.test.ties
                    table.writerow([*values, *score.interval, gap.difference, *gap.interval, tied])
        except OSError as error:
            raise OptionError(
                f"cannot write {path}: {error.strerror}. Choose another place with {opt.csv}.", path=path
            ) from None


def _tests(test: Comparison) -> dict[str, object]:
    return {
        "best": test.best,
        "ties": list(test.ties),
        "to_best": {name: asdict(gap) for name, gap in test.to_best.items()},
        "adjusted_p": [{"heads": list(pair), "p": p} for pair, p in test.adjusted_p.items()],
    }


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
