"""Reading a feature file: checked on opening, rows mapped straight from disk."""

import hashlib
import os
import warnings
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from onepass.features.contents import seen_before
from onepass.features.copies import SIMILAR, copy_groups, threshold_for
from onepass.features.errors import FeatureFileError, OnepassWarning, OptionError
from onepass.features.header import damaged, is_feature_file, open_descriptor, read_header
from onepass.features.layout import Extent
from onepass.features.splits import SPLITS, content_split, rows_to_score
from onepass.features.table import ImageTable
from onepass.features.tables import html_table
from onepass.features.thumbnails import RULE, SIDE

if TYPE_CHECKING:
    import pandas

__all__ = ["FeatureFile", "SkippedImage", "is_feature_file"]


@dataclass(frozen=True)
class SkippedImage:
    """An image without a row, and why."""

    path: str
    reason: str


class FeatureFile:
    """The rows of one image folder under one spec, with labels, splits and where they came from.

    Opening reads only the header and the committed flags; tables are read when asked for and rows
    stay on disk. A file that is still being written can be opened: it shows what is committed.

    Args:
        path: The `.h5` file that `extract` wrote.

    Raises:
        FeatureFileError: The file is missing, is no feature file, is of a newer format, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # One descriptor from now on: another run may put a new file under this name meanwhile.
        self._raw = open_descriptor(self.path)
        self._closing = weakref.finalize(self, os.close, self._raw)
        self._header = read_header(self.path, self._raw)
        self._header.require_intact(self.path, self._raw)
        self.spec = self._header.spec
        self.provenance = self._header.provenance
        self.shape: tuple[int, int, int] = self.extents["rows"].shape  # type: ignore[assignment]
        self.flags = self.stored("committed") == 1
        self.committed = self.flags.all(axis=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; arrays already read stay valid."""
        self.__dict__.pop("rows", None)
        self._closing()

    def __len__(self) -> int:
        return self.shape[0]

    def __str__(self) -> str:
        n, views, width = self.shape
        return (
            f"{n} images x {views} view{'s' * (views != 1)}, {width} wide, "
            f"{self.table.what()}, {self.spec.backbone} {self.spec.weights}"
        )

    @property
    def views(self) -> int:
        """Views per image; view 0 is the plain image."""
        return self.shape[1]

    @property
    def extents(self) -> dict[str, Extent]:
        """Where the bytes of each dataset lie."""
        return self._header.extents

    @property
    def row_dtype(self) -> str:
        """float32 or float16: what rows are stored as."""
        return self.extents["rows"].dtype.name

    @cached_property
    def rows(self) -> np.ndarray:
        """(n, views, d) of `row_dtype`, mapped read-only; entries that are not committed hold no meaning."""
        extent = self.extents["rows"]
        with open(self._raw, "rb", closefd=False) as file:
            return np.memmap(file, extent.dtype, "r", extent.offset, extent.shape)

    @cached_property
    def table(self) -> ImageTable:
        """Paths, labels, splits, groups and content of every image.

        Raises:
            FeatureFileError: The tables do not match their checksum.
        """
        if not (self.intact("classes_sha256") and self.intact("tables_sha256")):
            raise damaged(self.path, "its image tables do not match their checksum")
        table = self.unchecked_table()
        try:
            table.require_shape()
        except ValueError as error:
            raise damaged(self.path, str(error)) from None
        if table.out_of_range().any():
            raise damaged(self.path, "its image tables name classes or splits that do not exist")
        return table

    @cached_property
    def golden_rows(self) -> np.ndarray:
        """(e, g, d) float32: rows of the g built-in test images, in each of e accepted environments."""
        return self.stored("golden_rows")

    @property
    def task(self) -> str:
        """What the labels are, one of `features.TASKS`."""
        return self._header.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """k names; labels are positions in them."""
        return self.table.class_names

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, positions in `class_names`."""
        return self.table.labels.astype(np.int64)

    def wanted(self, positions: np.ndarray) -> np.ndarray:
        """As `ImageTable.wanted`."""
        return self.table.wanted(positions)

    def weights(self, positions: np.ndarray) -> np.ndarray:
        """As `ImageTable.relative_weights`."""
        return self.table.relative_weights(positions)

    @property
    def paths(self) -> tuple[str, ...]:
        """n paths relative to the image folder."""
        return self.table.paths

    @property
    def splits(self) -> tuple[str, ...]:
        """n names: train, val or test."""
        return tuple(SPLITS[i] for i in self.table.splits.tolist())

    def to_pandas(self) -> "pandas.DataFrame":
        """The image table: path, label, split, group, weight and committed of each of the n images.

        A label is a class name, a tuple of label names, or a number; None where there is none.

        Raises:
            OptionError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise OptionError("to_pandas needs pandas, which is not installed. Run: pip install pandas.") from None
        return pandas.DataFrame(
            {
                "path": self.paths,
                "label": self.table.label_values(),
                "split": self.splits,
                "group": self.table.groups,
                "weight": self.table.weights,
                "committed": self.committed,
            }
        )

    def _repr_html_(self) -> str:
        parts = [self.table.part(self.committed & (self.table.splits == s)) for s in range(len(SPLITS))]
        counts = [part.counts() or {"images": len(part)} for part in parts]
        rows = [["class", *SPLITS]] + [[name, *(str(one[name]) for one in counts)] for name in counts[0]]
        return html_table(rows, title=f"{self.path}: {self}")

    @property
    def skipped(self) -> list[SkippedImage]:
        """Images that could not be read, with the reason, in table order."""
        reasons = self.stored("skip_reasons")
        return [
            SkippedImage(self.table.paths[i], reasons[i].decode(errors="replace"))
            for i in np.flatnonzero(self.skip_records() == 1)
        ]

    def pending(self) -> np.ndarray:
        """Positions of images of which a view is neither committed nor skipped, (m,) int64."""
        return np.flatnonzero(~self.committed & (self.skip_records() != 1))

    def require_complete(self) -> None:
        """Refuses a file whose extraction has not finished.

        Raises:
            FeatureFileError: Images are still to be computed.
        """
        if count := len(self.pending()):
            raise FeatureFileError(
                f"{self.path} is not complete: {count} of {len(self)} images have no row yet. "
                "Run the same extract command again to finish it."
            )

    def rows_of(self, split: str) -> np.ndarray:
        """Positions of the committed images of "train", "val" or "test" that have a label, (m,) int64."""
        if split not in SPLITS:
            raise OptionError(f"unknown split {split!r}; there are {', '.join(SPLITS)}.")
        return np.flatnonzero(self.committed & self.table.labelled & (self.table.splits == SPLITS.index(split)))

    @property
    def keeps_thumbnails(self) -> bool:
        """False for files of onepass 0.1, which have no place for them."""
        return "thumbnails" in self.extents

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """(n, 24, 24) uint8, grey; all zeros where there is none that matches its checksum.

        Warns:
            OnepassWarning: Some do not match.
        """
        if not self.keeps_thumbnails:
            return np.zeros((len(self), SIDE, SIDE), np.uint8)
        if count := int(self.damaged_thumbnails().sum()):
            warnings.warn(
                f"{self.path} is damaged: {count} of its thumbnails do not match their checksum, so copies of these "
                f"images may be missed. `onepass repair {self.path}` reads them again.",
                OnepassWarning,
                stacklevel=2,
            )
        return np.where(self.thumbnailed()[:, None, None], self.stored("thumbnails"), 0)

    def damaged_thumbnails(self) -> np.ndarray:
        """(n,) bool: which images have a thumbnail that does not match its checksum."""
        if not self.keeps_thumbnails:
            return np.zeros(len(self), bool)
        # A thumbnail is written before the flag of its row: without that, half of one is an end, and no damage.
        return np.asarray(~self.thumbnailed() & (self.stored("thumbnail_checksums") != 0) & self.flags[:, 0])

    def thumbnailed(self) -> np.ndarray:
        """(n,) bool: which images have a thumbnail that matches its checksum."""
        if not self.keeps_thumbnails:
            return np.zeros(len(self), bool)
        found = [zlib.crc32(thumbnail) for thumbnail in self.stored("thumbnails")]
        return np.asarray(np.array(found, np.uint32) == self.stored("thumbnail_checksums"))

    @cached_property
    def copies(self) -> np.ndarray:
        """(n,) int64: equal for copies of one picture, the lowest position among them.

        `extract` keeps them in the file. Where they are not there, or were found among other rows than the file has
        now, they are searched here, which takes seconds to minutes; see `copy_groups`.

        Raises:
            FeatureFileError: A row's bytes have changed.

        Warns:
            OnepassWarning: The file is of onepass 0.1 and has no thumbnails.
        """
        if (kept := self.kept_copies()) is not None:
            return kept
        if not self.keeps_thumbnails and self.committed.any():
            warnings.warn(
                f"{self.path} keeps no thumbnails, so copies that were turned or made grey are not found. Run the same "
                "extract command again: it reads the images, and the backbone does not run.",
                OnepassWarning,
                stacklevel=2,
            )
        there = np.flatnonzero(self.committed)
        found = copy_groups(lambda: self.pieces(there), self.thumbnails[there], threshold=threshold_for(self.spec))
        groups = np.arange(len(self))
        groups[there] = there[found]
        return groups

    def kept_copies(self) -> np.ndarray | None:
        """`copies` as the file keeps them; None if it does not, or they belong to other rows than it has now."""
        if not self.keeps_thumbnails:
            return None
        copies = self.stored("copies")
        return copies.astype(np.int64) if self.copies_digest(copies) == self.stored("copies_sha256").tobytes() else None

    def copies_digest(self, copies: np.ndarray) -> bytes:
        """SHA-256 of copies with all that they hang on: flags and checksums of rows and thumbnails, the rule."""
        found = hashlib.sha256(f"rows {threshold_for(self.spec)} {SIMILAR}, thumbnails {RULE}".encode())
        for name in ("committed", "checksums", "thumbnail_checksums"):
            found.update(self.stored(name).tobytes())
        found.update(copies.astype("<i4").tobytes())
        return found.digest()

    def group_ids(self) -> np.ndarray:
        """(n,) int64, equal for images that must stay on one side wherever images are dealt out.

        Those are images of one group, and copies of one picture, exact or not; see `copies`.
        """
        return self.table.group_ids(self.copies)

    def leaked(self, scored: np.ndarray, trained: np.ndarray) -> np.ndarray:
        """(m,) bool: which images to score are copies of training images, exact or not.

        Args:
            scored: (m,) positions.
            trained: (t,) positions.
        """
        contents = self.table.content_hashes
        exact = seen_before(contents[scored], contents[trained])
        return np.asarray(exact | np.isin(self.copies[scored], self.copies[trained]))

    def rows_to_score(self, part: str = "auto", *, seen: np.ndarray) -> tuple[np.ndarray, str]:
        """Committed images that give an honest score of a head.

        Args:
            part: See `features.rows_to_score`.
            seen: (m, 8) uint8, prefixes of the content hashes that the head was trained on.

        Returns:
            Positions, and the name of the part.
        """
        usable = np.flatnonzero(self.committed & self.table.labelled)
        drawn = bool(self.provenance.get("drawn_split"))
        hashes, ids = self.table.content_hashes[usable], self.group_ids()[usable]
        chosen, part = rows_to_score(self.table.splits[usable], hashes, part, drawn=drawn, seen=seen, ids=ids)
        return usable[chosen], part

    def split(self, *, test: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draws train and test positions of labelled images anew, by group and content (see `content_split`).

        Args:
            test: Share of test images, between 0 and 1.
            seed: Another seed, another split.

        Returns:
            (train, test): positions of committed images, int64, in table order.
        """
        table = self.table
        usable = np.flatnonzero(self.committed & table.labelled)
        groups = [table.groups[i] for i in usable]
        chosen = content_split(
            table.content_hashes[usable],
            table.strata()[usable],
            groups=groups,
            copies=self.copies[usable],
            test=test,
            seed=seed,
        )
        return usable[~chosen], usable[chosen]

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and labels of the plain view, each row checked against its checksum.

        Args:
            positions: (m,) positions of committed images.

        Returns:
            x: (m, d) float32.
            y: (m,) int64, positions in `class_names`.

        Raises:
            FeatureFileError: A row is not committed, or its bytes have changed.
        """
        x, y = self.read_views(positions, views=1)
        return x[:, 0], y

    def read_views(self, positions: np.ndarray, *, views: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and labels of the first `views` views, by default all: (m, v, d) float32 and (m,) int64.

        Rows of a float16 file are widened, which changes no value.

        Raises:
            FeatureFileError: As for `read`.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if not self.committed[positions].all():
            missing = self.table.paths[positions[~self.committed[positions]][0]]
            raise FeatureFileError(
                f"{self.path} holds no row for {missing}. Run the same extract command again to complete it."
            )
        rows = self.load(positions, views=views)
        bad = positions[~self.matches(positions, rows).all(axis=1)]
        if len(bad):
            raise damaged(self.path, f"the row of {self.table.paths[bad[0]]} does not match its checksum")
        return rows.astype(np.float32, copy=False), self.table.labels[positions].astype(np.int64)

    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, that changes with any row, label, path, split, group or copy in the file."""
        found = hashlib.sha256("".join(self._header.attributes.values()).encode(errors="surrogateescape"))
        for name in ("committed", "checksums"):
            found.update(self.stored(name).tobytes())
        found.update(self.copies.astype("<i8").tobytes())
        return found.hexdigest()

    def pieces(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of `read` as (m, d) pieces of at most 32 MB, so that any number of them can be gone through.

        Raises:
            FeatureFileError: As for `read`.
        """
        return (self.read(some)[0] for some in self.batches(positions, views=1))

    def load(self, positions: np.ndarray, *, views: int | None = None) -> np.ndarray:
        """Rows of the first `views` views as they stand in the file, unchecked, (m, v, d) of `row_dtype`.

        Read, not mapped: mapped pages would count as this process's memory.
        """
        extent = self.extents["rows"]
        step = extent.size // max(len(self), 1)
        rows = np.empty((len(positions), min(views or self.views, self.views), self.shape[2]), extent.dtype)
        for row, position in zip(rows, positions.tolist(), strict=True):
            os.preadv(self._raw, [row.view(np.uint8)], extent.offset + position * step)
        return rows

    def batches(self, positions: np.ndarray, *, views: int | None = None) -> Iterator[np.ndarray]:
        """The same positions in pieces whose rows of `views` views, by default all, take at most 32 MB."""
        size = max(1, 2**25 // (self.extents["rows"].dtype.itemsize * (views or self.views) * self.shape[2]))
        return (positions[start : start + size] for start in range(0, len(positions), size))

    def matches(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(m, v) bool, True where the first v views, of `row_dtype`, have the CRC-32 that the file says."""
        found = [[zlib.crc32(view) for view in image] for image in rows]
        wanted = self.stored("checksums")[positions, : rows.shape[1]]
        return np.asarray(np.array(found, np.uint32).reshape(wanted.shape) == wanted)

    def damaged(self, positions: np.ndarray) -> np.ndarray:
        """(m, views) bool, True where the bytes of a committed row do not match their CRC-32."""
        pieces = [self.flags[some] & ~self.matches(some, self.load(some)) for some in self.batches(positions)]
        return np.concatenate(pieces) if pieces else np.zeros((0, self.views), bool)

    def skip_records(self) -> np.ndarray:
        """(n,) int8: 1 where an image was skipped, 0 where it was not, -1 where the record is damaged."""
        reasons, checksums = self.stored("skip_reasons"), self.stored("checksums")[:, 0]
        records = np.zeros(len(self), np.int8)
        for i in np.flatnonzero(reasons != b""):
            intact = not self.flags[i, 0] and zlib.crc32(reasons[i]) == checksums[i]
            records[i] = 1 if intact else -1
        return records

    def given_up(self) -> set[bytes]:
        """Contents that are no images: files that were skipped for what is in them, not for want of access."""
        found = {content.tobytes() for content in self.stored("content_hashes")[self.skip_records() == 1]}
        return found - {bytes(32)}

    def stored(self, name: str) -> np.ndarray:
        """A dataset as it stands in the file, unchecked."""
        return self._header.read(self._raw, name)

    def intact(self, digest: str) -> bool:
        """True if what "classes_sha256" or "tables_sha256" stands for matches it."""
        return self._header.digests(self._raw)[digest] == self._header.attributes[digest]

    def unchecked_table(self) -> ImageTable:
        """The image table as it stands in the file, for finding and repairing damage."""
        return ImageTable(
            class_names=_decoded(self.stored("class_names")),
            paths=_decoded(self.stored("paths")),
            labels=self.stored("labels"),
            splits=self.stored("splits"),
            groups=_decoded(self.stored("groups")),
            content_hashes=self.stored("content_hashes"),
            file_sizes=self.stored("file_sizes"),
            file_mtimes=self.stored("file_mtimes"),
            task=self.task,
            **{name: self.stored(name) for name in ("targets", "weights") if name in self.extents},
        )


def _decoded(names: np.ndarray) -> tuple[str, ...]:
    # File names are bytes on disk; surrogateescape carries those that are not UTF-8 through unharmed.
    return tuple(name.decode("utf-8", "surrogateescape") for name in names.tolist())


def only_feature_file() -> Path:
    """The one feature file of the current folder.

    Raises:
        OptionError: There are several.
        FeatureFileError: There is none.
    """
    found = [path for path in sorted(Path().glob("*.h5")) if is_feature_file(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError("several feature files here; name one of " + ", ".join(map(str, found)) + ".", found=found)
    raise FeatureFileError("no feature file in this folder. Make one with: extract DATA")
