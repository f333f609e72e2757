"""Repairs the image table of a damaged feature file with what the image folders, and its own checksums, tell."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from onepass.extract.data.groups import GroupRule
from onepass.extract.data.source import Scan
from onepass.extract.upkeep.label import labelled_again
from onepass.features import SPLITS, FeatureFile, ImageTable
from onepass.features.errors import DataError, OptionError, opt
from onepass.features.integrity import Integrity
from onepass.features.layout import entry_checksums, entry_columns, fixed_width, table_arrays
from onepass.features.table import ARRAYS
from onepass.features.tasks import CLASSES, LABELS


def repaired_table(file: FeatureFile, integrity: Integrity, scan: Scan) -> ImageTable:
    """The file's table with damaged entries, and class names, as the image folders have them.

    A damaged entry is told by its path or, if that is what was hit, by its content; one that neither
    tells, or whose group nothing tells, leaves the table. So does one whose label came from `onepass label`, which the
    source does not know, unless its own checksum tells that it is the label that stands there, that of the table that
    `label` read, or one that a single damaged byte has made of it. All other entries stay as they are.

    Raises:
        DataError: The folders are not those of the file.
    """
    table, bad = file.unchecked_table(), {found.position for found in integrity.damage if found.part == "entry"}
    there = {path: i for i, path in enumerate(scan.table.paths)}
    intact = [i for i in range(len(table)) if i not in bad]
    if not any(table.paths[i] in there for i in intact):
        raise DataError(
            f"none of the images of {file.path} is in {scan.store}. Say with {opt.data} where they lie now, or "
            f"{opt.drop} what is damaged."
        )
    names = list(table.class_names)
    if any(found.part == "class names" for found in integrity.damage):
        names = _class_names(table, intact, scan, there)
    taken = {table.paths[i] for i in intact}
    free = {path: i for path, i in there.items() if path not in taken}
    by_content = {scan.table.content_hashes[i].tobytes(): i for i in free.values()}
    relabelled, repaired = bool(file.provenance.get("relabelled")), {}
    for i in bad:
        found = free.get(table.paths[i], by_content.get(table.content_hashes[i].tobytes()))
        if found is not None and (relabelled or _label(names, scan, found) is not None):
            repaired[i] = found
    kept = ("labels", "targets", "weights") if relabelled else ()
    columns: dict[str, Any] = {name: getattr(table, name).copy() for name in ARRAYS}
    paths = list(table.paths)
    for i, found in repaired.items():
        paths[i] = scan.table.paths[found]
        for name in ARRAYS:
            if name not in kept:
                columns[name][i] = getattr(scan.table, name)[found]
        if not relabelled:
            columns["labels"][i] = _label(names, scan, found)
    whole = replace(table, class_names=tuple(names), paths=tuple(paths), **columns)
    again = _again(file, whole, scan) if relabelled else None
    whole, told = _with_groups(file, whole, scan, intact, repaired, again)
    return whole.taken(np.array([i for i in range(len(table)) if i not in bad or i in told]))


def _again(file: FeatureFile, table: ImageTable, scan: Scan) -> ImageTable | None:
    """The table with the labels that `onepass label` read, which count for what they say; None if that is gone."""
    there = {path: i for i, path in enumerate(scan.table.paths)}
    found = np.array([there.get(path, -1) for path in table.paths], np.int64)
    base = replace(scan.table.taken(np.maximum(found, 0)), paths=table.paths)
    labels, targets = base.labels.copy(), base.targets.copy()
    labels[found < 0], targets[found < 0] = -1, np.nan
    again = labelled_again(file, replace(base, labels=labels, targets=targets))
    if again is None or again.task != table.task or not set(again.class_names) <= set(table.class_names):
        return None
    number = np.array([table.class_names.index(name) for name in again.class_names], np.int64)
    if again.task == CLASSES:
        labels = np.where(again.labels >= 0, number[np.maximum(again.labels, 0)], -1).astype(np.int32)
        return replace(again, class_names=table.class_names, labels=labels)
    targets = np.zeros((len(table), len(table.class_names)))
    targets[:, number] = again.targets
    return replace(again, class_names=table.class_names, targets=targets)


class _Value(NamedTuple):
    """What an image is labelled with: position of a class, (t,) targets, and how much it counts."""

    label: int
    targets: np.ndarray
    weight: float

    @classmethod
    def at(cls, table: ImageTable, i: int) -> "_Value":
        return cls(int(table.labels[i]), table.targets[i], float(table.weights[i]))

    def equals(self, other: "_Value") -> bool:
        return (self.label, self.weight) == (other.label, other.weight) and np.array_equal(
            self.targets, other.targets, equal_nan=True
        )


def _values_near(table: ImageTable, i: int) -> Iterator[_Value]:
    """What may have been the label and weight of an entry, of which damage has changed one byte."""
    value = _Value.at(table, i)
    if table.task == CLASSES:
        for label in range(-1, len(table.class_names)):
            yield value._replace(label=label)
    elif table.task == LABELS:
        for j, known in itertools.product(range(len(value.targets)), (0.0, 1.0)):
            yield _with_targets(value, np.where(np.arange(len(value.targets)) == j, known, value.targets))
    else:
        for number in _one_byte_changed(value.targets[:1]):
            yield _with_targets(value, number)
    yield _with_targets(value, value.targets)
    yield _with_targets(value, np.full_like(value.targets, np.nan))
    if table.weighted:
        for weight in _one_byte_changed(np.array([value.weight])):
            yield value._replace(weight=float(weight[0]))


def _with_targets(value: _Value, targets: np.ndarray) -> _Value:
    """A value of another task than classes, where the label says only whether there is one."""
    return value._replace(targets=targets, label=0 if np.isfinite(targets).all() else -1)


def _one_byte_changed(number: np.ndarray) -> Iterator[np.ndarray]:
    """Every (1,) float64 that differs from one in one byte."""
    data = number.astype("<f8").tobytes()
    for at, byte in itertools.product(range(8), range(256)):
        yield np.frombuffer(data[:at] + bytes([byte]) + data[at + 1 :], "<f8")


def _with_groups(
    file: FeatureFile,
    table: ImageTable,
    scan: Scan,
    intact: list[int],
    repaired: dict[int, int],
    again: ImageTable | None,
) -> tuple[ImageTable, set[int]]:
    """The table with the group, split and label that each repaired entry had, and the entries of which they are known.

    The entry's own checksum tells them: of all groups of the file and all splits, those that give it again. Else
    the user's rule tells the group, and a split that was drawn is that of the group, or as it stands.

    Args:
        file: The damaged file.
        table: Its table, repaired but for this; the splits of repaired entries are the folder's.
        scan: Of the folders.
        intact: Positions of entries that were not damaged.
        repaired: Position in the table -> position in the scan.
        again: The table with the labels that `onepass label` once read, if it can still read them.
    """
    groups, splits, relabelled = list(table.groups), table.splits.copy(), bool(file.provenance.get("relabelled"))
    labels, targets, weights = table.labels.copy(), table.targets.copy(), table.weights.copy()
    by_rule, stood = _by_rule(file, scan), file.stored("splits")
    side = {groups[i]: splits[i] for i in intact if groups[i]}
    known = dict.fromkeys(["", *(groups[i] for i in intact)])
    told = set()
    for i, found in repaired.items():
        ruled = by_rule.get(scan.table.paths[found], None if side else "")
        candidates = list(dict.fromkeys([groups[i] if ruled is None else ruled, groups[i], *known]))
        stands = _Value.at(table, i)
        values = [stands, *([_Value.at(again, i)] if again else [])]
        proven = _told_by_checksum(file, table, i, candidates, values)
        if relabelled and not proven:
            proven = _told_by_checksum(file, table, i, candidates[:2], list(_values_near(table, i)))
        if proven:
            groups[i], splits[i], (labels[i], targets[i], weights[i]) = proven
        elif relabelled and not (again and stands.equals(_Value.at(again, i))):
            continue
        elif ruled is not None:
            groups[i] = ruled
            if scan.drawn and stood[i] < len(SPLITS):
                splits[i] = side.get(ruled, stood[i])
        else:
            continue
        told.add(i)
    whole = replace(table, groups=tuple(groups), splits=splits, labels=labels, targets=targets, weights=weights)
    return whole, told


def _by_rule(file: FeatureFile, scan: Scan) -> dict[str, str]:
    """Path -> group, by the pattern or the table that gave the file its groups; empty if that is gone."""
    with contextlib.suppress(DataError, OptionError):
        if rule := GroupRule.of(file.provenance.get("group_file"), file.provenance.get("group_pattern")):
            assigned = rule.assign(str(scan.store), scan.table.paths, [False] * len(scan.table))
            return dict(zip(scan.table.paths, assigned, strict=True))
    return {}


def _label(names: list[str], scan: Scan, found: int) -> int | None:
    """The label of an image of the source, as a position in the file's names; -1 without one, None if there is none."""
    label = int(scan.table.labels[found])
    if label < 0:
        return -1
    name = scan.table.class_names[label]
    return names.index(name) if name in names else None


def _told_by_checksum(
    file: FeatureFile, table: ImageTable, i: int, groups: list[str], values: Sequence[_Value]
) -> tuple[str, int, _Value] | None:
    """Group, split and label with which an entry has the checksum that the file says, up to one bit of that itself."""
    width = file.stored("groups").dtype
    possible = [group for group in groups if fixed_width((group,)).itemsize <= width.itemsize]
    triples = list(itertools.product(possible, range(len(SPLITS)), values))
    if not triples:
        return None
    entry = {"weights": table.weights[[i]]} if "weights" in file.extents else {}
    entry |= table_arrays(table.taken(np.array([i])), file.golden_rows)
    columns = {name: np.repeat(entry[name], len(triples), axis=0) for name in entry_columns(entry)}
    columns["paths"] = columns["paths"].astype(file.stored("paths").dtype)
    columns["splits"] = np.array([split for _, split, _ in triples], np.uint8)
    columns["labels"] = np.array([value.label for _, _, value in triples], "<i4")
    columns["groups"] = fixed_width([group for group, _, _ in triples]).astype(width)
    if "targets" in columns:
        columns["targets"] = np.array([value.targets for _, _, value in triples], "<f8")
    if "weights" in columns:
        columns["weights"] = np.array([value.weight for _, _, value in triples], "<f8")
    matching = np.flatnonzero(np.bitwise_count(entry_checksums(columns) ^ file.stored("entry_checksums")[i]) <= 1)
    return triples[matching[0]] if len(matching) else None


def _class_names(table: ImageTable, intact: list[int], scan: Scan, there: dict[str, int]) -> list[str]:
    """Names of the classes: the class folder in which most images of each label lie.

    Raises:
        DataError: No image of a label is there to tell.
    """
    votes: list[Counter[str]] = [Counter() for _ in table.class_names]
    for i in intact:
        if table.paths[i] in there and min(table.labels[i], scan.table.labels[there[table.paths[i]]]) >= 0:
            votes[table.labels[i]][scan.table.class_names[scan.table.labels[there[table.paths[i]]]]] += 1
    for name, found in zip(table.class_names, votes, strict=True):
        if not found:
            raise DataError(
                f"the class names are damaged, and no image of {name!r} is in {scan.store} to tell its name. Say with "
                f"{opt.data} where the images lie now."
            )
    return [found.most_common(1)[0][0] for found in votes]
