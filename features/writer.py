"""Writing rows so that nothing committed is ever lost: bytes first, then the flag."""

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from features.errors import FeatureFileError
from features.file import FeatureFile
from features.layout import SKIP_REASON_BYTES, Extent, create_file
from features.spec import Spec
from features.table import ImageTable


def write_feature_file(
    path: Path, spec: Spec, table: ImageTable, provenance: dict[str, Any], *, old: FeatureFile | None = None
) -> None:
    """Puts a feature file at `path` that holds every row of `old` whose image is still wanted.

    The new file is complete before it takes the old one's name, so a crash leaves one or the other.

    Args:
        path: Where the file goes.
        spec: What its rows are computed with.
        table: Its images.
        provenance: JSON-able facts on where it came from.
        old: The file now at `path`, of an equal spec, whose rows are taken over by content.

    Raises:
        FeatureFileError: The file cannot be written; what stood at `path` is untouched.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with _disk_errors(path):
            create_file(beside, spec, table, provenance)
            if old is not None:
                with RowWriter(beside) as writer:
                    _take_over_rows(old, table, writer)
            beside.replace(path)
            _sync_folder(path.parent)
    except FeatureFileError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


class RowWriter:
    """Writes rows into an existing feature file, straight to their place on disk.

    Args:
        path: A feature file; nobody else may write it meanwhile (see `writer_lock`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with FeatureFile(path) as file:
            self._extents = file._extents
        with _disk_errors(path):
            self._raw = open(path, "r+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def commit(self, positions: Iterable[int], rows: Iterable[np.ndarray]) -> None:
        """Stores rows durably: they reach the disk before the flags that vouch for them.

        Args:
            positions: Where the rows go.
            rows: As many arrays of (views, d) or, for one view, (d,) float32.

        Raises:
            FeatureFileError: The disk is full or fails. Rows committed before stay committed.
        """
        stored = list(positions)
        with _disk_errors(self.path):
            for position, row in zip(stored, rows, strict=True):
                data = np.ascontiguousarray(row, dtype="<f4").tobytes()
                self._put("rows", position, data)
                self._put("checksums", position, zlib.crc32(data).to_bytes(4, "little"))
            os.fsync(self._raw.fileno())
            for position in stored:
                self._put("committed", position, b"\x01")

    def skip(self, position: int, reason: str) -> None:
        """Records why an image has no row; an empty reason takes an older record back."""
        data = reason.encode()[:SKIP_REASON_BYTES].decode(errors="ignore").encode()
        with _disk_errors(self.path):
            self._put("skip_reasons", position, data.ljust(SKIP_REASON_BYTES, b"\0"))

    def _put(self, name: str, position: int, data: bytes) -> None:
        extent: Extent = self._extents[name]
        step = extent.size // extent.shape[0]
        if len(data) != step:
            raise ValueError(f"{name}[{position}] takes {step} bytes, got {len(data)}")
        written = os.pwrite(self._raw.fileno(), data, extent.offset + position * step)
        if written != step:
            raise OSError(28, "no space left on the device")


def _take_over_rows(old: FeatureFile, table: ImageTable, writer: RowWriter) -> None:
    """Copies intact rows by content, 32 MB at a time, so memory does not grow with the file."""
    place = {old.table.content_hashes[i].tobytes(): int(i) for i in np.flatnonzero(old.committed)}
    contents = [content.tobytes() for content in table.content_hashes]
    place.pop(bytes(32), None)  # of files that could not be read: no content, no row
    pairs = [(new, place[content]) for new, content in enumerate(contents) if content in place]
    batch = max(1, 2**25 // (4 * old.spec.width))
    for start in range(0, len(pairs), batch):
        targets, sources = np.array(pairs[start : start + batch]).T
        intact = ~old.damaged(sources)
        writer.commit(targets[intact].tolist(), old.rows[sources[intact]])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        raise FeatureFileError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}. Everything committed before is kept; "
            "free disk space or choose another place with --out, then run the same command again."
        ) from None
