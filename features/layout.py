"""Where everything lies in a feature file (FORMAT.md in code): names, types, extents, creation."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from onepass.features.spec import Spec
from onepass.features.table import ImageTable
from onepass.features.tasks import CLASSES
from onepass.features.thumbnails import SIDE

FORMAT = "onepass-features"
VERSIONS = (3, 4)
"""What this onepass reads. Version 4 is 3 with a task, targets and weights, and is written where one is needed."""
SKIP_REASON_BYTES = 120
_STRUCTURES = 2**16
"""Bytes that HDF5 itself takes for attributes, headers and gaps, at most."""
ROW_DTYPES: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
"""What rows may be stored as."""

_TABLES: dict[str, tuple[np.dtype, int]] = {
    "class_names": (np.dtype("S"), 1),
    "paths": (np.dtype("S"), 1),
    "labels": (np.dtype("<i4"), 1),
    "splits": (np.dtype("u1"), 1),
    "groups": (np.dtype("S"), 1),
    "content_hashes": (np.dtype("u1"), 2),
    "file_sizes": (np.dtype("<i8"), 1),
    "file_mtimes": (np.dtype("<i8"), 1),
    "entry_checksums": (np.dtype("<u4"), 1),
    "golden_rows": (np.dtype("<f4"), 3),
}
PER_IMAGE = ("paths", "labels", "splits", "groups", "content_hashes", "file_sizes", "file_mtimes")
_STATE: dict[str, tuple[np.dtype, int]] = {
    "committed": (np.dtype("u1"), 2),
    "checksums": (np.dtype("<u4"), 2),
    "skip_reasons": (np.dtype("S"), 1),
}
_COPIES: dict[str, tuple[np.dtype, int]] = {
    "thumbnails": (np.dtype("u1"), 3),
    "thumbnail_checksums": (np.dtype("<u4"), 1),
    "copies": (np.dtype("<i4"), 1),
    "copies_sha256": (np.dtype("u1"), 1),
}
"""What copies are known by; files of onepass 0.1 have none of it."""
_TASK: dict[str, tuple[np.dtype, int]] = {"targets": (np.dtype("<f8"), 2), "weights": (np.dtype("<f8"), 1)}
"""Several labels or a number per image, and how much each image counts; each is there only where it is needed."""


def encoded() -> dict[str, tuple[tuple[np.dtype, ...], int]]:
    """Every dataset of the format: name -> (types it may have, rank)."""
    fixed = {name: ((dtype,), rank) for name, (dtype, rank) in {**_TABLES, **_STATE, **_COPIES, **_TASK}.items()}
    return {**fixed, "rows": (tuple(ROW_DTYPES.values()), 3)}


def optional(name: str) -> bool:
    """True for datasets that a file may lack."""
    return name in _COPIES or name in _TASK


def together(names: Iterable[str]) -> list[str]:
    """Of the datasets that a file has all of or none, those that are missing beside others."""
    missing = [name for name in _COPIES if name not in names]
    return missing if len(missing) < len(_COPIES) else []


def entry_columns(names: Iterable[str]) -> list[str]:
    """Of the datasets in a file, those that hold an image's entry, in the order of its checksum."""
    there = set(names)
    return [name for name in (*PER_IMAGE, *_TASK) if name in there]


def keeps_precision(source: str, target: str) -> bool:
    """True if rows of one type may be taken over as another: what float16 has rounded is no float32 row."""
    return ROW_DTYPES[source].itemsize >= ROW_DTYPES[target].itemsize


@dataclass(frozen=True)
class Extent:
    """A dataset's bytes in the file: they can be read, mapped and written without HDF5."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @classmethod
    def of(cls, file: h5py.File, name: str) -> Self:
        """Finds a dataset.

        Raises:
            KeyError: There is none of this name in the file itself (links to other files do not count).
            ValueError: Its bytes do not lie in one piece in this file.
        """
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise KeyError(f"no dataset {name}")
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset) or (dataset.size and dataset.id.get_offset() is None):
            raise ValueError(f"{name} is not contiguous")
        return cls(dataset.id.get_offset() or 0, dataset.shape, dataset.dtype)


def per_image(name: str) -> bool:
    """True for datasets whose first axis is the images."""
    others = ("entry_checksums", "rows", "thumbnails", "thumbnail_checksums", "copies")
    return name in PER_IMAGE or name in _STATE or name in _TASK or name in others


def table_extents(extents: dict[str, Extent]) -> dict[str, Extent]:
    """Only the tables that are fixed when the file is made."""
    return {name: extent for name, extent in extents.items() if name in _TABLES or name in _TASK}


def table_arrays(table: ImageTable, golden: np.ndarray) -> dict[str, np.ndarray]:
    """The image table and the golden rows as the arrays that go into the file."""
    arrays = {
        "class_names": fixed_width(table.class_names),
        "paths": fixed_width(table.paths),
        "labels": table.labels.astype("<i4"),
        "splits": table.splits.astype("u1"),
        "groups": fixed_width(table.groups),
        "content_hashes": table.content_hashes.astype("u1"),
        "file_sizes": table.file_sizes.astype("<i8"),
        "file_mtimes": table.file_mtimes.astype("<i8"),
    }
    if table.targets.shape[1]:
        arrays["targets"] = table.targets.astype("<f8")
    if table.weighted:
        arrays["weights"] = table.weights.astype("<f8")
    return {**arrays, "entry_checksums": entry_checksums(arrays), "golden_rows": golden.astype("<f4")}


def entry_checksums(tables: dict[str, np.ndarray]) -> np.ndarray:
    """CRC-32 of each image's entry in the tables, (n,) uint32: it tells which image a damaged table has."""
    n = len(tables["labels"])
    columns = [np.ascontiguousarray(tables[name]).view("u1").reshape(n, -1) for name in entry_columns(tables)]
    return np.array([zlib.crc32(entry) for entry in np.hstack(columns)], "<u4")


def digests(spec: str, provenance: str, task: str, tables: dict[str, np.ndarray]) -> dict[str, str]:
    """SHA-256, hexadecimal, of all that is fixed when the file is made: of header, class names and image tables.

    Args:
        spec: JSON.
        provenance: JSON.
        task: As the file says it; empty in version 3, which does not.
        tables: From `table_arrays`.
    """
    texts = (spec + provenance + task).encode(errors="surrogateescape")
    header = hashlib.sha256(texts + tables["golden_rows"].tobytes())
    images = hashlib.sha256()
    for name in (*entry_columns(tables), "entry_checksums"):
        images.update(np.ascontiguousarray(tables[name]).tobytes())
    return {
        "header_sha256": header.hexdigest(),
        "classes_sha256": hashlib.sha256(tables["class_names"].tobytes()).hexdigest(),
        "tables_sha256": images.hexdigest(),
    }


def create_file(
    path: Path,
    spec: Spec,
    table: ImageTable,
    provenance: dict[str, Any],
    golden: np.ndarray,
    *,
    views: int,
    row_dtype: str = "float32",
) -> None:
    """Writes a complete, empty feature file whose disk space is reserved.

    After this, HDF5 never writes to the file again: rows and flags go straight to their extents, so
    no crash can leave HDF5's own structures half written.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    n = len(table)
    table.require_shape()
    tables, origin = table_arrays(table, golden), json.dumps(provenance, sort_keys=True)
    plain = table.task == CLASSES and table.labelled.all() and not table.weighted
    task = "" if plain else table.task
    cells = (n, SIDE, SIDE), (n, views, spec.width)
    reserved = int(np.prod(cells[0])) + int(np.prod(cells[1])) * ROW_DTYPES[row_dtype].itemsize
    written = sum(a.nbytes for a in tables.values()) + n * (views * 5 + SKIP_REASON_BYTES + 8) + len(origin)
    _try_room(path, written + _STRUCTURES, reserved)
    # From 1.8 on, HDF5 keeps checksums of its own structures.
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        file.attrs["format_version"] = VERSIONS[0] if plain else VERSIONS[-1]
        texts = {"format": FORMAT, "spec": spec.to_json(), "provenance": origin, **({"task": task} if task else {})}
        for name, text in {**texts, **digests(spec.to_json(), origin, task, tables)}.items():
            # Of fixed length: others lie in a heap without checksums, where one flipped bit can hang HDF5 for good.
            file.attrs[name] = np.bytes_(text.encode(errors="surrogateescape"))
        for name, array in tables.items():
            file.create_dataset(name, data=array)
        file.create_dataset("committed", data=np.zeros((n, views), "u1"))
        file.create_dataset("checksums", data=np.zeros((n, views), "<u4"))
        file.create_dataset("skip_reasons", data=np.zeros(n, f"S{SKIP_REASON_BYTES}"))
        file.create_dataset("thumbnail_checksums", data=np.zeros(n, "<u4"))
        file.create_dataset("copies", data=np.zeros(n, "<i4"))
        file.create_dataset("copies_sha256", data=np.zeros(32, "u1"))
        _allocate(file, "thumbnails", cells[0], np.dtype("u1"))
        _allocate(file, "rows", cells[1], ROW_DTYPES[row_dtype])
    with open(path, "r+b") as raw:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(raw.fileno(), 0, os.fstat(raw.fileno()).st_size)
        os.fsync(raw.fileno())


def _try_room(path: Path, written: int, reserved: int) -> None:
    """Fails where HDF5 would have no room for what it writes; failing itself, it ends the process with a crash."""
    with open(path, "wb") as raw:
        os.ftruncate(raw.fileno(), written + reserved)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(raw.fileno(), 0, written)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    # Only the low-level interface allocates early without writing a fill value over it.
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    h5d.create(file.id, name.encode(), h5t.py_create(dtype), h5s.create_simple(shape), properties)


def fixed_width(names: Sequence[str]) -> np.ndarray:
    """Texts as the file stores them: (n,) bytes, all as wide as the longest."""
    as_bytes = [name.encode("utf-8", "surrogateescape") for name in names]
    return np.array(as_bytes, dtype=f"S{max([1, *map(len, as_bytes)])}")
