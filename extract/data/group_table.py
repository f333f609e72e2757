"""Reads the table that says which group each image belongs to: the columns path and group."""

from pathlib import Path

from onepass.extract.data.records import read_records, texts
from onepass.features.errors import DataError

_NEEDED = "path,group"


def read_table(path: Path) -> dict[str, str]:
    """Path, or name of a file, -> group. Other columns may stand beside these two; spaces around a group do not count.

    Raises:
        DataError: It cannot be read, is malformed, or gives one image two groups.
    """
    records = read_records(path, needed=_NEEDED)
    columns = {name.lower(): values for name, values in records.columns.items()}
    if not {"path", "group"} <= columns.keys():
        raise DataError(f"{path} has the columns {', '.join(columns)[:80]!r}; needed: {_NEEDED}.")
    found: dict[str, str] = {}
    for name, group in zip(map(str, columns["path"]), texts(columns["group"]), strict=True):
        if found.setdefault(name, group) != group:
            raise two_groups(str(path), name, found[name], group)
    return found


def two_groups(source: str, name: str, one: str, other: str) -> DataError:
    """The error for an image of which a source says two things."""
    return DataError(f"{source} gives {name} two groups, {one!r} and {other!r}. Needed: one.")
