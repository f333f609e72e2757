"""Images that lie in a column of a Parquet file, as data sets are shared: bytes, or bytes with a path."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from onepass.extract.data.records import open_parquet, parquet_records
from onepass.extract.data.stores import HeldImage, Stamp
from onepass.features.errors import DataError, UnreadableImageError, opt, reason_of
from onepass.features.limits import require_declared

_KEPT = 4
"""Row groups that are kept in memory."""
_AT_ONCE = 8
"""Rows that are taken from the file at once."""


@dataclass(eq=False)
class ParquetStore:
    """Images in a column of a Parquet file; one is called by its path, or by its row where paths are not told apart.

    Attributes:
        path: The file.
        column: That holds the images.
        known_as: How it is called and opened again, if it is a copy of something else.
    """

    path: Path
    column: str
    known_as: str = ""
    _file: Any = field(repr=False, default=None)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _groups: OrderedDict[int, list[Any]] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def of(cls, path: Path, images: Sequence[str], wanted: str | None = None) -> Self:
        """The store of a file.

        Args:
            path: The file.
            images: Columns that hold images.
            wanted: The column that the user names.

        Raises:
            DataError: Several columns hold images, and none is named.
        """
        if wanted is not None and wanted not in images:
            raise DataError(f"{opt.path} is {wanted}, which holds no images in {path}; {', '.join(images)} does.")
        if wanted is None and len(images) > 1:
            raise DataError(f"{path} holds images in {', '.join(images)}. Say by {opt.path} which are meant.")
        return cls(path, wanted or images[0])

    def __post_init__(self) -> None:
        if self._file is None:
            self._file = open_parquet(self.path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._rows = {name: row for row, name in enumerate(self._names())}

    @property
    def origin(self) -> str:
        return self.known_as or str(self.path.resolve())

    def __str__(self) -> str:
        return self.known_as or str(self.path)

    def names(self) -> Iterator[str]:
        return iter(self._rows)

    def file(self, name: str) -> HeldImage:
        return HeldImage(self, name)

    def stamp(self, name: str) -> Stamp:  # noqa: ARG002 (all have that of their file)
        status = self.path.stat()
        return Stamp(status.st_size, status.st_mtime_ns)

    def read(self, name: str) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImageError: With the reason.
        """
        row = self._rows.get(name)
        if row is None:
            raise UnreadableImageError("no such row")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            try:
                if group not in self._groups:
                    self._groups[group] = self._cells(group)
                self._groups.move_to_end(group)
                while len(self._groups) > _KEPT:
                    self._groups.popitem(last=False)
                cell = self._groups[group][row - int(self._starts[group])]
            except (OSError, ValueError, LookupError, RuntimeError, MemoryError) as error:
                raise UnreadableImageError(f"damaged: {reason_of(error)[:80]}") from None
        data = _bytes_of(cell)
        if data is None:
            raise UnreadableImageError("no bytes in this row")
        return bytes(data)

    def _cells(self, group: int) -> list[Any]:
        """The cells of a row group, as they stand in the file.

        Raises:
            ValueError: They are far more than the file: it says one image many times.
        """
        cells: list[Any] = []
        held, size = 0, self.path.stat().st_size
        for batch in self._file.iter_batches(batch_size=_AT_ONCE, row_groups=[group], columns=[self.column]):
            some = batch.column(0).to_pylist()
            held += sum(len(_bytes_of(cell) or b"") for cell in some)
            require_declared(held, size)
            cells += some
        return cells

    def _names(self) -> list[str]:
        """Paths if each is there and none twice, else the numbers of the rows."""
        rows = self._file.metadata.num_rows
        said = parquet_records(self.path).columns.get(f"{self.column}.path", [])
        paths = [str(path or "") for path in said]
        return paths if rows and all(paths) and len(set(paths)) == rows else [f"{row:08d}" for row in range(rows)]


def _bytes_of(cell: Any) -> Any:
    return cell.get("bytes") if isinstance(cell, dict) else cell
