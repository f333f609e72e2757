"""How a classifier does, in charts: who is taken for whom, whether its probabilities hold, what abstaining brings."""

from collections.abc import Iterator

import numpy as np

from onepass.features import CLASSES, LABELS
from onepass.features.errors import OptionError
from onepass.features.names import shown
from onepass.heads.evaluation import Evaluation
from onepass.heads.report.material import Judged, Material
from onepass.heads.report.mistakes import losses
from onepass.heads.report.page.charts import Axis, Line, Mark, Series, hardest, histogram, plot, rows_chart
from onepass.heads.report.page.epochs import history_of
from onepass.heads.report.page.parts import Card, Cards, Chart, Matrix, Part, Section
from onepass.heads.report.words import chance, count_of, percent, sentence
from onepass.heads.stats.intervals import wilson_interval
from onepass.heads.tasks.label_evaluation import LabelsEvaluation

MATRIX = 30
"""Classes up to which the whole matrix is shown."""
_CELL, _PAIRS = 24, 12
"""Images of a cell that are listed, and cells that are where there is no matrix."""
_CURVES = 8
_POINTS = 60
BINS = 10
ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def performance(material: Material) -> Section | None:
    """Charts of what a classifier said; None where it said nothing of single images."""
    judged = material.judged
    if judged is None:
        return None
    trained = history_of(material.head.history) if material.head and material.head.history else []
    if material.file.task == CLASSES:
        parts = [*_of_classes(material, judged), *trained]
        return Section("performance", _confused(judged, material), (), parts)
    if material.file.task == LABELS:
        return Section("performance", "How well each label is found", (), [_of_labels(judged), *trained])
    return Section("performance", "How far off the numbers are", (), [*_of_numbers(material, judged), *trained])


def _confused(judged: Judged, material: Material) -> str:
    counts = confusion(judged, len(material.class_names))
    np.fill_diagonal(counts, 0)
    if not counts.any():
        return "No class is taken for another"
    i, j = np.unravel_index(int(counts.argmax()), counts.shape)
    names = [shown(name) for name in material.class_names]
    times = "once" if counts[i, j] == 1 else f"{counts[i, j]} times"
    return f"The most common mistake: {names[i]} called {names[j]}, {times}"


def confusion(judged: Judged, k: int) -> np.ndarray:
    """(k, k) int64: images by true class and named class."""
    counts = np.zeros((k, k), np.int64)
    np.add.at(counts, (judged.y, judged.named), 1)
    return counts


def _of_classes(material: Material, judged: Judged) -> Iterator[Part]:
    if len(material.class_names) <= MATRIX:
        yield _matrix(material, judged)
    else:
        yield from _most_confused(material, judged)
    if isinstance(judged.score, Evaluation):
        yield _per_class(judged.score)
    if judged.outputs is not None:
        yield _reliability(judged, judged.outputs)
        yield _curves(material, judged, judged.outputs)
    if (unknown := _unknown(material, judged)) is not None:
        yield unknown


def _most_confused(material: Material, judged: Judged) -> Iterator[Part]:
    """The pairs of classes that are confused most often, where there are too many classes for a matrix."""
    counts = confusion(judged, len(material.class_names))
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    for i, j in zip(*np.unravel_index(order, counts.shape), strict=True):
        if counts[i, j]:
            yield _cell(material, judged, int(i), int(j))


def _cell(material: Material, judged: Judged, i: int, j: int) -> Cards:
    """The images of class i that are called j."""
    some = np.flatnonzero((judged.y == i) & (judged.named == j))
    if judged.outputs is not None:
        some = some[np.argsort(-losses(material, judged)[some], kind="stable")]
    names = shown(material.class_names[i]), shown(material.class_names[j])
    note = "" if len(some) <= _CELL else f"The {_CELL} with the highest loss of them."
    cards = [_in_cell(material, judged, int(at)) for at in some[:_CELL]]
    title = f"{names[0]}, called {names[1]}: {count_of(len(some), 'image')}"
    return Cards(title, cards, note, rank=6 if i != j else 8)


def _matrix(material: Material, judged: Judged) -> Matrix:
    k, names = len(material.class_names), [shown(name) for name in material.class_names]
    counts = confusion(judged, k)
    cells = {(i, j): _cell(material, judged, i, j) for i in range(k) for j in range(k) if counts[i, j]}
    return Matrix(names, counts, cells)


def _in_cell(material: Material, judged: Judged, at: int) -> Card:
    position = int(judged.positions[at])
    sure = "" if judged.outputs is None else sentence(f"{chance(float(judged.outputs[at, judged.named[at]]))} sure")
    return Card(position, material.names[position], "", sure)


def _per_class(score: Evaluation) -> Chart:
    lines = [
        Line(shown(name), f"{percent(one.recall, 0)}, {percent(one.precision, 0)}",
             [Mark(one.recall, 0), Mark(one.precision, 1)],
             (min(one.recall, one.precision), max(one.recall, one.precision)))
        for name, one in score.per_class.items() if one.n
    ]  # fmt: skip
    lines = hardest(lines)
    axis = Axis.around("", [mark.value for line in lines for mark in line.marks], percent=True)
    rows = [["class", "images", "found (recall)", "answers right (precision)", "F1"]]
    rows += [
        [shown(name), str(one.n), percent(one.recall), percent(one.precision), f"{one.f1:.3f}"]
        for name, one in score.per_class.items()
    ]
    legend = ("found (recall)", "answers right (precision)")
    alt = "Recall and precision of each class: " + "; ".join(f"{line.name} {line.text}" for line in lines)
    note = (
        "Found (recall): the share of a class's images that were named so. Right (precision): of those named so, the "
        "share that are."
    )
    return Chart("Class by class", rows_chart(lines, axis, alt=alt, legend=legend), rows, note)


def reliability(outputs: np.ndarray, y: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(b, 3): images, mean probability of the answer and share of right answers in bins of equal width, empty ones left
    out.

    Args:
        outputs: (m, k) probabilities.
        y: (m,) true classes.
        bins: Bin i is (i / bins, (i + 1) / bins].
    """
    sure, right = outputs.max(axis=1).astype(np.float64), outputs.argmax(axis=1) == y
    place = np.digitize(sure, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    n = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (sure, right)]
    kept = n > 0
    return np.stack([n[kept], *(total[kept] / n[kept] for total in sums)], axis=1)


def _reliability(judged: Judged, outputs: np.ndarray) -> Chart:
    found = reliability(outputs, judged.y)
    ends = [wilson_interval(share * n, n) for n, _, share in found]
    series = Series(
        "",
        found[:, 1].tolist(),
        found[:, 2].tolist(),
        [low for low, _ in ends],
        [high for _, high in ends],
        joined=False,
    )
    first = min(float(found[:, 1].min()), float(found[:, 2].min()), 0.5) - 0.03
    low = max(np.floor(10 * first) / 10, 0.0)
    x, y = (
        Axis("how sure it was", low, 1.0, True),
        Axis("share that is right", min(low, *(e[0] for e in ends)), 1.0, True),
    )
    rows = [["how sure (mean)", "images", "right", "95 % interval"]]
    rows += [
        [percent(sure), f"{n:.0f}", percent(share), f"{percent(e[0])} to {percent(e[1])}"]
        for (n, sure, share), e in zip(found, ends, strict=True)
    ]
    error = getattr(judged.score, "calibration_error", None)
    total = "" if error is None else f" On average they are off by {100 * error:.1f} points (calibration error)."
    alt = "Reliability: " + "; ".join(f"at {percent(sure, 0)}, {percent(share, 0)} right" for _, sure, share in found)
    note = f"On the dotted line, of the answers given with 80 % just 80 % are right. Bars are 95 % intervals.{total}"
    return Chart("Can its probabilities be believed?", plot([series], x, y, alt=alt, diagonal=True), rows, note)


def _curves(material: Material, judged: Judged, outputs: np.ndarray) -> Chart:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    known = [k for k in range(len(material.class_names)) if (judged.y == k).any()]
    areas = {k: float(average_precision_score(judged.y == k, outputs[:, k])) for k in known}
    worst = sorted(sorted(known, key=lambda k: areas[k])[:_CURVES])
    series = []
    for k in worst:
        precision, recall, _ = precision_recall_curve(judged.y == k, outputs[:, k])
        some = np.unique(np.linspace(0, len(recall) - 1, _POINTS).astype(int))
        series.append(
            Series(shown(material.class_names[k]), recall[some].tolist(), precision[some].tolist(), marked=False)
        )
    low = min(min(one.y) for one in series)
    x, y = (
        Axis("found (recall)", 0.0, 1.0, True),
        Axis("right (precision)", max(np.floor(10 * low) / 10, 0.0), 1.02, True),
    )
    rows = [["class", "average precision"], *([shown(material.class_names[k]), f"{areas[k]:.3f}"] for k in known)]
    which = "" if len(worst) == len(known) else f" The {_CURVES} hardest classes are drawn."
    alt = "Precision over recall; average precision: " + "; ".join(
        f"{shown(material.class_names[k])} {areas[k]:.3f}" for k in worst
    )
    note = f"A lower threshold finds more of a class and is wrong more often.{which}"
    return Chart("Precision against recall", plot(series, x, y, alt=alt), rows, note)


def abstaining(material: Material, judged: Judged) -> list[tuple[float, float, float]]:
    """(alpha, share of the images called unknown, accuracy on the others) for each alpha that the head can do."""
    head = material.head
    if head is None or head.is_whole or head.out_of_distribution is None or judged.outputs is None:
        return []
    rows = material.rows[np.searchsorted(material.positions, judged.positions)]
    found = []
    for alpha in ALPHAS:
        try:
            unknown = head.unknown_at(alpha)(rows, judged.outputs)
        except OptionError:  # too few images were held out for so small a share
            continue
        if not unknown.all():
            found.append((alpha, float(unknown.mean()), float(1 - judged.wrong[~unknown].mean())))
    return found


def _unknown(material: Material, judged: Judged) -> Chart | None:
    found = abstaining(material, judged)
    if len(found) < 2:
        return None
    alphas, away, right = zip(*found, strict=True)
    series = [
        Series("right, of those it answers", alphas, right),
        Series("answered", alphas, [1 - one for one in away]),
    ]
    x = Axis("--unknown", 0.0, max(alphas), False)
    y = Axis.around("share of images", [*right, *(1 - one for one in away)], percent=True)
    rows = [["--unknown", "called unknown", "right, of the others"]]
    rows += [[f"{alpha:g}", percent(gone), percent(share)] for alpha, gone, share in found]
    alt = "; ".join(
        f"unknown {alpha:g}: {percent(gone)} called unknown, {percent(share)} of the others right"
        for alpha, gone, share in found
    )
    note = "onepass predict --unknown 0.05 calls about 5 % of each class unknown at most; here is what it brings."
    return Chart("What `--unknown` costs and brings", plot(series, x, y, alt=alt), rows, note)


def _of_labels(judged: Judged) -> Chart:
    score = judged.score
    assert isinstance(score, LabelsEvaluation)
    lines = [
        Line(shown(name), f"F1 {one.f1:.2f}, average precision {one.average_precision or 0:.2f}",
             [Mark(one.f1, 0), Mark(one.average_precision or 0.0, 1)],
             (min(one.f1, one.average_precision or 0), max(one.f1, one.average_precision or 0)))
        for name, one in score.per_label.items() if one.n
    ]  # fmt: skip
    lines = hardest(lines)
    rows = [["label", "images", "precision", "recall", "F1", "average precision"]]
    rows += [
        [shown(name), str(one.n), f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}",
         "-" if one.average_precision is None else f"{one.average_precision:.3f}"]
        for name, one in score.per_label.items()
    ]  # fmt: skip
    alt = "F1 and average precision of each label: " + "; ".join(f"{line.name} {line.text}" for line in lines)
    legend = ("F1 at its threshold", "average precision")
    svg = rows_chart(lines, Axis("", 0.0, 1.0, True), alt=alt, legend=legend)
    return Chart(
        "Label by label", svg, rows, "Labels that few images have keep few to be judged by: look at the numbers."
    )


def _of_numbers(material: Material, judged: Judged) -> Iterator[Part]:
    name = shown(material.class_names[0])
    off = judged.named - judged.y
    both = [*judged.y.tolist(), *judged.named.tolist()]
    x, y = Axis.around(f"true {name}", both), Axis.around(f"predicted {name}", both)
    scatter = plot([Series("", judged.y.tolist(), judged.named.tolist(), joined=False)], x, y, diagonal=True,
                   alt=f"Predicted over true {name} of {len(off)} images")  # fmt: skip
    quantiles = np.quantile(off, [0.05, 0.25, 0.5, 0.75, 0.95])
    rows = [
        ["share of images", "off by at most"],
        *([f"{100 * q:.0f} %", f"{v:+.4g}"] for q, v in zip((0.05, 0.25, 0.5, 0.75, 0.95), quantiles, strict=True)),
    ]
    yield Chart("Predicted against true", scatter, rows, "On the dotted line a prediction is right.")
    residuals = histogram(
        off, Axis.around("predicted minus true", off.tolist()), alt=f"Residuals, median {quantiles[2]:+.4g}"
    )
    yield Chart("How far off, and to which side", residuals, rows)
    told, errors = judged.named.tolist(), off.tolist()
    side = Axis.around("predicted minus true", errors)
    over = plot([Series("", told, errors, joined=False)], y, side, alt="Residuals over predictions")
    yield Chart(
        "Where it is off", over, rows, "A slope or a funnel here says that errors hang on the size of the number."
    )
