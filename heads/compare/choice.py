"""Which backbone to take: what was tried, as a table and one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onepass.features.names import shown
from onepass.features.progress import duration
from onepass.features.tables import Record, command_line, fitted_table, html_table
from onepass.heads.compare.report import HeadsComparison
from onepass.heads.stats.intervals import Difference

_WORDS = {2 / 3: "two thirds", 1 / 2: "half", 1 / 3: "a third", 1 / 4: "a quarter", 1 / 5: "a fifth"}
_NEAR = 0.08
"""How far from a fraction, in parts of it, a ratio may be that is called by its name."""


@dataclass(frozen=True)
class TriedBackbone:
    """A backbone that a sample was run through.

    Attributes:
        name: As it was given.
        weights: "imagenet", or the file.
        features: Feature file of the sample's rows.
        score: Of the tuned head on its rows.
        interval: 95 %.
        to_best: Score less that of the best, with an interval that holds together with all others.
        tied: Whether it cannot be told apart from the best.
        images_per_second: As measured here, once the engine runs.
        memory: Bytes that running it took beyond what the process had before.
        seconds: For all of the user's images, the start of the engine aside.
        licence: Of its weights, "" where nobody states it.
    """

    name: str
    weights: str
    features: Path
    score: float
    interval: tuple[float, float]
    to_best: Difference
    tied: bool
    images_per_second: float
    memory: int
    seconds: float
    licence: str


MARGIN = 0.01
"""How far a score may be behind the best for a backbone to be taken because it is cheaper: what few images cannot tell
apart may still be points behind, and that is paid for longer than a pass."""


def cheapest(tied: Sequence[tuple[str, float, float]]) -> str:
    """Which of several backbones that cannot be told apart to take.

    Args:
        tied: Name, score and seconds of each, the best score first.

    Returns:
        Of those within `MARGIN` of the best, and then of those within 25 % of the shortest time, which is no clear
        difference, the one with the best score.

    >>> cheapest([("resnet50", 0.871, 240), ("mobilenetv2", 0.868, 84), ("efficientnet_lite0", 0.866, 80)])
    'mobilenetv2'
    """
    near = [(name, seconds) for name, score, seconds in tied if abs(score - tied[0][1]) <= MARGIN + 1e-9]
    shortest = min(seconds for _, seconds in near)
    return next(name for name, seconds in near if seconds <= 1.25 * shortest)


@dataclass(frozen=True)
class BackboneChoice:
    """Result of `choose_backbone`.

    Attributes:
        tried: What was tried, the best score first.
        comparison: Of the tuned heads, one for each backbone.
        head: Kind of the head.
        images: How many the folders hold, each content once.
        failed: Name of each backbone that could not be used -> the reason.
        data: The image folders.
        options: What `extract` needs beside the backbone to take the rows over.
    """

    tried: list[TriedBackbone]
    comparison: HeadsComparison
    head: str
    images: int
    failed: dict[str, str] = field(default_factory=dict)
    data: Sequence[Path] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def taken(self) -> TriedBackbone:
        """The cheapest of those near the best that cannot be told apart from it; of equally cheap ones the best."""
        chosen = cheapest([(one.name, one.score, one.seconds) for one in self.tried if one.tied])
        return next(one for one in self.tried if one.name == chosen)

    def answer(self) -> str:
        """Which to take, how sure that is, and what another one would cost, in one sentence."""
        best, taken = self.tried[0], self.taken
        ties = [one for one in self.tried if one.tied and one is not taken]
        if not ties:
            second = self.tried[1]
            others = " and all others" if len(self.tried) > 2 else ""
            ahead = self.comparison.amount(second.to_best)
            return (
                f"Take {taken.name}: on {self._sample()} it is better than {second.name}{others}, by {ahead}; it takes "
                f"{duration(taken.seconds)} for {self._all()}, {second.name} {duration(second.seconds)}."
            )
        if taken is not best:
            power = self._power([taken])
            return (
                f"Take {taken.name}: at {_share(taken.seconds / best.seconds)} of the cost it is within the noise of "
                f"the best ({best.name}, {self._ahead(taken)}) on {self._sample()}{power}; {best.name} would take "
                f"{duration(best.seconds)} instead of {duration(taken.seconds)} for {self._all()}."
            )
        step, power = min(ties, key=lambda one: one.seconds), self._power(ties)
        behind = self.comparison.number(abs(step.to_best.difference))
        near = f"{self.comparison.number(MARGIN)}{self.comparison.unit}"
        return (
            f"Take {taken.name}: it has the best score on {self._sample()}, and none within {near} of it is clearly "
            f"cheaper; {', '.join(one.name for one in ties)} cannot be told apart from it{power}; "
            f"{step.name}, {behind}{self.comparison.unit} behind, would take {duration(step.seconds)} instead of "
            f"{duration(taken.seconds)} for {self._all()}."
        )

    def _sample(self) -> str:
        return f"{self.comparison.images:,} images"

    def _all(self) -> str:
        return f"your {self.images:,} images"

    def _ahead(self, taken: TriedBackbone) -> str:
        gap, number = -taken.to_best, self.comparison.number
        low, high = gap.interval
        value = number(gap.difference)
        return f"{'' if value[0] == '-' else '+'}{value}{self.comparison.unit}, {number(low)} to {number(high)}"

    def _power(self, some: Sequence[TriedBackbone]) -> str:
        """Which difference to the best would have been seen, as the end of a sentence."""
        known = {score.features: self.comparison.test.detectable.get(score.name) for score in self.comparison.scores}
        found = (known.get(str(one.features)) for one in some)
        return self.comparison.seen([gap for gap in found if gap is not None], over="backbone")

    def rows(self) -> list[list[str]]:
        """The table as text, its heading first."""
        unit = f"{self.comparison.metric} (95 %)"
        lines = [["backbone", unit, "images/s", "memory", f"all {self.images:,}", "licence"]]
        for one in self.tried:
            low, high = one.interval
            lines.append(
                [
                    one.name,
                    f"{one.score:.3f} ({low:.3f} to {high:.3f})",
                    f"{one.images_per_second:.0f}" if one.images_per_second >= 10 else f"{one.images_per_second:.1f}",
                    f"{one.memory / 1e6:,.0f} MB",
                    duration(one.seconds),
                    one.licence or "not stated",
                ]
            )
        return lines

    def __str__(self) -> str:
        lines = [f"{self.comparison.metric} of {self.head} on {self.comparison.measured_on}", fitted_table(self.rows())]
        worse = [one for one in self.tried if not one.tied]
        lines += [f"{one.name} is worse than the best by {self.comparison.amount(one.to_best)}" for one in worse]
        lines += [f"{shown(name)} could not be tried: {reason}" for name, reason in self.failed.items()]
        return "\n".join([*lines, self.answer()])

    def _repr_html_(self) -> str:
        return html_table(self.rows(), title=self.answer())

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed: extract all images with the one to take, from the rows that are there."""
        taken, words = self.taken, list[object](self.data)
        weights = [] if taken.weights == "imagenet" else ["--weights", Path(taken.weights)]
        for name, value in self.options.items():
            words += [f"--{name}", value]
        return command_line("extract", *words, "--backbone", taken.name, *weights, "--base", taken.features)

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        tried = [{**asdict(one), "features": str(one.features)} for one in self.tried]
        return {
            "take": self.taken.name,
            "answer": self.answer(),
            "next": self.next_command,
            "images": self.images,
            "sample": self.comparison.images,
            "head": self.head,
            "backbones": tried,
            "failed": self.failed,
            "comparison": self.comparison.record(),
        }


def _share(ratio: float) -> str:
    """A ratio below 1 in words.

    >>> _share(0.32), _share(0.81)
    ('a third', '81 %')
    """
    near = min(_WORDS, key=lambda share: abs(ratio / share - 1))
    return _WORDS[near] if abs(ratio / near - 1) <= _NEAR else f"{100 * ratio:.0f} %"
