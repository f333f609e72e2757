"""Writing rows so that nothing committed is ever lost: bytes first, then the flag."""

import contextlib
import errno
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from onepass.features.atomic import replacing
from onepass.features.errors import FeatureFileError, RowRangeError, opt, reason_of
from onepass.features.file import FeatureFile
from onepass.features.layout import ROW_DTYPES, SKIP_REASON_BYTES, Extent, create_file, keeps_precision
from onepass.features.spec import Spec
from onepass.features.table import ImageTable

FLOAT16_MAX = 65504.0


def write_feature_file(
    path: Path,
    spec: Spec,
    table: ImageTable,
    provenance: dict[str, Any],
    golden: np.ndarray,
    *,
    views: int = 1,
    row_dtype: str | None = None,
    old: FeatureFile | None = None,
) -> None:
    """Puts a feature file at `path` that holds every row of `old` whose image is still wanted.

    The new file is complete before it takes the old one's name, so a crash leaves one or the other.

    Args:
        path: Where the file goes.
        spec: What its rows are computed with.
        table: Its images.
        provenance: JSON-able facts on where it came from.
        golden: (e, g, d) float32, rows of the built-in test images in e environments, e and g >= 1.
        views: Views per image.
        row_dtype: float32 or float16, what rows are stored as; by default as in `old`, else float32.
        old: The file now at `path`, of an equal spec, whose rows are taken over by content.

    Raises:
        FeatureFileError: The file cannot be written; what stood at `path` is untouched.
        RowRangeError: A row of `old` holds a number that float16 cannot; what stood at `path` is untouched.
    """
    row_dtype = row_dtype or (old.row_dtype if old else "float32")
    with _disk_errors(path), replacing(path) as beside:
        create_file(beside, spec, table, provenance, golden, views=views, row_dtype=row_dtype)
        if old is not None:
            with RowWriter(beside) as writer:
                writer.copy_rows(old)
                writer.copy_thumbnails(old)
                writer.copy_skips(old)


class RowWriter:
    """Writes rows into an existing feature file, straight to their place on disk.

    Args:
        path: A feature file; nobody else may write it meanwhile (see `writer_lock`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with FeatureFile(path) as file:
            self._extents, self._row_dtype = file.extents, file.row_dtype
            self._skipped = set(np.flatnonzero(file.stored("skip_reasons") != b"").tolist())
        with _disk_errors(path):
            self._raw = open(path, "r+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._raw:
            with _disk_errors(self.path):
                os.fsync(self._raw.fileno())  # the flags of the last batch, before anybody relies on them
            if kind is None:
                self._require_in_place()

    def commit(self, places: Iterable[tuple[int, int]], rows: Iterable[np.ndarray]) -> None:
        """Stores rows durably: they reach the disk before the flags that vouch for them.

        Args:
            places: (position, view) of each row.
            rows: As many arrays of (d,) float32.

        Raises:
            FeatureFileError: The disk is full or fails, or the file was replaced. Rows committed before stay committed.
            RowRangeError: A row holds a number that is not finite, or that the file's float16 cannot; none of these
                rows is stored.
        """
        self._require_in_place()
        stored = list(places)
        encoded = [self._encode(place, row) for place, row in zip(stored, rows, strict=True)]
        with _disk_errors(self.path):
            for place, data in zip(stored, encoded, strict=True):
                if place[0] in self._skipped:
                    self.clear_skip(place[0])
                self._put("rows", place, data)
                self._put("checksums", place, zlib.crc32(data).to_bytes(4, "little"))
            os.fsync(self._raw.fileno())
            for place in stored:
                self._put("committed", place, b"\x01")

    def put_thumbnail(self, position: int, thumbnail: np.ndarray) -> None:
        """Stores the (24, 24) uint8 thumbnail of an image; it counts once its checksum is there too."""
        data = np.ascontiguousarray(thumbnail, np.uint8).tobytes()
        with _disk_errors(self.path):
            self._put("thumbnails", (position,), data)
            self._put("thumbnail_checksums", (position,), zlib.crc32(data).to_bytes(4, "little"))

    def clear_thumbnail(self, position: int) -> None:
        """Takes a thumbnail back."""
        with _disk_errors(self.path):
            self._put("thumbnail_checksums", (position,), bytes(4))

    def put_copies(self, copies: np.ndarray) -> None:
        """Stores which images are copies of one another, (n,), for the rows and thumbnails that the file has now."""
        with FeatureFile(self.path) as file, _disk_errors(self.path):
            self._put("copies", (), copies.astype("<i4").tobytes())
            self._put("copies_sha256", (), file.copies_digest(copies))

    def _encode(self, place: tuple[int, int], row: np.ndarray) -> bytes:
        """The bytes of a row as the file stores it; for float16 each number is rounded to the nearest."""
        if not np.isfinite(row).all():
            raise RowRangeError(
                f"the row of {self._name(place)} holds numbers that are not finite, and no head can use it. Compute it "
                f"with {opt.precision('float32')}, or look at the weights of the backbone."
            )
        if self._row_dtype == "float16" and (largest := float(np.abs(row).max())) > FLOAT16_MAX:
            raise RowRangeError(
                f"the row of {self._name(place)} holds numbers of up to {largest:.6g}; float16 ends at "
                f"{FLOAT16_MAX:.0f}. Use {opt.row_dtype('float32')}.",
                largest=largest,
            )
        return np.ascontiguousarray(row, dtype=ROW_DTYPES[self._row_dtype]).tobytes()

    def _name(self, place: tuple[int, int]) -> str:
        with FeatureFile(self.path) as file:
            return file.unchecked_table().paths[place[0]]

    def withdraw(self, places: Iterable[tuple[int, int]]) -> None:
        """Takes the flags of rows back, so that they count as not computed."""
        with _disk_errors(self.path):
            for place in places:
                self._put("committed", place, b"\x00")
            os.fsync(self._raw.fileno())

    def skip(self, position: int, reason: str) -> None:
        """Records why an image has no row; the checksum of its plain view then vouches for the record."""
        data = reason.encode()[:SKIP_REASON_BYTES].decode(errors="ignore").encode()
        with _disk_errors(self.path):
            self._put("checksums", (position, 0), zlib.crc32(data).to_bytes(4, "little"))
            self._put("skip_reasons", (position,), data.ljust(SKIP_REASON_BYTES, b"\0"))
        self._skipped.add(position)

    def clear_skip(self, position: int) -> None:
        """Takes the record of a skipped image back."""
        with _disk_errors(self.path):
            self._put("skip_reasons", (position,), bytes(SKIP_REASON_BYTES))
        self._skipped.discard(position)

    def copy_rows(self, source: FeatureFile) -> None:
        """Takes over, by content, every intact row that this file lacks; `source` may be this file.

        The plain view is taken from any file of an equal spec, further views only from one of the same
        recipe. Rows of a float16 file have lost precision, so a float32 file takes none of them. 32 MB are held
        at a time, so memory does not grow with the file.
        """
        if not keeps_precision(source.row_dtype, self._row_dtype):
            return
        with FeatureFile(self.path) as target:
            contents, lacking = target.unchecked_table().content_hashes, ~target.flags
            views = min(target.views, source.views) if target.spec.views == source.spec.views else 1
        wanted: dict[bytes, list[int]] = defaultdict(list)
        for position in np.flatnonzero(lacking[:, :views].any(axis=1)).tolist():
            wanted[contents[position].tobytes()].append(position)
        wanted.pop(bytes(32), None)  # of files that could not be read: no content, no row
        hashes = source.unchecked_table().content_hashes
        useful = source.flags[:, :views].any(axis=1) & [content.tobytes() in wanted for content in hashes]
        for some in source.batches(np.flatnonzero(useful)):
            rows = source.load(some)[:, :views]
            good = source.flags[some, :views] & source.matches(some, rows)
            places, taken = [], []
            for i, view in np.argwhere(good).tolist():
                for position in wanted[hashes[some[i]].tobytes()]:
                    if lacking[position, view]:
                        lacking[position, view] = False
                        places.append((position, view))
                        taken.append(rows[i, view])
            self.commit(places, taken)

    def copy_thumbnails(self, source: FeatureFile) -> None:
        """Takes over, by content, every thumbnail that this file lacks; `source` may be this file."""
        hashes = source.unchecked_table().content_hashes
        held = {hashes[i].tobytes(): i for i in np.flatnonzero(source.thumbnailed()).tolist()}
        held.pop(bytes(32), None)
        with FeatureFile(self.path) as target:
            contents, lacking = target.unchecked_table().content_hashes, ~target.thumbnailed()
        for position in np.flatnonzero(lacking).tolist():
            if (found := held.get(contents[position].tobytes())) is not None:
                self.put_thumbnail(position, source.thumbnails[found])

    def copy_skips(self, source: FeatureFile) -> None:
        """Takes over why images have no row, for entries of the same path and content."""
        with FeatureFile(self.path) as target:
            table, flags = target.unchecked_table(), target.flags
        there, reasons = source.unchecked_table(), source.stored("skip_reasons")
        known = {
            (there.paths[i], there.content_hashes[i].tobytes()): reasons[i].decode(errors="replace")
            for i in np.flatnonzero(source.skip_records() == 1)
        }
        for position, path in enumerate(table.paths):
            reason = known.get((path, table.content_hashes[position].tobytes()))
            if reason and not flags[position, 0]:
                self.skip(position, reason)

    def _require_in_place(self) -> None:
        """Refuses to go on where the file's name belongs to another file now, or to none.

        Raises:
            FeatureFileError: It does.
        """
        here = os.fstat(self._raw.fileno())
        with contextlib.suppress(FileNotFoundError):
            now = self.path.stat()
            if (now.st_dev, now.st_ino) == (here.st_dev, here.st_ino):
                return
        raise FeatureFileError(
            f"{self.path} was replaced or deleted while this run wrote into it, so its rows are in no file now. "
            "Let one program at a time write there, and run the same command again."
        )

    def _put(self, name: str, place: tuple[int, ...], data: bytes) -> None:
        extent: Extent = self._extents[name]
        axes = extent.shape[: len(place)]
        step = extent.size // int(np.prod(axes))
        if len(data) != step:
            raise ValueError(f"{name}{list(place)} takes {step} bytes, got {len(data)}")
        index = int(np.ravel_multi_index(place, axes)) if place else 0
        written = os.pwrite(self._raw.fileno(), data, extent.offset + index * step)
        if written != step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either, in several lines
        raise FeatureFileError(
            f"cannot write {path}: {reason_of(error)}. Everything committed before is kept; "
            f"free disk space or choose another place with {opt.out}, then run the same command again."
        ) from None
