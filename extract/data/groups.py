"""Which group each image belongs to: by a table that the user gives, by its path, or as it was before."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.extract.data.group_table import read_table, two_groups
from onepass.features import ImageTable
from onepass.features.errors import DataError, OptionError, opt
from onepass.features.groups import NO_CONTENT
from onepass.features.names import spellings

Groups = str | Path | Mapping[str, str]
"""A CSV file with the columns path and group, or the same as a mapping."""

SHOWN = 3
"""Images that a message names."""


@dataclass(frozen=True)
class GroupRule:
    """How images come by their groups; one of `table` and `pattern` is given.

    Attributes:
        name: What gives the groups, for messages.
        table: Path, or name of a file, -> group.
        file: The CSV file of the table; None if it came as a mapping.
        pattern: Searched in the path; what its first pair of parentheses finds is the group.
    """

    name: str
    table: Mapping[str, str] | None = None
    file: Path | None = None
    pattern: re.Pattern[str] | None = None

    @classmethod
    def of(cls, groups: Groups | None, pattern: str | None) -> "GroupRule | None":
        """Reads what the user gave; None if that is nothing.

        Raises:
            OptionError: Both are given, or the pattern is none.
            DataError: The table cannot be read.
        """
        if groups is not None and pattern is not None:
            raise OptionError(f"{opt.groups} and {opt.group_pattern} were both given; needed: one of them.")
        if pattern is not None:
            return cls(f"{opt.group_pattern} '{pattern}'", pattern=_compiled(pattern))
        if isinstance(groups, (str, Path)):
            file = Path(groups)
            return cls(str(file), table=read_table(file), file=file.resolve())
        if groups is not None:
            return cls("groups", table={os.fspath(path): str(group).strip() for path, group in groups.items()})
        return None

    def record(self) -> dict[str, str | None]:
        """Where the groups come from, for the provenance of a feature file."""
        return {
            "group_file": str(self.file) if self.file else None,
            "group_pattern": self.pattern.pattern if self.pattern else None,
        }

    def assign(self, where: str, paths: Sequence[str], needed: Sequence[bool]) -> tuple[str, ...]:
        """The group of each image.

        Args:
            where: What paths are relative to, for messages.
            paths: n paths of images.
            needed: n, True for those that must have a group; the others may have one.

        Raises:
            DataError: An image has no group or two, or the table names what is not there.
        """
        found = self._by_table(where, paths) if self.table is not None else self._by_pattern(paths)
        missing = [path for path, must in zip(paths, needed, strict=True) if must and path not in found]
        if missing and self.pattern:
            raise DataError(
                f"{self.name} finds no group in {_some(missing, 'image')} (of {len(paths)} files). Widen the "
                f"pattern, or give a table with {opt.groups}."
            )
        if missing:
            raise DataError(
                f"{self.name} gives no group to {_some(missing, 'image')} (of {len(paths)} files). Add a line for "
                "each; an empty group makes an image a group of its own."
            )
        return tuple(found.get(path, "") for path in paths)

    def _by_pattern(self, paths: Sequence[str]) -> dict[str, str]:
        assert self.pattern
        matches = ((path, self.pattern.search(path)) for path in paths)
        return {path: match[1] for path, match in matches if match and match[1]}

    def _by_table(self, where: str, paths: Sequence[str]) -> dict[str, str]:
        assert self.table is not None
        there, named = set(paths), defaultdict(list)
        for path in paths:
            named[path.rpartition("/")[2]].append(path)
        found: dict[str, str] = {}
        unknown = []
        for name, group in self.table.items():
            candidates = ([one] if one in there else named.get(one, []) for one in spellings(name))
            matching = next(filter(None, candidates), [])
            if len(matching) > 1:
                raise DataError(
                    f"{self.name} names {name}, which is {_some(matching, 'file')}. Needed: the path from {where} on, "
                    f"such as {matching[0]}."
                )
            if not matching:
                unknown.append(name)
            elif found.setdefault(matching[0], group) != group:
                raise two_groups(self.name, matching[0], found[matching[0]], group)
        if unknown:
            raise DataError(
                f"{self.name} names {_some(unknown, 'file')}, not to be found in {where}. Needed: paths from there on, "
                f"such as {paths[0]}, or names of files that occur once. Correct or remove these lines."
            )
        return found


def keep_groups(known: ImageTable, paths: Sequence[str], hashes: np.ndarray, needed: Sequence[bool]) -> tuple[str, ...]:
    """The groups that images had before, told by content, else by path.

    Args:
        known: Table of an earlier scan.
        paths: n paths of images.
        hashes: (n, 32) uint8, their content hashes.
        needed: n, True for those that must have a group if any image of `known` has one.

    Raises:
        DataError: An image is new, so that nobody knows its group.
    """
    if not any(known.groups):
        return ("",) * len(paths)
    contents = [content.tobytes() for content in known.content_hashes]
    by_both = dict(zip(zip(known.paths, contents, strict=True), known.groups, strict=True))
    by_content = dict(zip(contents, known.groups, strict=True))
    by_content.pop(NO_CONTENT, None)
    by_path = dict(zip(known.paths, known.groups, strict=True))
    found: list[str] = []
    missing: list[str] = []
    for path, row, must in zip(paths, hashes, needed, strict=True):
        content = row.tobytes()
        group = by_both.get((path, content), by_content.get(content, by_path.get(path)))
        if group is None and must:
            missing.append(path)
        found.append(group or "")
    if missing:
        raise DataError(
            f"the images of the feature file have groups, and nobody says that of {_some(missing, 'image')}. Give the "
            f"groups again, with {opt.groups} or {opt.group_pattern}."
        )
    return tuple(found)


def _compiled(pattern: str) -> re.Pattern[str]:
    needed = r"needed: a regular expression with the group in parentheses, such as '(patient\d+)_'."
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionError(f"{opt.group_pattern} is '{pattern}' ({error}); {needed}") from None
    if not compiled.groups:
        raise OptionError(f"{opt.group_pattern} is '{pattern}', without parentheses; {needed}")
    return compiled


def _some(names: Sequence[str], what: str) -> str:
    """One name, or how many there are with the first few."""
    return names[0] if len(names) == 1 else f"{len(names)} {what}s, such as {', '.join(names[:SHOWN])}"
