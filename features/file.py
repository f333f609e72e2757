"""Reading a feature file: checked on opening, rows mapped straight from disk."""

import hashlib
import json
import os
import weakref
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from features.errors import FeatureFileError, OptionError
from features.layout import FORMAT, VERSION, Extent, encoded, table_digest, table_extents
from features.spec import Spec
from features.splits import SPLITS, content_split, rows_to_score
from features.table import ImageTable


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
        self._raw = _opened(self.path)
        self._closing = weakref.finalize(self, os.close, self._raw)
        header, self._extents = _read_header(self.path, self._raw)
        self.spec = Spec.from_json(header["spec"])
        self.provenance = _provenance(header["provenance"], self.path)
        self._digest = header["tables_sha256"]
        n, views, width = self._extents["rows"].shape
        if width != self.spec.width:
            raise _damaged(self.path, f"its rows are {width} wide, its spec says {self.spec.width}")
        self.shape = (n, views, width)
        self.committed = self._read("committed") == 1

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
            f"{len(self.table.class_names)} classes, {self.spec.backbone} {self.spec.weights}"
        )

    @cached_property
    def rows(self) -> np.ndarray:
        """(n, views, d) float32, mapped read-only; entries that are not committed hold no meaning."""
        extent = self._extents["rows"]
        with open(self._raw, "rb", closefd=False) as file:
            return np.memmap(file, extent.dtype, "r", extent.offset, extent.shape)

    @cached_property
    def table(self) -> ImageTable:
        """Paths, labels, splits and content of every image.

        Raises:
            FeatureFileError: The tables do not match their checksum.
        """
        parts = {name: self._read(name) for name in table_extents(self._extents)}
        if table_digest(self.spec, parts) != self._digest:
            raise _damaged(self.path, "its image tables do not match their checksum")
        return ImageTable(
            class_names=_decoded(parts["class_names"]),
            paths=_decoded(parts["paths"]),
            labels=parts["labels"],
            splits=parts["splits"],
            content_hashes=parts["content_hashes"],
            file_sizes=parts["file_sizes"],
            file_mtimes=parts["file_mtimes"],
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.table.class_names

    @property
    def skipped(self) -> list[SkippedImage]:
        """Images that could not be read, with the reason, in table order."""
        reasons = self._read("skip_reasons")
        return [
            SkippedImage(self.table.paths[i], reasons[i].decode(errors="replace"))
            for i in np.flatnonzero(reasons != b"")
        ]

    def pending(self) -> np.ndarray:
        """Positions of images that are neither committed nor skipped, (m,) int64."""
        return np.flatnonzero(~self.committed & (self._read("skip_reasons") == b""))

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
        """Positions of the committed images of "train", "val" or "test", (m,) int64."""
        if split not in SPLITS:
            raise OptionError(f"unknown split {split!r}; there are {', '.join(SPLITS)}.")
        return np.flatnonzero(self.committed & (self.table.splits == SPLITS.index(split)))

    def rows_to_score(self, part: str = "auto", *, seen: np.ndarray) -> tuple[np.ndarray, str]:
        """Committed images that give an honest score of a head.

        Args:
            part: See `features.rows_to_score`.
            seen: (m, 8) uint8, prefixes of the content hashes that the head was trained on.

        Returns:
            Positions, and the name of the part.
        """
        usable = np.flatnonzero(self.committed)
        drawn = bool(self.provenance.get("drawn_split"))
        hashes = self.table.content_hashes[usable]
        chosen, part = rows_to_score(self.table.splits[usable], hashes, part, drawn=drawn, seen=seen)
        return usable[chosen], part

    def split(self, *, test: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draws train and test positions anew, by image content (see `content_split`).

        Args:
            test: Share of test images, between 0 and 1.
            seed: Another seed, another split.

        Returns:
            (train, test): positions of committed images, int64, in table order.
        """
        usable = np.flatnonzero(self.committed)
        chosen = content_split(self.table.content_hashes[usable], self.table.labels[usable], test=test, seed=seed)
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
        positions = np.asarray(positions, dtype=np.int64)
        if not self.committed[positions].all():
            missing = self.table.paths[positions[~self.committed[positions]][0]]
            raise FeatureFileError(
                f"{self.path} holds no row for {missing}. Run the same extract command again to complete it."
            )
        bad = positions[self.damaged(positions)]
        if len(bad):
            raise _damaged(self.path, f"the row of {self.table.paths[bad[0]]} does not match its checksum")
        return np.array(self.rows[positions, 0]), self.table.labels[positions].astype(np.int64)

    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, that changes with any row, label, path or split of the file."""
        digest = hashlib.sha256(self._digest.encode())
        for name in ("committed", "checksums"):
            digest.update(self._read(name).tobytes())
        return digest.hexdigest()

    def damaged(self, positions: np.ndarray) -> np.ndarray:
        """(m,) bool, True where the bytes of a committed row do not match their CRC-32."""
        checksums = self._read("checksums")[positions]
        found = np.array([zlib.crc32(self.rows[i]) for i in positions], dtype=np.uint32)
        return np.asarray(found != checksums)

    def _read(self, name: str) -> np.ndarray:
        extent = self._extents[name]
        with open(self._raw, "rb", closefd=False) as file:
            file.seek(extent.offset)
            return np.frombuffer(file.read(extent.size), extent.dtype).reshape(extent.shape)


def is_feature_file(path: Path) -> bool:
    """True if a file says of itself that it is a feature file of any version."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == FORMAT)
    except (OSError, RuntimeError, ValueError):
        return False


def _opened(path: Path) -> int:
    try:
        if path.is_dir():
            raise FeatureFileError(f"{path} is a folder; needed: a feature file that extract wrote.")
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise FeatureFileError(f"there is no feature file {path}. Make one with: extract DATA") from None
    except OSError as error:
        raise FeatureFileError(f"{path} may not be read: {error.strerror}.") from None


def _read_header(path: Path, descriptor: int) -> tuple[dict[str, str], dict[str, Extent]]:
    """Attributes and the place of every dataset; HDF5 itself is closed again at once."""
    try:
        with open(descriptor, "rb", closefd=False) as raw, h5py.File(raw, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise FeatureFileError(
                    f"{path} is HDF5 but no feature file (its format attribute is "
                    f"{file.attrs.get('format')!r}). Needed: a file that extract wrote."
                )
            version = file.attrs.get("format_version")
            if version != VERSION:
                raise FeatureFileError(
                    f"{path} has format version {version}; this onepass reads version {VERSION}. "
                    "Upgrade onepass, or extract again."
                )
            header = {name: str(file.attrs[name]) for name in ("spec", "provenance", "tables_sha256")}
            extents = {name: Extent.of(file, name) for name in encoded()}
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise FeatureFileError(
            f"{path} cannot be read as a feature file: {error}. It is another kind of file or is damaged; "
            "extract again."
        ) from None
    _check_shapes(path, extents, os.fstat(descriptor).st_size)
    return header, extents


def _check_shapes(path: Path, extents: dict[str, Extent], size: int) -> None:
    n = extents["rows"].shape[0]
    for name, (dtype, rank) in encoded().items():
        extent = extents[name]
        fits = extent.dtype.kind == dtype.kind and (dtype.kind == "S" or extent.dtype == dtype)
        if not fits or len(extent.shape) != rank:
            raise _damaged(path, f"its {name} are {extent.dtype} {extent.shape}; needed: {dtype}, rank {rank}")
        if name != "class_names" and extent.shape[0] != n:
            raise _damaged(path, f"its {name} have {extent.shape[0]} entries for {n} images")
        if extent.offset + extent.size > size:
            raise _damaged(path, f"its {name} end behind the end of the file")


def _provenance(text: str, path: Path) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        raise _damaged(path, "its provenance is not a JSON object")
    return provenance


def _decoded(names: np.ndarray) -> tuple[str, ...]:
    # File names are bytes on disk; surrogateescape carries those that are not UTF-8 through unharmed.
    return tuple(name.decode("utf-8", "surrogateescape") for name in names.tolist())


def _damaged(path: Path, what: str) -> FeatureFileError:
    return FeatureFileError(f"{path} is damaged: {what}. Delete it and run the same extract command again.")
