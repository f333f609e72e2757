"""A fine-tuning: how it went, and what it changed class by class and image by image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.features import FeatureFile
from onepass.features.errors import TrainingError
from onepass.features.names import shown
from onepass.features.tables import Record, command_line
from onepass.heads.report.material import Material, places_of
from onepass.heads.report.mistakes import changes
from onepass.heads.report.page.charts import Axis, Line, Mark, hardest, rows_chart
from onepass.heads.report.page.epochs import Curves, epoch_charts
from onepass.heads.report.page.parts import Chart, Part, Section
from onepass.heads.report.words import between, percent, sentence
from onepass.heads.stats.intervals import wilson_interval


def answers_of(facts: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(m, 32) contents of the images reported, (m,) classes that the frozen and (m,) that the fine-tuned model names.

    None for a file of an earlier onepass, which keeps none.

    Raises:
        TrainingError: They do not go together.
    """
    found = facts.get("answers")
    if found is None:
        return None
    try:
        contents = np.frombuffer(bytes.fromhex(found["images"]), np.uint8).reshape(-1, 32)
        before, after = (np.array(found[name], np.int64).reshape(-1) for name in ("before", "after"))
        k = len(facts["class_names"])
        if not len(contents) == len(before) == len(after) or not ((before < k) & (after < k) & (before >= 0)).all():
            raise ValueError(f"{len(contents)} images, {len(before)} and {len(after)} answers")
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise TrainingError(
            f"the answers that the model keeps make no sense ({type(error).__name__}: {error})."
        ) from None
    return contents, before, after


@dataclass(frozen=True)
class Told:
    """A fine-tuning in words and charts: headline, paragraphs, charts of the answer, next step, and its section."""

    title: str
    words: list[str]
    parts: list[Part]
    step: tuple[str, str]
    section: Section


def told_of(path: Path, facts: Record, file: FeatureFile) -> Told:
    """What a fine-tuned model says of itself.

    Raises:
        TrainingError: It makes no sense.
    """
    answers = answers_of(facts)
    try:
        found = facts["report"]
        export = command_line("onepass", "export", path, "--to", "onnx")
        if found["better"] or found["kept"] != "fine-tuned":
            step = ("Take it into production.", export)
        else:
            step = (
                "Export the frozen head instead, which is as good, or fine-tune less: a lower rate, fewer layers.",
                "",
            )
        return Told(headline(found), paragraphs(found), [before_after(found)], step, tuning(found, file, answers))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise TrainingError(
            f"{path} does not say how its training went ({type(error).__name__}: {error}). Fine-tune again with this "
            "onepass.",
            path=path,
        ) from None


def headline(report: Record) -> str:
    """Whether it paid."""
    points = 100 * report["gain"]["difference"]
    gain = f"{points:+.1f} points".replace("-", "−") + f" on {report['n']:,} {shown(report['measured_on'])} images"
    return f"Fine-tuning paid: {gain}" if report["better"] else f"Fine-tuning did not measurably help: {gain}"


def paragraphs(report: Record) -> list[str]:
    gain = report["gain"]
    low, high = (100 * end for end in gain["interval"])
    scores = (
        f"Before, with the backbone frozen, {percent(report['before'][0])} of the images were named correctly "
        f"({between(report['before'][1])}); after, {percent(report['after'][0])} ({between(report['after'][1])}). The "
        f"gain on the same images has a 95 % interval of {low:+.1f} to {high:+.1f} points."
    )
    told = [
        scores,
        sentence(f"the decision: {shown(report['verdict'])}"),
        sentence(shown(report["caution"])) if report["caution"] else "",
        "It was kept all the same, as was asked." if report["kept"] == "fine-tuned" and not report["better"] else "",
    ]
    if rest := report["without_copies"]:
        low, high = (100 * end for end in rest["gain"]["interval"])
        told.append(
            f"{rest['leaked']} of these images are copies of training images; without them the gain is "
            f"{100 * rest['gain']['difference']:+.1f} points ({low:+.1f} to {high:+.1f}) on {rest['n']:,}."
        )
    return [words for words in told if words]


def before_after(report: Record) -> Part:
    lines = [
        Line(name, f"{percent(value)} ({between(ends)})", [Mark(value, series)], (ends[0], ends[1]), series == 1)
        for name, series, (value, ends) in (("before, frozen", 0, report["before"]), ("after", 1, report["after"]))
    ]
    values = [end for line in lines for end in line.span or ()]
    alt = "; ".join(f"{line.name}: {line.text}" for line in lines)
    rows = [["", "accuracy"], *([line.name, line.text] for line in lines)]
    return Chart(
        "Accuracy, with 95 % intervals", rows_chart(lines, Axis.around("", values, percent=True), alt=alt), rows
    )


def tuning(
    report: Record, file: FeatureFile | None, answers: tuple[np.ndarray, np.ndarray, np.ndarray] | None
) -> Section:
    """Its curves, its classes, and its images."""
    parts: list[Part] = [*_history(report["history"]), _classes(report["per_class"])]
    words = []
    if file is not None and answers is not None:
        contents, before, after = answers
        places = places_of(file, contents)
        there = places >= 0
        there[there] = file.table.labelled[places[there]]
        parts += changes(Material(file), before[there], after[there], places[there])
    else:
        words.append("Which images got better and worse is not known: the model, or its feature file, does not say so.")
    changed = report["per_class"].values()
    corrected, broken = sum(one["corrected"] for one in changed), sum(one["broken"] for one in changed)
    title = f"It corrected {corrected} of the frozen model's answers and broke {broken}"
    return Section("fine-tuning", title, words, parts)


def _history(history: list[Record]) -> list[Part]:
    if len(history) < 2:
        return []
    rows = [["epoch", "trained", "loss", "accuracy", "validation loss", "validation accuracy"]]
    rows += [
        [
            str(i),
            shown(str(one["unfreeze"])),
            *(f"{one[name]:.4g}" for name in ("loss", "accuracy", "val_loss", "val_accuracy")),
        ]
        for i, one in enumerate(history)
    ]
    curves = [
        Curves(
            title,
            name,
            {
                "training": [float(one[name]) for one in history],
                "validation": [float(one[f"val_{name}"]) for one in history],
            },
            percent=name == "accuracy",
        )
        for title, name in (("Accuracy over the epochs", "accuracy"), ("Loss over the epochs", "loss"))
    ]
    return [*epoch_charts(0, curves, rows)]


def _classes(per_class: dict[str, Record]) -> Part:
    lines = [
        Line(shown(name), f"{percent(one['before'], 0)} to {percent(one['after'], 0)}",
             [Mark(one["before"], 0), Mark(one["after"], 1)],
             (min(one["before"], one["after"]), max(one["before"], one["after"])))
        for name, one in per_class.items() if one["n"]
    ]  # fmt: skip
    lines = hardest(lines)
    rows = [["class", "images", "before", "after", "95 % interval after", "corrected", "broken"]]
    for name, one in per_class.items():
        low, high = wilson_interval(one["after"] * one["n"], one["n"]) if one["n"] else (0.0, 1.0)
        shares = [percent(one["before"]), percent(one["after"]), between((low, high))] if one["n"] else ["-", "-", "-"]
        rows.append([shown(name), str(one["n"]), *shares, str(one["corrected"]), str(one["broken"])])
    axis = Axis.around("", [mark.value for line in lines for mark in line.marks], percent=True)
    alt = "Share found of each class before and after: " + "; ".join(f"{line.name} {line.text}" for line in lines)
    svg = rows_chart(lines, axis, alt=alt, legend=("before", "after"))
    return Chart("Class by class", svg, rows, "Share of each class's images that are named correctly.")
