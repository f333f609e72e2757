"""The map of the rows: where images lie among all others, as the network sees them."""

from importlib.util import find_spec
from itertools import pairwise

import numpy as np
from threadpoolctl import threadpool_limits

from onepass.extract import quiet_stderr
from onepass.features import CLASSES, LABELS, NUMBER, SPLITS
from onepass.features.names import shown
from onepass.features.progress import phase
from onepass.features.tables import command_line
from onepass.heads.fitting.pca import PrincipalComponents
from onepass.heads.inference.out_of_distribution import USUAL_ALPHA
from onepass.heads.report.material import Material
from onepass.heads.report.page.parts import Colouring, Layout, RowMap, Rows, Section
from onepass.heads.report.words import percent

MOST_POINTS = 20_000
MOST_FOR_TSNE = 5_000
"""Rows up to which t-SNE is run: on one thread, so that a report is the same each time, 5,000 take half a minute."""
_FEWEST_FOR_TSNE = 50
_AXES = 50
_MOST_CODES = 24
"""Classes that have a colour and a shape of their own; the rarer ones share grey."""


def row_map(material: Material) -> Section | None:
    """The map, of a sample where there are very many images; None where there are too few or all rows are one."""
    places = _some(material)
    rows = material.rows[places]
    if len(rows) < 3 or np.ptp(rows, axis=0).max() == 0:
        return None
    positions = material.positions[places]
    with phase("laying out the map"):
        layouts = layouts_of(rows)
    colourings = [*_colourings(material, positions, places)]
    file = material.file
    drawn = RowMap(
        positions=positions,
        names=[material.names[i] for i in positions],
        labels=_values(material, positions),
        layouts=layouts,
        colourings=colourings,
        choices=[shown(name) for name in file.class_names] if file.task == CLASSES else (),
        column=_column(material),
        command=_command(material),
        rows=_rows(material, positions, layouts),
    )
    sample = (
        ""
        if len(positions) == len(material.positions)
        else f" {len(positions):,} of {len(material.positions):,} images are shown."
    )
    words = (
        "Each point is an image; images that the network finds alike lie close together. A point of one class amid "
        f"another is worth a look: it is a hard image, or a wrong label.{sample}"
    )
    return Section("map", "Where each image lies among all others", (words,), [drawn])


def _some(material: Material) -> np.ndarray:
    """Indices into the images with a row: all, or a seeded sample with all that were judged."""
    n = len(material.positions)
    if n <= MOST_POINTS:
        return np.arange(n)
    judged = material.judged.positions if material.judged else np.zeros(0, np.int64)
    order = np.random.default_rng(0).permutation(n)
    first = np.isin(material.positions[order], judged)
    return np.sort(np.concatenate([order[first], order[~first]])[:MOST_POINTS])


def layouts_of(rows: np.ndarray) -> list[Layout]:
    """Principal components of (m, d) standardised rows; t-SNE, and UMAP where that is installed, where the rows are
    neither too many nor too few."""
    along, shares = principal(rows, min(_AXES, len(rows) - 1, rows.shape[1]))
    two = along[:, :2] if along.shape[1] > 1 else np.column_stack([along, np.zeros(len(along))])
    note = (
        "Principal components: the two directions along which rows differ most. They hold "
        f"{percent(sum(shares[:2]))} of the variance, so what lies together here may lie apart in others."
    )
    found = [Layout("PCA", two, note, tuple(shares[:2]))]
    if _FEWEST_FOR_TSNE <= len(rows) <= MOST_FOR_TSNE:
        note = "t-SNE keeps neighbours together; distances between groups, and their sizes, mean nothing."
        found.insert(0, Layout("t-SNE", _turned(_tsne(along)), note))
        if find_spec("umap"):
            note = "UMAP keeps neighbours together; distances between groups mean little."
            found.append(Layout("UMAP", _turned(_umap(along)), note))
    return found


def principal(rows: np.ndarray, count: int) -> tuple[np.ndarray, list[float]]:
    """(m, count) rows along their first principal axes, standardised, and the share of the variance along each.

    The sign of an axis, which nothing tells, is such that its largest weight is positive.
    """
    with threadpool_limits(1):  # or the last digits hang on the number of processors
        components = PrincipalComponents.of(rows)
        axes = components.rotation[1][:, :count]
        largest = np.abs(axes).argmax(axis=0)
        axes = axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1, 1)
        along = (components.standardised @ axes).astype(np.float64)
    total = float(np.square(components.standardised, dtype=np.float64).sum())
    return along, [float(one) / max(total, 1e-30) for one in np.square(along).sum(axis=0)]


def _tsne(along: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = float(min(30, (len(along) - 1) / 3))
    with threadpool_limits(1):  # threads add up in any order, and t-SNE blows the last digit up
        return np.asarray(TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(along), np.float64)


def _umap(along: np.ndarray) -> np.ndarray:
    with quiet_stderr():  # it imports TensorFlow for a variant that is not used
        from umap import UMAP

    with threadpool_limits(1):
        return np.asarray(UMAP(random_state=0, n_jobs=1).fit_transform(along), np.float64)


def _turned(places: np.ndarray) -> np.ndarray:
    """(m, 2) places, which may be turned at will, so that they are wide and not tall, and the same each time."""
    centred = places - places.mean(axis=0)
    turned = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    return np.asarray(turned * np.where(turned[np.abs(turned).argmax(axis=0), [0, 1]] < 0, -1, 1))


def _colourings(material: Material, positions: np.ndarray, places: np.ndarray) -> list[Colouring]:
    table, found = material.file.table, list[Colouring]()
    by_label = _by_label(material, positions)
    if by_label:
        found.append(by_label)
    if material.judged is not None and material.file.task != NUMBER:
        codes = np.zeros(len(table), np.int64)
        codes[material.judged.positions] = 1 + material.judged.wrong
        found.append(Colouring("answer", ("not scored", "right", "wrong"), codes[positions], (0,)))
    found.append(Colouring("split", SPLITS, table.splits[positions].astype(np.int64)))
    if suspects := material.found.label_errors:
        doubted = {one.image.path for one in suspects}
        codes = np.array([table.paths[i] in doubted for i in positions], np.int64)
        found.append(Colouring("label", ("not in doubt", "in doubt"), codes, (0,)))
    unknown = material.unknown(USUAL_ALPHA)
    if unknown is not None:
        labels = ("known", f"unknown (at {USUAL_ALPHA:g})")
        found.append(Colouring("unknown", labels, unknown[places].astype(np.int64), (0,)))
    return found


def _by_label(material: Material, positions: np.ndarray) -> Colouring | None:
    """By class; by how many labels an image has; by fifths of its numbers."""
    table = material.file.table
    if material.file.task == CLASSES:
        labels = table.labels[positions]
        names = [shown(name) for name in table.class_names]
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        kept = np.sort(np.argsort(-counts, kind="stable")[:_MOST_CODES])
        place = np.full(len(names) + 1, len(kept))
        place[kept] = np.arange(len(kept))
        codes = place[labels]  # -1, no label, is the last
        rest = bool((codes == len(kept)).any())
        return Colouring("class", [*(names[i] for i in kept), *["other, or none"] * rest], codes, (len(kept),) * rest)
    known = table.labelled[positions]
    if material.file.task == LABELS:
        counts = np.where(known, np.nan_to_num(table.targets[positions]).sum(axis=1), 0).astype(np.int64)
        return Colouring("labels", ("none", "one", "two", "three or more"), np.minimum(counts, 3), (0,))
    if material.file.task != NUMBER or not known.any():
        return None
    numbers = table.targets[positions, 0]
    edges = np.unique(np.quantile(numbers[known], [0.2, 0.4, 0.6, 0.8]))
    codes = np.where(known, np.digitize(np.nan_to_num(numbers), edges), len(edges) + 1)
    ends = [f"{edge:.4g}" for edge in edges]
    names = [f"below {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"{ends[-1]} or more"]
    return Colouring(shown(table.class_names[0]), [*names, "no number"], codes, (len(edges) + 1,))


def _values(material: Material, positions: np.ndarray) -> list[str]:
    """What images are labelled with, as `label` reads it back to the last digit."""
    table = material.file.table.taken(positions)
    join = _separator(material).join
    values = table.label_values()
    return ["" if v is None else shown(join(v) if isinstance(v, tuple) else str(v)) for v in values]


def _separator(material: Material) -> str:
    """What stands in no label."""
    names = "".join(material.file.class_names)
    return next((mark for mark in ";|,/" if mark not in names), ";")


def _column(material: Material) -> str:
    """A number keeps its name, by which `label` knows it."""
    return shown(material.file.class_names[0]) if material.file.task == NUMBER else "class"


def _command(material: Material) -> str:
    """What takes the table of a selection back."""
    separated = ("--label", "class", "--label-separator", _separator(material))
    more = {LABELS: separated, NUMBER: ("--target", _column(material))}.get(material.file.task, ())
    return command_line("onepass", "label", material.file.path, "--relabel", "selected.csv", *more)


def _rows(material: Material, positions: np.ndarray, layouts: list[Layout]) -> Rows:
    table = material.file.table.taken(positions)
    parts = [table.part(table.splits == i) for i in range(len(SPLITS))]
    counts = [part.counts() or {"images": len(part)} for part in parts]
    rows = [["class", *SPLITS], *([shown(name), *(str(one[name]) for one in counts)] for name in counts[0])]
    for one in layouts:
        rows += [
            [f"{one.name}, axis {i}", percent(share), "of the variance", ""] for i, share in enumerate(one.explained, 1)
        ]
    return rows
