"""Puts labels, splits, groups and weights from a table on the rows of a feature file; no image is read."""

import difflib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.data.boxes import whole_name
from onepass.extract.data.columns import SourceOptions, meaning_of
from onepass.extract.data.kept_labels import merged
from onepass.extract.data.records import Records, texts
from onepass.extract.data.splits import draw_splits
from onepass.extract.data.table_source import ListedNames, TableReader
from onepass.extract.data.tables import read_table
from onepass.features import SPLITS, FeatureFile, ImageTable, only_feature_file
from onepass.features.errors import DataError, OptionError, UserError, opt
from onepass.features.lock import writer_lock
from onepass.features.names import shown
from onepass.features.tables import command_line
from onepass.features.tasks import CLASSES, LABELS, NONE, NUMBER
from onepass.features.writer import RowWriter, write_feature_file

_NOTED = 100
"""Tables that a feature file notes as where its labels came from; of more, none can be read again."""


@dataclass(frozen=True)
class Labelling:
    """What `label` did.

    Attributes:
        path: The feature file.
        images: Images in it.
        changed: Images whose label is another one now.
        unlabelled: Images that have no label.
        unknown: Names in the table that are not in the file.
        task: What the labels are, see `features.TASKS`.
        labels: The same in words.
        drawn_split: True if the test split was drawn because the table says none.
    """

    path: Path
    images: int
    changed: int
    unlabelled: int
    unknown: tuple[str, ...]
    task: str
    labels: str
    drawn_split: bool

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("train-head", self.path)

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path), "unknown": list(self.unknown)}

    def __str__(self) -> str:
        lines = [
            f"{shown(self.path)}: {self.images} images, {self.labels}",
            f"{self.changed} label{'' if self.changed == 1 else 's'} changed; no image was read",
        ]
        if self.unknown:
            lines.append(f"names that are not in the file: {len(self.unknown)}, {shown(self.unknown[0])} for one")
        if self.drawn_split:
            lines.append("a fifth of the labelled images are the test split, chosen by content")
        return "\n".join(lines)


def label(
    features: str | Path | None = None,
    table: str | Path | None = None,
    *,
    relabel: str | Path | None = None,
    path: str | None = None,
    label: str | None = None,
    label_separator: str | None = None,
    target: str | None = None,
    split: str | None = None,
    group: str | None = None,
    weight: str | None = None,
) -> Labelling:
    """Puts labels from a table on the rows of a feature file, without reading an image.

    Later runs of `extract` keep these labels. Splits that the file has stay, unless the table says others; a test
    split that was drawn, or is missing, is drawn for the labelled images.

    Args:
        features: The feature file; by default the one in the current folder.
        table: Names of the file's images and their labels; images that it does not name have no label afterwards.
        relabel: Instead, a table of corrections, such as `inspect` writes and somebody has corrected in its column
            `class`; images that it does not name keep their label, and so do those whose class there is what it was.
        path, label, label_separator, target, split, group, weight: Its columns, see `SourceOptions`.

    Raises:
        FeatureFileError: The feature file cannot be read or written.
        DataError: The table does not say what is needed, or names nothing that is in the file.
        OptionError: Both tables are given, or none.

    >>> import csv, shutil
    >>> _ = shutil.copy("photos.h5", "again.h5")
    >>> with open("fixes.csv", "w") as file:
    ...     csv.writer(file).writerows([("path", "class"), ("cats/0.png", "dogs")])
    >>> print(label("again.h5", relabel="fixes.csv"))  # doctest: +SKIP
    again.h5: 80 images, 2 classes (cats 39, dogs 41)
    1 label changed; no image was read
    """
    if (table is None) == (relabel is None):
        raise OptionError(f"needed: a table of labels, or one of corrections with {opt.relabel}; one of them.")
    features = only_feature_file() if features is None else Path(features)
    features = features.resolve() if features.is_symlink() else features
    options = SourceOptions(
        path=path,
        label=label,
        label_separator=label_separator,
        target=target,
        split=split,
        group=group,
        weight=weight,
    )
    records = read_table(Path(table if relabel is None else relabel))  # type: ignore[arg-type]
    FeatureFile(features).close()  # a missing file ends here
    with writer_lock(features), FeatureFile(features) as file:
        return _put(file, records, options, keep_others=relabel is not None)


def _corrections(records: Records, options: SourceOptions, table: ImageTable) -> tuple[Records, SourceOptions]:
    """Of a table of corrections, what concerns labels; columns are those that `inspect` writes unless said."""
    named = "class" if "class" in records.columns else None
    if table.task == NUMBER:
        options = replace(options, target=options.target or (None if options.label else named))
    elif not options.target:
        options = replace(options, label=options.label or named)
    options = replace(options, path=options.path or ("path" if "path" in records.columns else None))
    kinds = records.columns.get("kind")
    if kinds is not None:
        if table.task == LABELS:
            options = replace(options, label_separator=options.label_separator or ",")
        kept = [row for row, kind in enumerate(texts(kinds)) if kind == "label"]
        columns = {name: [values[row] for row in kept] for name, values in records.columns.items()}
        records = replace(records, columns=columns, places=[records.places[row] for row in kept])
    if table.task == CLASSES and options.label in records.columns and options.label_separator is None:
        known = set(table.class_names)
        for row, name in enumerate(texts(records.columns[options.label])):
            if name and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean {close[0]}" if close else f"needed: one of {', '.join(sorted(known))[:200]}"
                raise DataError(f"{records.path}, {records.places[row]}, column {options.label}: {name!r}; {meant}.")
    return records, options


def _put(file: FeatureFile, records: Records, options: SourceOptions, *, keep_others: bool) -> Labelling:
    table = file.table
    applied = _applied(table, records, options, file, keep_others=keep_others)
    new, said_splits = applied.table, applied.said_splits
    drawn = not said_splits and (bool(file.provenance.get("drawn_split")) or table.task == NONE)
    if drawn:
        before = table if table.task != NONE else None
        splits = _drawn(new, file, before)
        new = replace(new, splits=splits)
    changed = sum(one != other for one, other in zip(table.label_values(), new.label_values(), strict=True))
    earlier = file.provenance.get("relabelled") if keep_others else None
    step = {"table": str(records.path.resolve()), "corrections": keep_others, "columns": options.given()}
    steps = [*(earlier if isinstance(earlier, list) else []), step]
    noted = len(steps) <= _NOTED and (not keep_others or isinstance(earlier, list) or not earlier)
    provenance = {
        **file.provenance,
        "relabelled": steps if noted else True,
        "drawn_split": drawn or (bool(file.provenance.get("drawn_split")) and not said_splits),
    }
    copies = file.copies
    write_feature_file(file.path, file.spec, new, provenance, file.golden_rows, views=file.views, old=file)
    with RowWriter(file.path) as writer:
        writer.put_copies(copies)
    return Labelling(
        path=file.path,
        images=len(new),
        changed=changed,
        unlabelled=int((~new.labelled).sum()),
        unknown=applied.unknown,
        task=new.task,
        labels=new.summary(),
        drawn_split=drawn,
    )


@dataclass(frozen=True)
class _Applied:
    """An image table with the labels of a table, whether that says splits, and what it names and is not there."""

    table: ImageTable
    said_splits: bool
    unknown: tuple[str, ...]


def _applied(
    table: ImageTable, records: Records, options: SourceOptions, file: FeatureFile, *, keep_others: bool
) -> _Applied:
    if keep_others:
        records, options = _corrections(records, options, table)
    paths, origin = set(table.paths), str(file.provenance.get("data") or "")
    known = ListedNames(map(whole_name, paths) if records.boxes else table.paths, origin, records.spell)
    if not (len(records) or keep_others):
        raise DataError(f"{records.path} has no rows below its first line.")
    meaning = meaning_of(records, options, known.__contains__)
    reader = TableReader(records, meaning, options)
    names, places = reader.named(known)
    unknown = tuple(name for name in names if name not in paths)
    names = [name for name in names if name in paths]
    if not names and len(records):
        raise DataError(
            f"none of the {len(unknown)} images that {records.path} names is in {file.path}, {unknown[0]} for one. Say "
            f"by {opt.path} which column names them."
        )
    found, targets = reader.labels(names, places, 1 if keep_others else 2), reader.weights(names, places)
    where = {path: i for i, path in enumerate(table.paths)}
    positions = np.array([where[name] for name in names], np.int64)
    part = table.taken(positions)
    same_number = keep_others and (found[0], table.task) == (NUMBER, NUMBER)
    named = ImageTable(
        table.class_names if same_number else found[1],
        part.paths, found[2], part.splits, part.content_hashes, part.file_sizes, part.file_mtimes,
        task=found[0], targets=found[3],
    )  # fmt: skip
    if keep_others and len(named) and named.task != table.task:
        raise DataError(f"{file.path} holds {table.what()}, {records.path} {named.what()}; needed: the same.")
    new = merged(table, named, positions, keep_others=keep_others) if len(named) else table
    return _Applied(_with_columns(new, reader, positions, names, places, targets), bool(meaning.split), unknown)


def labelled_again(file: FeatureFile, table: ImageTable) -> ImageTable | None:
    """A table with the labels and weights that `label` once put on the rows of a file, from the tables it read.

    Args:
        file: The feature file.
        table: Of its images, with the labels that their source says.

    Returns:
        None if these tables are gone, or were not noted.
    """
    steps = file.provenance.get("relabelled")
    try:
        for step in steps if isinstance(steps, list) else ():
            records, options = read_table(Path(step["table"])), SourceOptions.of(step["columns"])
            table = _applied(table, records, options, file, keep_others=bool(step["corrections"])).table
    except (UserError, LookupError, TypeError, AttributeError):  # or what notes them is not what we write
        return None
    return table if isinstance(steps, list) else None


def _with_columns(
    table: ImageTable,
    reader: TableReader,
    positions: np.ndarray,
    names: list[str],
    places: dict[str, list[int]],
    weights: np.ndarray,
) -> ImageTable:
    """The table with the splits, groups and weights that the columns say."""
    meaning, columns = reader.meaning, dict[str, Any]()
    if meaning.split:
        columns["splits"] = table.splits.copy()
        columns["splits"][positions] = reader.splits(names, places)
    if meaning.group:
        groups = list(table.groups)
        for position, group in zip(
            positions.tolist(), reader.one_each("group", meaning.group, names, places), strict=True
        ):
            groups[position] = group
        columns["groups"] = tuple(groups)
    if meaning.weight:
        columns["weights"] = table.weights.copy()
        columns["weights"][positions] = weights
    return replace(table, **columns)


def _drawn(table: ImageTable, file: FeatureFile, before: ImageTable | None) -> np.ndarray:
    """The split of the labelled images, each that had a side on that side; the others train, and count nowhere."""
    labelled = np.flatnonzero(table.labelled)
    part = table.taken(labelled)
    splits = np.full(len(table), SPLITS.index("train"), np.uint8)
    splits[labelled] = draw_splits(
        part.strata(),
        part.content_hashes,
        part.groups,
        copies=file.copies[labelled],
        known=before,
        seed=int(file.provenance.get("seed") or 0),
    )
    return splits
