"""Repairs the image table of a damaged feature file with what the image folders, and its own checksums, tell."""

import contextlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from onepass.extract.data.groups import GroupRule
from onepass.extract.data.source import Scan
from onepass.features import SPLITS, FeatureFile, ImageTable
from onepass.features.errors import DataError, OptionError, opt
from onepass.features.integrity import Integrity
from onepass.features.layout import entry_checksums, entry_columns, fixed_width, table_arrays
from onepass.features.table import ARRAYS


def repaired_table(file: FeatureFile, integrity: Integrity, scan: Scan) -> ImageTable:
    """The file's table with damaged entries, and class names, as the image folders have them.

    A damaged entry is told by its path or, if that is what was hit, by its content; one that neither
    tells, or whose group nothing tells, leaves the table. All other entries stay as they are.

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
    repaired = {}
    for i in bad:
        found = free.get(table.paths[i], by_content.get(table.content_hashes[i].tobytes()))
        if found is not None and scan.table.class_names[scan.table.labels[found]] in names:
            repaired[i] = found
    columns: dict[str, Any] = {name: getattr(table, name).copy() for name in ARRAYS}
    paths = list(table.paths)
    for i, found in repaired.items():
        paths[i] = scan.table.paths[found]
        for name in ARRAYS:
            columns[name][i] = getattr(scan.table, name)[found]
        columns["labels"][i] = names.index(scan.table.class_names[scan.table.labels[found]])
    whole = replace(table, class_names=tuple(names), paths=tuple(paths), **columns)
    whole, told = _with_groups(file, whole, scan, intact, repaired)
    return whole.taken(np.array([i for i in range(len(table)) if i not in bad or i in told]))


def _with_groups(
    file: FeatureFile, table: ImageTable, scan: Scan, intact: list[int], repaired: dict[int, int]
) -> tuple[ImageTable, set[int]]:
    """The table with the group and the split that each repaired entry had, and the entries of which that is known.

    The entry's own checksum tells them: of all groups of the file and all splits, those that give it again. Else
    the user's rule tells the group, and a split that was drawn is that of the group, or as it stands.

    Args:
        file: The damaged file.
        table: Its table, repaired but for this; the splits of repaired entries are the folder's.
        scan: Of the folders.
        intact: Positions of entries that were not damaged.
        repaired: Position in the table -> position in the scan.
    """
    groups, splits = list(table.groups), table.splits.copy()
    by_rule, stood = _by_rule(file, scan), file.stored("splits")
    side = {groups[i]: splits[i] for i in intact if groups[i]}
    known = dict.fromkeys(["", *(groups[i] for i in intact)])
    told = set()
    for i, found in repaired.items():
        ruled = by_rule.get(scan.table.paths[found], None if side else "")
        candidates = dict.fromkeys([groups[i] if ruled is None else ruled, groups[i], *known])
        if proven := _told_by_checksum(file, table, i, list(candidates)):
            groups[i], splits[i] = proven
        elif ruled is not None:
            groups[i] = ruled
            if scan.drawn and stood[i] < len(SPLITS):
                splits[i] = side.get(ruled, stood[i])
        else:
            continue
        told.add(i)
    return replace(table, groups=tuple(groups), splits=splits), told


def _by_rule(file: FeatureFile, scan: Scan) -> dict[str, str]:
    """Path -> group, by the pattern or the table that gave the file its groups; empty if that is gone."""
    with contextlib.suppress(DataError, OptionError):
        if rule := GroupRule.of(file.provenance.get("group_file"), file.provenance.get("group_pattern")):
            assigned = rule.assign(str(scan.store), scan.table.paths, [False] * len(scan.table))
            return dict(zip(scan.table.paths, assigned, strict=True))
    return {}


def _told_by_checksum(file: FeatureFile, table: ImageTable, i: int, groups: list[str]) -> tuple[str, int] | None:
    """The group and the split with which an entry has the checksum that the file says, up to one bit of that itself."""
    width = file.stored("groups").dtype
    possible = [group for group in groups if fixed_width((group,)).itemsize <= width.itemsize]
    pairs = [(group, split) for group in possible for split in range(len(SPLITS))]
    entry = {"weights": table.weights[[i]]} if "weights" in file.extents else {}
    entry |= table_arrays(table.taken(np.array([i])), file.golden_rows)
    columns = {name: np.repeat(entry[name], len(pairs), axis=0) for name in entry_columns(entry)}
    columns["paths"] = columns["paths"].astype(file.stored("paths").dtype)
    columns["splits"] = np.array([split for _, split in pairs], np.uint8)
    columns["groups"] = fixed_width([group for group, _ in pairs]).astype(width)
    matching = np.flatnonzero(np.bitwise_count(entry_checksums(columns) ^ file.stored("entry_checksums")[i]) <= 1)
    return pairs[matching[0]] if len(matching) else None


def _class_names(table: ImageTable, intact: list[int], scan: Scan, there: dict[str, int]) -> list[str]:
    """Names of the classes: the class folder in which most images of each label lie.

    Raises:
        DataError: No image of a label is there to tell.
    """
    votes: list[Counter[str]] = [Counter() for _ in table.class_names]
    for i in intact:
        if table.paths[i] in there:
            votes[table.labels[i]][scan.table.class_names[scan.table.labels[there[table.paths[i]]]]] += 1
    for name, found in zip(table.class_names, votes, strict=True):
        if not found:
            raise DataError(
                f"the class names are damaged, and no image of {name!r} is in {scan.store} to tell its name. Say with "
                f"{opt.data} where the images lie now."
            )
    return [found.most_common(1)[0][0] for found in votes]
