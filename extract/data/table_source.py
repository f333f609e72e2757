"""A table as a source of images: it names them, or holds them, and says what they are."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from onepass.extract.data.boxes import BoxStore, box_name, whole_name
from onepass.extract.data.class_folders import SPLIT_FOLDERS, names_alike
from onepass.extract.data.columns import Meaning, SourceOptions, described, meaning_of
from onepass.extract.data.parquet_store import ParquetStore
from onepass.extract.data.records import Records, texts
from onepass.extract.data.source import Source
from onepass.extract.data.stores import Store
from onepass.extract.data.tables import read_table
from onepass.extract.pixels.formats import is_image_name
from onepass.features import SPLITS, ImageTable
from onepass.features.errors import DataError, opt
from onepass.features.names import spellings
from onepass.features.tasks import CLASSES, LABELS, NONE, NUMBER

_MANY = 20
"""Different numbers from which a column of numbers with a point is no column of classes."""


def table_source(
    path: Path, options: SourceOptions, open_images: Callable[[Path], Store], *, least_classes: int = 2
) -> Source:
    """Images and labels as a table says them.

    Args:
        path: The table, see `read_table`.
        options: What its columns mean.
        open_images: Opens the store that the table names images of.
        least_classes: How many classes there must be.

    Raises:
        DataError: As `source_of_records`.
    """
    records = read_table(path)
    store = _store_of(records, options, open_images)
    held = isinstance(store, ParquetStore)
    record = {
        "data": store.origin,
        "folders": [str(path.resolve())],
        "source": {**options.given(), **({} if held else {"images": store.origin})},
        **({"boxes": True} if records.boxes else {}),
    }
    return source_of_records(
        records, options, store, held=held, stem=path.stem, record=record, least_classes=least_classes
    )


def source_of_records(
    records: Records,
    options: SourceOptions,
    store: Store,
    *,
    held: bool,
    stem: str,
    record: dict[str, Any],
    least_classes: int = 2,
) -> Source:
    """Images with the labels that a table has for them.

    Every message names row and column. What is guessed, what is named and not there, and what is there and not
    named stands in the notes of the source.

    Args:
        records: The table.
        options: What its columns mean.
        store: Where the images lie.
        held: True if the table holds the images itself: row by row those of the store.
        stem, record: As for `Source`.
        least_classes: How many classes there must be.

    Raises:
        DataError: The table does not say what is needed, or says two things of one image.
    """
    if not len(records):
        raise DataError(f"{records.path} has no rows below its first line.")
    there = ListedNames(store.names(), store.origin, records.spell)
    meaning = meaning_of(records, options, there.__contains__)
    reader = TableReader(records, meaning, options)
    if held:
        names = list(there)
        places = {name: [row] for row, name in enumerate(names)}
    else:
        names, places = reader.named(there)
    rows = [places[name][0] for name in names]
    task, class_names, labels, targets = reader.labels(names, places, least_classes)
    table = ImageTable(
        class_names,
        tuple(names),
        labels,
        reader.splits(names, places),
        np.zeros((len(names), 32), np.uint8),
        np.zeros(len(names), np.int64),
        np.zeros(len(names), np.int64),
        reader.groups(names, places),
        task=task,
        targets=targets,
        weights=reader.weights(names, places),
    )
    wholes = [whole_name(name) for name in names] if records.boxes else names
    missing = [] if held else [(name, row) for name, row in zip(wholes, rows, strict=True) if name not in there]
    named = set(wholes)
    unnamed = [] if held else [name for name in there if name not in named and is_image_name(name)]
    return Source(
        name=str(records.path),
        stem=stem,
        store=BoxStore(store) if records.boxes else store,
        table=table,
        are_images=np.array([held or is_image_name(name) for name in names], bool),
        record=record,
        said=bool(meaning.split) and bool((table.splits != SPLITS.index("train")).any()),
        grouped=bool(table.groups),
        other=dict.fromkeys(unnamed, f"no row of {records.path.name} names it"),
        notes=tuple(_notes(records, meaning, store, missing, unnamed, len(names))),
    )


def open_table_store(path: Path, options: SourceOptions, open_images: Callable[[Path], Store]) -> Store:
    """Where the images lie that a table names, or holds; parameters and errors as `table_source`."""
    return _store_of(read_table(path), options, open_images)


def _store_of(records: Records, options: SourceOptions, open_images: Callable[[Path], Store]) -> Store:
    if records.images and not options.images:
        return ParquetStore.of(records.path, records.images, options.path)
    return open_images(Path(options.images) if options.images else records.path.absolute().parent)


def _notes(
    records: Records, meaning: Meaning, store: Store, missing: list[tuple[str, int]], unnamed: list[str], names: int
) -> list[str]:
    notes = list(records.notes)
    if meaning.guessed:
        notes.append(f"of the columns of {records.path}, {' and '.join(meaning.guessed)}.")
    if missing:
        name, row = missing[0]
        if len(missing) == names:
            raise DataError(
                f"none of the {names} images that {records.path} names is in {store}, {name} of {records.places[row]} "
                f"for one. Say with {opt.images} where they lie, and with {opt.path} what names them."
            )
        notes.append(
            f"{len(missing)} of {names} images that {records.path} names are not in {store}, {name} of "
            f"{records.places[row]} for one; they are listed among the skipped."
        )
    if unnamed:
        notes.append(
            f"{len(unnamed)} image{'s' if len(unnamed) > 1 else ''} in {store} {'have' if len(unnamed) > 1 else 'has'} "
            f"no row in {records.path} and {'are' if len(unnamed) > 1 else 'is'} left out, {unnamed[0]} for one."
        )
    return notes


class ListedNames:
    """The names of the images that there are, and how a table may spell them."""

    def __init__(self, names: Iterable[str], root: str, spell: Callable[[str], Iterable[str]] = tuple) -> None:
        self._names, self._spell = dict.fromkeys(names), spell
        self._root = root.rstrip("/") + "/"
        tops = {name.partition("/")[0] for name in self._names}
        self._top = f"{tops.pop()}/" if len(tops) == 1 else ""  # the one folder that an archive often has

    def __contains__(self, name: object) -> bool:
        return self.found(str(name)) in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def found(self, name: str) -> str:
        """The name of the image that is meant, or the name itself if none is there."""
        if name in self._names:
            return name
        for spelled in itertools.chain(spellings(name), self._spell(name)):
            plain = PurePosixPath(spelled.removeprefix(self._root)).as_posix()
            for one in (plain, self._top + plain):
                if one in self._names:
                    return one
        return name


@dataclass(frozen=True)
class TableReader:
    """Reads the columns of a table, and says of which row and column it complains."""

    records: Records
    meaning: Meaning
    options: SourceOptions

    def complaint(self, row: int, column: str, found: object, needed: str) -> DataError:
        shown = str(found)[:60]
        return DataError(f"{self.records.path}, {self.records.places[row]}, column {column}: {shown!r}; {needed}.")

    def named(self, there: ListedNames) -> tuple[list[str], dict[str, list[int]]]:
        """Names of the images, each once, in their order, and the rows that name them."""
        places: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(self.meaning.names):
            if not name:
                raise self.complaint(row, self.meaning.path, name, "needed: the name of an image")
            plain = there.found(name)
            if plain not in there and _leads_out(plain):
                raise self.complaint(row, self.meaning.path, name, "needed: a name below the folder of the images")
            places[box_name(plain, self.records.boxes[row]) if self.records.boxes else plain].append(row)
        return list(places), places

    def one_each(self, what: str, column: str, names: Sequence[str], places: dict[str, list[int]]) -> list[str]:
        """One text per image; a file that is named twice must have the same in both rows."""
        values = texts(self.records.columns[column])
        found = []
        for name in names:
            rows = places[name]
            for row in rows[1:]:
                if values[row] != values[rows[0]]:
                    raise self._two(what, column, name, rows[0], row)
            found.append(values[rows[0]])
        return found

    def groups(self, names: Sequence[str], places: dict[str, list[int]]) -> tuple[str, ...]:
        """One each as the table says; boxes of one image belong together. None if nobody says."""
        if self.meaning.group:
            return tuple(self.one_each("group", self.meaning.group, names, places))
        return tuple(map(whole_name, names)) if self.records.boxes else ()

    def _two(self, what: str, column: str, name: str, first: int, second: int) -> DataError:
        one, other = texts(self.records.columns[column][row] for row in (first, second))
        several = f" If an image has several labels, give {opt.label_separator}." if what == "label" else ""
        return DataError(
            f"{self.records.path} gives {name} two {what}s in column {column}: {one!r} in "
            f"{self.records.places[first]}, {other!r} in {self.records.places[second]}. Needed: one.{several}"
        )

    def splits(self, names: Sequence[str], places: dict[str, list[int]]) -> np.ndarray:
        """(n,) uint8, positions in `SPLITS`; all train if the table says none."""
        column = self.meaning.split
        if column is None:
            return np.zeros(len(names), np.uint8)
        values = self.one_each("split", column, names, places)
        if wanted := (self.options.split or "").partition("=")[2]:
            tested = {value.strip() for value in wanted.split(",")}
            if absent := sorted(tested - set(values)):
                raise DataError(
                    f"{opt.split} is {self.options.split}, and no row has {', '.join(absent)} in column {column}; it "
                    f"has {described(sorted(set(values)), 10)}."
                )
            return np.array([SPLITS.index("test" if value in tested else "train") for value in values], np.uint8)
        for name, value in zip(names, values, strict=True):
            if value.lower() not in SPLIT_FOLDERS:
                first = sorted(set(values))
                raise self.complaint(
                    places[name][0], column, value,
                    f"needed: train, val or test; or say which rows are the test part, as in "
                    f"{opt.split(f'{column}={first[-1]}')}",
                )  # fmt: skip
        return np.array([SPLITS.index(SPLIT_FOLDERS[value.lower()]) for value in values], np.uint8)

    def weights(self, names: Sequence[str], places: dict[str, list[int]]) -> np.ndarray:
        """(n,) float64, above 0."""
        column = self.meaning.weight
        if column is None:
            return np.ones(len(names))
        values = self.one_each("weight", column, names, places)
        found = np.array(
            [self._number(places[name][0], column, value) for name, value in zip(names, values, strict=True)]
        )
        if (found <= 0).any():
            first = int(np.argmax(found <= 0))
            raise self.complaint(places[names[first]][0], column, values[first], "needed: a number above 0")
        return found

    def _number(self, row: int, column: str, value: str) -> float:
        text = value.replace(",", ".") if self.records.comma else value
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise self.complaint(row, column, value, "needed: a number")
        return found

    def labels(
        self, names: Sequence[str], places: dict[str, list[int]], least_classes: int
    ) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
        """Task, names of classes or labels, (n,) labels and (n, t) targets, as an `ImageTable` has them."""
        n, meaning = len(names), self.meaning
        if meaning.target:
            return self._numbers(names, places)
        if meaning.label is None:
            return NONE, (), np.full(n, -1, np.int32), np.zeros((n, 0))
        if meaning.label not in self.records.columns:
            return self._columns(names, places, [part.strip() for part in meaning.label.split(",")])
        several = any(isinstance(value, list) for value in self.records.columns[meaning.label][:100])
        if self.options.label_separator is not None or several:
            return self._several(names, places, meaning.label)
        return self._classes(names, places, meaning.label, least_classes)

    def _classes(
        self, names: Sequence[str], places: dict[str, list[int]], column: str, least: int
    ) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
        values = self.one_each("label", column, names, places)
        class_names = tuple(sorted(set(values) - {""}))
        if len(class_names) < least:
            found = f"only one class, {class_names[0]}" if class_names else "no label"
            raise DataError(f"{self.records.path} has {found} in column {column}; needed: two or more classes.")
        if len(class_names) > _MANY and all("." in name and _is_number(name) for name in class_names):
            raise DataError(
                f"column {column} of {self.records.path} holds {len(class_names)} different numbers, such as "
                f"{described(class_names)}. To predict the number, name the column by {opt.target}."
            )
        for one, other, by in names_alike(class_names):
            raise DataError(
                f"{self.records.path} has the classes {one!a} and {other!a} in column {column}, which differ "
                f"only by {by}. Spell them alike, or in names that differ."
            )
        number = {name: i for i, name in enumerate(class_names)} | {"": -1}
        labels = np.array([number[value] for value in values], np.int32)
        return CLASSES, class_names, labels, np.zeros((len(names), 0))

    def _numbers(
        self, names: Sequence[str], places: dict[str, list[int]]
    ) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
        column = self.meaning.target or ""
        values = self.one_each("number", column, names, places)
        found = np.array(
            [
                self._number(places[name][0], column, value) if value else math.nan
                for name, value in zip(names, values, strict=True)
            ]
        )
        return NUMBER, (column,), np.where(np.isnan(found), -1, 0).astype(np.int32), found[:, None]

    def _several(
        self, names: Sequence[str], places: dict[str, list[int]], column: str
    ) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
        """Several labels in one field; those of several rows of an image are put together."""
        values, separator = self.records.columns[column], self.options.label_separator

        def labels_of(row: int) -> list[str]:
            value = values[row]
            parts = value if isinstance(value, list) else (texts([value])[0].split(separator) if value else [])
            return [part for part in texts(parts) if part]

        found = [{label for row in places[name] for label in labels_of(row)} for name in names]
        class_names = tuple(sorted(set().union(*found)))
        if not class_names:
            raise DataError(f"{self.records.path} has no label in column {column}.")
        number = {name: i for i, name in enumerate(class_names)}
        targets = np.zeros((len(names), len(class_names)))
        for i, labels in enumerate(found):
            targets[i, [number[label] for label in labels]] = 1
        return LABELS, class_names, np.zeros(len(names), np.int32), targets

    def _columns(
        self, names: Sequence[str], places: dict[str, list[int]], columns: list[str]
    ) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
        """A column of 0 and 1 for each label."""
        known = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
        targets = np.zeros((len(names), len(columns)))
        for j, column in enumerate(columns):
            values = self.one_each("label", column, names, places)
            for i, value in enumerate(values):
                if value.lower() not in known:
                    raise self.complaint(places[names[i]][0], column, value, "needed: 0 or 1")
                targets[i, j] = known[value.lower()]
        order = np.argsort(columns)
        return LABELS, tuple(columns[i] for i in order), np.zeros(len(names), np.int32), targets[:, order]


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
