"""Reads the table that says which group each image belongs to: a CSV file with the columns path and group."""

import csv
from pathlib import Path
from typing import Any

from onepass.features.errors import DataError


def read_table(path: Path) -> dict[str, str]:
    """Path, or name of a file, -> group. Other columns may stand beside these two; spaces around a group do not count.

    Raises:
        DataError: It cannot be read, is malformed, or gives one image two groups.
    """
    try:
        # Decoded as file names are, so that those that are not UTF-8 can be named.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if not {"path", "group"} <= set(columns):
                raise DataError(f"{path} has the columns {', '.join(columns)[:80]!r}; needed: path,group.")
            return _pairs(path, reader)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Needed: a CSV file, path,group.") from None
    except csv.Error as error:
        raise DataError(f"{path} is not CSV, line {reader.reader.line_num}: {error}. Needed: path,group.") from None


def _pairs(path: Path, reader: "csv.DictReader[str]") -> dict[str, str]:
    found: dict[str, str] = {}
    for line in reader:
        fields: dict[Any, Any] = line
        if None in fields or None in fields.values():
            raise DataError(
                f"{path}, line {reader.line_num}, has more or fewer fields than its first line. Needed: "
                f"{','.join(reader.fieldnames or [])}; quote what contains a comma."
            )
        name, group = line["path"], line["group"].strip()
        if found.setdefault(name, group) != group:
            raise two_groups(str(path), name, found[name], group)
    return found


def two_groups(source: str, name: str, one: str, other: str) -> DataError:
    """The error for an image of which a source says two things."""
    return DataError(f"{source} gives {name} two groups, {one!r} and {other!r}. Needed: one.")
