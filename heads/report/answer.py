"""The answer first: how good a classifier is, how sure that is, and what to do next."""

import math

import numpy as np

from onepass.features import SPLITS
from onepass.features.names import shown
from onepass.features.tables import command_line
from onepass.heads.evaluation import FEW, Evaluation
from onepass.heads.report.material import Judged, Material
from onepass.heads.report.page.charts import Axis, Line, Mark, rows_chart
from onepass.heads.report.page.parts import Chart, Part
from onepass.heads.report.words import between, count_of, listed, percent
from onepass.heads.stats.detectable import detectable_accuracy
from onepass.heads.tasks.label_evaluation import SCORED, LabelsEvaluation
from onepass.heads.tasks.number_evaluation import NumberEvaluation
from onepass.heads.tasks.score import Score

Steps = list[tuple[str, str]]


def _called(part: str) -> str:
    """What images were scored on, as a sentence calls them."""
    return "validation" if part == "val" else part


def headline(score: Score) -> str:
    """The score as one sentence."""
    if isinstance(score, Evaluation):
        quoted = (
            score.leak_free if score.leak_free and score.leak_free.n else score
        )  # copies tell nothing of new images
        return f"{percent(quoted.accuracy)} of {quoted.n:,} {_called(score.measured_on)} images are named correctly"
    if isinstance(score, NumberEvaluation):
        return f"On average {shown(score.name)} is off by {score.mae:.3g}"
    assert isinstance(score, LabelsEvaluation)
    value = score.scores["subset"]
    return f"Of {percent(value or 0.0)} of {score.n:,} {_called(score.measured_on)} images all labels are right"


def paragraphs(score: Score, judged: Judged | None) -> list[str]:
    """What the score means: its interval, copies, what guessing gives, and what could be told apart."""
    if isinstance(score, Evaluation):
        right = round(score.accuracy * score.n)
        quoted = score.leak_free and score.leak_free.n
        certain = (
            f"{'Copies of training images included, ' if quoted else ''}{right:,} of {score.n:,} images that training "
            f"did not see are right. For all images of this kind that means {between(score.interval)} (95 % interval)."
        )
        paragraphs = [certain, _about_copies(score, judged)]
        if judged is not None and score.per_class:
            paragraphs.append(_guessing(score))
        return [words for words in (*paragraphs, _power(score)) if words]
    copies = score.without_copies or _about_copies(score, judged)
    if isinstance(score, NumberEvaluation):
        share = "" if score.r2 is None else f" {percent(score.r2)} of the variance is explained (R2)."
        low, high = score.mae_interval or (math.nan, math.nan)
        told = (
            f"The mean absolute error on {score.n:,} {score.measured_on} images is {score.mae:.4g}, with a 95 % "
            f"interval of {low:.4g} to {high:.4g}; the root of the mean squared error is {score.rmse:.4g}.{share}"
        )
        return [told, copies]
    assert isinstance(score, LabelsEvaluation)
    value, ends = score.scores["map"], score.intervals["map"]
    told_map = "" if value is None else f"The mean average precision over all labels is {value:.3f}"
    return [f"{told_map}{f' (95 % interval {ends[0]:.3f} to {ends[1]:.3f})' if ends else ''}.", copies]


def _about_copies(score: Score, judged: Judged | None) -> str:
    rest = getattr(score, "leak_free", None)
    if isinstance(score, Evaluation) and rest:
        are = "One of them is a copy" if rest.leaked == 1 else f"{rest.leaked} of them are copies"
        if not rest.n:
            return f"{are} of training images, and no other is left: the score says nothing about new images."
        gap = rest.accuracy - score.accuracy
        change = (
            "which changes nothing"
            if abs(gap) < 5e-4
            else f"{100 * abs(gap):.1f} points {'less' if gap < 0 else 'more'}"
        )
        return (
            f"{are} of training images, exact or nearly so. Without them it is {percent(rest.accuracy)} of {rest.n:,} "
            f"({between(rest.interval)}), {change}: the number to quote."
        )
    if judged is None:
        return ""
    return "No copy of a training image was found among them; the number needs no correction."


def _guessing(score: Evaluation) -> str:
    name, largest = max(score.per_class.items(), key=lambda one: one[1].n)
    alone = sum(one.n == largest.n for one in score.per_class.values()) == 1
    most = ", the most frequent class among them" if alone else ", a class as frequent as any among them"
    return f"Always answering {shown(name)}{most}, would be right for {percent(largest.n / score.n)} of them."


def _power(score: Evaluation) -> str:
    """Which difference to another classifier these images could show."""
    wrong = max(round((1 - score.accuracy) * score.n), 1)
    gap = detectable_accuracy(wrong, score.n, alpha=0.05)
    if not math.isfinite(gap):
        return f"{score.n} images are too few to tell this classifier from a better one in four of five cases."
    return (
        f"To tell another classifier from this one, {score.n:,} images need a lead of about {100 * gap:.1f} points: so "
        "much is seen in four of five cases. Smaller leads are ties."
    )


def scores_chart(score: Score) -> list[Part]:
    """The score and what it is to be read against, as intervals on one axis."""
    if isinstance(score, Evaluation):
        lines = [_line(f"all {score.n:,} {score.measured_on} images", score.accuracy, score.interval, strong=True)]
        if (rest := score.leak_free) and rest.n:
            lines.append(_line(f"the {rest.n:,} that are no copies", rest.accuracy, rest.interval, series=1))
        if score.per_class:
            largest = max(one.n for one in score.per_class.values()) / score.n
            lines.append(Line("always the most frequent class", percent(largest), [Mark(largest, 3)]))
        return [_interval_chart("Accuracy, with 95 % intervals", lines)]
    if isinstance(score, LabelsEvaluation):
        lines = [
            _line(words, value, score.intervals[name] or (value, value))
            for name, words in SCORED.items()
            if (value := score.scores[name]) is not None
        ]
        return [_interval_chart("Scores, with 95 % intervals", lines)] if lines else []
    return []


def _line(name: str, value: float, ends: tuple[float, float], *, series: int = 0, strong: bool = False) -> Line:
    return Line(name, f"{percent(value)} ({between(ends)})", [Mark(value, series)], ends, strong)


def _interval_chart(title: str, lines: list[Line]) -> Chart:
    values = [value for line in lines for value in (*(line.span or ()), *(mark.value for mark in line.marks))]
    axis = Axis.around("", values, percent=True)
    rows = [["", "value"], *([line.name, line.text] for line in lines)]
    alt = "; ".join(f"{line.name}: {line.text}" for line in lines)
    return Chart(title, rows_chart(lines, axis, alt=alt), rows)


def next_steps(material: Material, following: tuple[str, str]) -> Steps:
    """What the findings ask for, the most pressing first."""
    found, steps, features = material.found, Steps(), material.file.path
    across = [pair for pair in found.near_duplicates if pair.across_classes]
    unclear = [group for group in found.copies if len(group.classes) > 1]
    if across or unclear:
        pairs = count_of(len(across) + len(unclear), "picture")
        steps.append((f"Decide on {pairs} in two classes at once (see duplicates).", ""))
    if found.label_errors:
        words = (
            f"Look at {count_of(len(found.label_errors), 'label')} that may be wrong, correct the column class of the "
            "table, and put it back; no image is read again."
        )
        steps.append((words, command_line("onepass", "inspect", features, "--csv", "findings.csv")))
        steps.append(
            ("Then, with the corrected table:", command_line("onepass", "label", features, "--relabel", "findings.csv"))
        )
    score = material.judged.score if material.judged else None
    if isinstance(score, Evaluation):
        if few := [name for name, one in score.per_class.items() if one.n < FEW]:
            steps.append(
                (f"Collect images of {listed(few)}: with fewer than {FEW} to score, nothing is known of them.", "")
            )
        if pair := _most_confused(score):
            steps.append((pair, ""))
    if found.unreadable:
        steps.append((f"Replace {count_of(len(found.unreadable), 'file')} that could not be read.", ""))
    if material.head is not None and not material.head.is_whole:
        steps.append(
            ("See whether another head does better on the same images.", command_line("compare-heads", features))
        )
    return [*steps, following]


def _most_confused(score: Evaluation) -> str:
    """Where most mistakes are between two classes, in words."""
    counts = np.array(score.confusion)
    if not counts.size:
        return ""
    np.fill_diagonal(counts, 0)
    wrong, both, names = int(counts.sum()), counts + counts.T, list(score.per_class)
    i, j = np.unravel_index(int(both.argmax()), both.shape)
    if len(names) < 3 or both[i, j] < 5 or both[i, j] < 0.2 * wrong:
        return ""
    return (
        f"Look at {shown(names[i])} and {shown(names[j])}: {both[i, j]} of {wrong} mistakes are between these two; "
        "more images of both help most, or one class for both if nobody needs to tell them apart."
    )


def about_images(material: Material) -> tuple[str, list[str]]:
    """Headline and paragraphs where there are images and no classifier."""
    file, found = material.file, material.found
    splits = {name: int((file.table.splits[material.positions] == i).sum()) for i, name in enumerate(SPLITS)}
    parts = listed([f"{count:,} {name}" for name, count in splits.items() if count])
    suspects, pairs = len(found.label_errors or []), len(found.near_duplicates) + len(found.copies)
    wrong = listed(
        [
            count_of(pairs, "picture appears twice", "pictures appear twice"),
            count_of(suspects, "label may be wrong", "labels may be wrong"),
            count_of(len(found.outliers), "image is unlike all others", "images are unlike all others"),
        ]
    )
    title = f"{len(material.positions):,} images, {file.table.what()}: {wrong}"
    return title, [f"The rows of {file.spec.backbone}; {parts}. {file.table.summary()}."]
