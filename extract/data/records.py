"""Reads plain tables that say something of images: CSV and its kin, JSON lines, Parquet; columns of plain values."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onepass.extract.data.listed import decoded_text
from onepass.extract.pixels.crops import Box
from onepass.features.errors import DataError
from onepass.features.names import from_windows

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".xml")
"""Of the files that are read as tables."""

_ROWS_A_BYTE = 64
"""Rows that a Parquet file may declare for each of its bytes."""
_AT_ONCE = 256
"""Rows that are taken from a Parquet file at once."""
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Records:
    """A table, column by column.

    Attributes:
        path: The file.
        columns: Name -> n values: texts, numbers, lists of these, or None; without those that hold image bytes.
        places: What to call each row in a message: `line 3`.
        images: Names of the columns that hold the bytes of images.
        comma: True if numbers may have a decimal comma.
        boxes: For each row the part of the image that is meant; empty if all rows mean whole images.
        usual: Option of `SourceOptions` -> the column that is meant if the user says none, where its kind says so.
        notes: What to tell of how it was read.
        spell: Other names by which an image may be there.
    """

    path: Path
    columns: dict[str, list[Any]]
    places: Sequence[str]
    images: tuple[str, ...] = ()
    comma: bool = False
    boxes: tuple[Box, ...] = ()
    usual: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spell: Callable[[str], Iterable[str]] = tuple

    def __len__(self) -> int:
        return len(self.places)


class _Places(Sequence[str]):
    """`line 2`, `line 3` ... without a text for each of a million rows."""

    def __init__(self, word: str, numbers: Sequence[int]) -> None:
        self._word, self._numbers = word, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return f"{self._word} {self._numbers[index]}"


def is_table(path: Path) -> bool:
    """True if a file is a table by its name."""
    return path.suffix.lower() in ENDINGS


def is_table_file(path: Path) -> bool:
    """True if a file, by its name a table, is there; or nothing is, which whoever opens it will say."""
    return is_table(path) and not os.path.isdir(path)  # noqa: PTH112 (which never raises)


def read_records(path: Path, *, needed: str = "") -> Records:
    """Reads a table by the ending of its name.

    CSV may have commas, semicolons, tabs or bars between fields, and be encoded as spreadsheets do it.

    Args:
        path: The file.
        needed: What a message says is needed, such as `path,group`; by default nothing of that kind.

    Raises:
        DataError: It cannot be read or is malformed; the message names the line.
    """
    ending, needed = path.suffix.lower(), f" Needed: {needed}." if needed else ""
    if ending == ".parquet":
        return parquet_records(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.{needed}") from None
    text = decoded_text(data)
    if ending in (".jsonl", ".ndjson", ".json"):
        return _json(path, text)
    return _separated(path, text, needed)


def _separated(path: Path, text: str, needed: str) -> Records:
    first, _, rest = text.partition("\n")
    said = first.strip().lower()
    separator = said[4:5] if said.startswith("sep=") else ""  # as a spreadsheet says it
    if separator:
        text = rest
        first = text.partition("\n")[0]
    separator = separator or max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    lines: list[int] = []
    try:
        names = [from_windows(name).strip() for name in next(reader, [])]
        columns: list[list[Any]] = [[] for _ in names]
        for fields in reader:
            if len(fields) != len(names):
                if not any(map(str.strip, fields)):
                    continue  # an empty line, or one of separators alone
                raise DataError(
                    f"{path}, line {reader.line_num}, has more or fewer fields than its first line.{needed} Quote what "
                    "contains a separator."
                )
            lines.append(reader.line_num)
            for column, field in zip(columns, fields, strict=True):
                column.append(field)
    except csv.Error as error:
        raise DataError(f"{path} is not CSV, line {reader.line_num}: {error}.{needed}") from None
    _require_names(path, names, needed)
    return Records(path, dict(zip(names, columns, strict=True)), _Places("line", lines), comma=separator != ",")


def _require_names(path: Path, names: Sequence[str], needed: str) -> None:
    if not any(names):
        raise DataError(f"{path} has no line that names its columns.{needed}")
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DataError(f"{path} has two columns {twice!r}; needed: one.")


def _json(path: Path, text: str) -> Records:
    def parsed(piece: str, line: int) -> Any:
        try:
            return json.loads(piece, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}, is not JSON: {error}.") from None

    if text.lstrip().startswith("["):
        rows = parsed(text, 1)
        numbered = list(enumerate(rows, 1))
        word = "entry"
    else:
        pieces = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        numbered = [(number, parsed(line, number)) for number, line in pieces]
        word = "line"
    names: dict[str, None] = {}
    for number, row in numbered:
        if not isinstance(row, dict):
            raise DataError(f"{path}, {word} {number}, is {str(row)[:40]!r}; needed: an object, name: value.")
        names.update(dict.fromkeys(row))
    columns = {name: [row.get(name) for _, row in numbered] for name in names}
    for name, values in columns.items():
        for (number, _), value in zip(numbered, values, strict=True):
            if not _is_plain(value):
                raise DataError(
                    f"{path}, {word} {number}, has {str(value)[:40]!r} as {name}; needed: a text, a number, or a list."
                )
    return Records(path, columns, _Places(word, [number for number, _ in numbered]))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str | int | float) for one in value)
    return value is None or isinstance(value, str | int | float)


def parquet_records(path: Path) -> Records:
    """Reads a Parquet file, whatever its name; the bytes of images in it stay where they are.

    Raises:
        DataError: It cannot be read.
    """
    file = open_parquet(path)
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_struct(kind):
            return "bytes" in [field.name for field in kind]
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    fields = [field for field in file.schema_arrow if not pa.types.is_fixed_size_binary(field.type)]
    images = tuple(field.name for field in fields if holds_bytes(field.type))
    others = [field.name for field in fields if field.name not in images]
    read = [*others, *(f"{name}.path" for name in images if pa.types.is_struct(file.schema_arrow.field(name).type))]
    columns: dict[str, list[Any]] = {name: [] for name in others}
    columns |= {name: [] for name in read if name not in others}
    seen: dict[Any, Any] = {}
    try:
        for batch in file.iter_batches(batch_size=_AT_ONCE, columns=read):
            for name, values in columns.items():
                if name in others:
                    found = batch.column(name).to_pylist()
                else:
                    found = [(one or {}).get("path") for one in batch.column(name.removesuffix(".path")).to_pylist()]
                # A small file may say the same megabyte a million times; here it is kept once.
                values += [seen.setdefault(one, one) if isinstance(one, str) else one for one in found]
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error)[:80]}.") from None
    return Records(path, columns, _Places("row", range(1, file.metadata.num_rows + 1)), images)


def open_parquet(path: Path) -> Any:
    """A Parquet file, opened by pyarrow.

    Raises:
        DataError: pyarrow is not installed, or it is no Parquet file.
    """
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise DataError(
            f'{path} is Parquet, which needs pyarrow. Run: pip install "onepass[parquet]". Or save the table as CSV.'
        ) from None
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error)[:80]}.") from None
    if file.metadata.num_rows > _ROWS_A_BYTE * path.stat().st_size:
        raise DataError(f"{path} declares {file.metadata.num_rows} rows, far more than it can hold. It is damaged.")
    return file


def texts(values: Iterable[Any]) -> list[str]:
    """Values as texts: None is empty, whole numbers have no point, bytes that are no UTF-8 are of code page 1252."""
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return from_windows(value).strip()
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
