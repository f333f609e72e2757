"""Reads the table that says which group each image belongs to: a CSV file with the columns path and group."""

import csv
import io
from pathlib import Path
from typing import Any

from onepass.extract.data.listed import decoded_text
from onepass.features.errors import DataError
from onepass.features.names import from_windows

_SEPARATORS = ",;\t"


def read_table(path: Path) -> dict[str, str]:
    """Path, or name of a file, -> group. Other columns may stand beside these two; spaces around a group do not count.

    Fields may be separated by commas, semicolons or tabs, and the text encoded as spreadsheets do it.

    Raises:
        DataError: It cannot be read, is malformed, or gives one image two groups.
    """
    try:
        text = decoded_text(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Needed: a CSV file, path,group.") from None
    first = text.splitlines()[0] if text.strip() else ""
    separator = next((one for one in _SEPARATORS if {"path", "group"} <= _columns(first, one)), None)
    if separator is None:
        columns = ", ".join(next(csv.reader([first]), []))[:80]
        raise DataError(f"{path} has the columns {columns!r}; needed: path,group.")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    try:
        return _pairs(path, reader)
    except csv.Error as error:
        raise DataError(f"{path} is not CSV, line {reader.reader.line_num}: {error}. Needed: path,group.") from None


def _columns(line: str, separator: str) -> set[str]:
    return {name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])}


def _pairs(path: Path, reader: "csv.DictReader[str]") -> dict[str, str]:
    found: dict[str, str] = {}
    for line in reader:
        fields: dict[Any, Any] = line
        if None in fields or None in fields.values():
            raise DataError(
                f"{path}, line {reader.line_num}, has more or fewer fields than its first line. Needed: "
                f"{','.join(reader.fieldnames or [])}; quote what contains a comma."
            )
        name, group = line["path"], from_windows(line["group"]).strip()
        if found.setdefault(name, group) != group:
            raise two_groups(str(path), name, found[name], group)
    return found


def two_groups(source: str, name: str, one: str, other: str) -> DataError:
    """The error for an image of which a source says two things."""
    return DataError(f"{source} gives {name} two groups, {one!r} and {other!r}. Needed: one.")
