"""A comparison of heads or backbones: all of them on one axis, what they cost, and what more images would bring."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onepass.features.errors import FileKindError
from onepass.features.names import shown
from onepass.features.tables import Record, command_line
from onepass.heads.report.page.charts import Axis, Line, Mark, Series, named_points, plot, rows_chart
from onepass.heads.report.page.parts import Chart, Part, Section, Story, Table
from onepass.heads.report.words import between, count_of, listed, percent, sentence
from onepass.heads.stats.metrics import HIGHER_IS_BETTER, SHARES

_LARGEST = 16 * 2**20
"""Bytes of a file of results; one of a dozen heads has 10 kB."""


def story_of_comparison(path: Path) -> Story:
    """The report on what `compare-heads --json` or `onepass choose --json` printed.

    Raises:
        FileKindError: The file is damaged, or another program's.
    """
    found = _read(path)
    try:
        if "backbones" in found:
            return _of_backbones(path, found)
        return _of_heads(path, found)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileKindError(
            f"{path} is no whole result of compare-heads or choose ({type(error).__name__}: {error}). Print it again "
            "with --json.",
            path=path,
        ) from None


def _read(path: Path) -> Record:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise FileKindError(f"{path} cannot be read as JSON: {error}. Print it again with --json.", path=path) from None
    if not isinstance(found, dict):
        raise FileKindError(f"{path} is no result of compare-heads or choose. Print one with --json.", path=path)
    return found


def _of_heads(path: Path, found: Record) -> Story:
    metric, scores = str(found["metric"]), list(found["heads"])
    if metric not in HIGHER_IS_BETTER or not scores:
        raise ValueError(f"the metric {metric[:20]!r} of {len(scores)} heads")
    best = {one["name"]: one for one in scores}[found["cheapest"]]
    ties = [str(name) for name in found["ties"]]
    lead = _lead(str(found["answer"]), {str(one["name"]) for one in scores})
    names = {one["features"] for one in scores}
    following = command_line("train-head", Path(str(best["features"])), "--head", best["head"])
    steps = [(f"Train {shown(best['name'])} and save it.", following)]
    if not found["learning"]:
        steps.append(
            (
                "See whether more images would help.",
                command_line("compare-heads", *map(Path, sorted(names)), "--learning-curve"),
            )
        )
    return Story(
        kicker=f"{shown(path.name)} · {metric} on {shown(str(found['measured_on']))}",
        title=_title(str(found["cheapest"]), ties, len(scores)),
        words=lead,
        parts=[_scores(scores, ties, metric)],
        steps=steps,
        sections=[*_costs(scores, metric), *_curves(found["learning"]), *_details(found, scores, metric)],
    )


def _lead(answer: str, names: set[str]) -> list[str]:
    """The parts of the answer as sentences; one that begins with a name keeps it as it is."""
    parts = [shown(part) for part in answer.split("; ")]
    return [f"{part.rstrip('.')}." if re.split("[ ,]", part)[0] in names else sentence(part) for part in parts]


def _title(cheapest: str, ties: list[str], heads: int) -> str:
    if len(ties) == 1:
        return f"{shown(ties[0])} is the best of {heads}" if heads > 1 else f"{shown(ties[0])} alone was tried"
    return f"Take {shown(cheapest)}: it costs least of {len(ties)} that cannot be told apart"


def _text(metric: str) -> Callable[[float], str]:
    return percent if metric in SHARES else lambda value: f"{value:.4g}"


def _ends(metric: str, interval: Any) -> str:
    return between(interval) if metric in SHARES else f"{interval[0]:.4g} to {interval[1]:.4g}"


def _scores(scores: list[Record], ties: list[str], metric: str) -> Chart:
    """All candidates on one axis; circles tie for the best, squares are worse, triangles are without copies."""
    lines, told = [], _text(metric)
    for one in scores:
        tied = one["name"] in ties
        marks = [Mark(float(one["score"]), 0 if tied else 1)]
        if one.get("leak_free") is not None:
            marks.append(Mark(float(one["leak_free"]), 2))
        low, high = one["interval"]
        lines.append(
            Line(
                shown(one["name"]), f"{told(one['score'])} ({_ends(metric, one['interval'])})", marks, (low, high), tied
            )
        )
    values = [value for line in lines for value in (*(line.span or ()), *(mark.value for mark in line.marks))]
    legend = ["ties for the best", "worse"] + ["without copies"] * any(len(line.marks) > 1 for line in lines)
    axis = Axis.around(metric, values, percent=metric in SHARES)
    rows = [["", metric, "without copies"], *(
        [line.name, line.text, told(line.marks[1].value) if len(line.marks) > 1 else "-"] for line in lines
    )]  # fmt: skip
    alt = f"{metric} with 95 % intervals: " + "; ".join(f"{line.name} {line.text}" for line in lines)
    note = "95 % intervals of each alone. Which tie is told by paired tests on the same images, which see more."
    return Chart("All of them on one axis", rows_chart(lines, axis, alt=alt, legend=legend), rows, note)


def _costs(scores: list[Record], metric: str) -> Iterator[Section]:
    names = [shown(one["name"]) for one in scores]
    values = [float(one["score"]) for one in scores]
    y, parts = Axis.around(metric, values, percent=metric in SHARES), list[Part]()
    for title, key, label, factor in (
        ("What training costs", "fit_seconds", "seconds to tune and train", 1.0),
        ("What prediction costs", "predict_microseconds", "microseconds per image, rows at hand", 1.0),
        ("How large the head file is", "head_bytes", "kB", 1e-3),
    ):
        costs = [factor * float(one[key]) for one in scores]
        x = Axis.around(label, costs, log=True)
        rows = [
            ["head", label, metric],
            *([n, f"{c:,.3g}", _text(metric)(v)] for n, c, v in zip(names, costs, values, strict=True)),
        ]
        alt = f"{metric} over {label}: " + "; ".join(f"{n} {c:.3g}" for n, c in zip(names, costs, strict=True))
        parts.append(Chart(title, named_points(names, costs, values, x, y, alt=alt), rows))
    yield Section("costs", "What each costs", (), parts)


def _curves(learning: Mapping[str, Record]) -> Iterator[Section]:
    """Learning curves, each with both intervals of twice as many images."""
    parts: list[Part] = []
    for name, curve in learning.items():
        sizes, scores = [float(n) for n in curve["sizes"]], [float(s) for s in curve["scores"]]
        low, high = zip(*curve["intervals"], strict=True)
        double, gain = 2 * sizes[-1], float(curve["gain"])
        ends = [scores[-1] + float(end) for end in curve["gain_interval"]]
        series = [
            Series("measured", sizes, scores, low, high),
            Series("twice the images, on average", [double], [scores[-1] + gain], [ends[0]], [ends[1]], joined=False),
        ]
        rows = [["training images", "accuracy", "95 % interval"]]
        rows += [
            [f"{n:,.0f}", percent(s), f"{percent(a)} to {percent(b)}"]
            for n, s, a, b in zip(sizes, scores, low, high, strict=True)
        ]
        rows.append(
            [f"{double:,.0f}, on average", percent(scores[-1] + gain), f"{percent(ends[0])} to {percent(ends[1])}"]
        )
        if curve.get("doubled") is not None:
            a, b = curve["doubled_interval"]
            series.append(
                Series("twice, with one new set", [1.2 * double], [float(curve["doubled"])], [a], [b], joined=False)
            )
            rows.append([f"{double:,.0f}, one new set", percent(curve["doubled"]), f"{percent(a)} to {percent(b)}"])
        every = [value for one in series for values in (one.y, one.low or [], one.high or []) for value in values]
        x, y = (
            Axis.around("training images", [*sizes, 1.2 * double], log=True),
            Axis.around("accuracy", every, percent=True),
        )
        alt = "; ".join(" ".join(row) for row in rows[1:])
        parts.append(
            Chart(shown(name), plot(series, x, y, alt=alt), rows, sentence(shown(str(curve.get("words", "")))))
        )
    if parts:
        yield Section("more-images", "What more images would bring", (), parts)


def _details(found: Record, scores: list[Record], metric: str) -> Iterator[Section]:
    rows = [["head", metric, "to the best (joint 95 %)", "would have been seen", "parameters"]]
    factor, unit = (100.0, " points") if metric in SHARES else (1.0, "")
    for one in scores:
        gap, seen = found["to_best"][one["name"]], found["detectable"].get(one["name"])
        low, high = gap["interval"]
        words = (
            "best"
            if one["name"] == found["best"]
            else f"{factor * gap['difference']:.3g} ({factor * low:.3g} to {factor * high:.3g}){unit}"
        )
        power = "-" if seen is None or not math.isfinite(seen) or seen <= 0 else f"{factor * seen:.3g}{unit}"
        settings = ", ".join(f"{key} {value}" for key, value in sorted(one["parameters"].items()) if value is not None)
        rows.append([shown(one["name"]), _text(metric)(one["score"]), words, power, shown(settings)])
    words = "A difference that would have been seen is one that the test finds in four of five cases."
    parts: list[Part] = [Table("Every head against the best", rows, words)]
    if found["failed"]:
        parts.append(
            Table(
                "What could not be trained",
                [["head", "why"], *([shown(n), shown(str(why))] for n, why in found["failed"].items())],
            )
        )
    copies = int(found["copies"])
    of_copies = "No scored image is a copy of a training image." if not copies else (
        f"{count_of(copies, 'scored image is a copy', 'scored images are copies')} of training images; without them: "
        f"{_leak_free(found)}"
    )  # fmt: skip
    yield Section("tests", "How they were told apart", (of_copies,), parts)


def _leak_free(found: Record) -> str:
    rest = found["leak_free"]
    if not rest:
        return "too few are left to compare on."
    ties = [str(name) for name in rest["ties"]]
    return f"{listed(ties)} {'tie' if len(ties) > 1 else 'is the best'}."


def _of_backbones(path: Path, found: Record) -> Story:
    metric, tried = str(found["comparison"]["metric"]), list(found["backbones"])
    ties = [one["name"] for one in tried if one["tied"]]
    names, values = [shown(one["name"]) for one in tried], [float(one["score"]) for one in tried]
    seconds = [float(one["seconds"]) for one in tried]
    x = Axis.around(f"seconds for all {int(found['images']):,} images", seconds, log=True)
    y = Axis.around(metric, values, percent=metric in SHARES)
    rows = [["backbone", metric, "95 % interval", "images/s", "memory", "seconds for all", "licence"]]
    rows += [
        [shown(one["name"]), _text(metric)(one["score"]), _ends(metric, one["interval"]),
         f"{one['images_per_second']:.3g}", f"{one['memory'] / 1e6:,.0f} MB", f"{one['seconds']:,.0f}",
         shown(one["licence"] or "not stated")]
        for one in tried
    ]  # fmt: skip
    alt = "; ".join(
        f"{name}: {value:.3f} in {cost:.0f} s" for name, value, cost in zip(names, values, seconds, strict=True)
    )
    cost = Chart("What each costs", named_points(names, seconds, values, x, y, alt=alt), rows)
    return Story(
        kicker=f"{shown(path.name)} · {shown(str(found['head']))} on {int(found['sample']):,} images",
        title=f"Take {shown(str(found['take']))}",
        words=_lead(str(found["answer"]), {str(one["name"]) for one in tried}),
        parts=[_scores(tried, ties, metric)],
        steps=[("Extract all images with it.", shown(str(found["next"])))],
        sections=[Section("costs", "Quality against cost", (), [cost, Table("All figures", rows)])],
    )
