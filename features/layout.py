"""Where everything lies in a feature file (FORMAT.md in code): names, types, extents, creation."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from features.spec import Spec
from features.table import ImageTable

FORMAT = "onepass-features"
VERSION = 1
SKIP_REASON_BYTES = 120

_TABLES: dict[str, tuple[np.dtype, int]] = {
    "class_names": (np.dtype("S"), 1),
    "paths": (np.dtype("S"), 1),
    "labels": (np.dtype("<i4"), 1),
    "splits": (np.dtype("u1"), 1),
    "content_hashes": (np.dtype("u1"), 2),
    "file_sizes": (np.dtype("<i8"), 1),
    "file_mtimes": (np.dtype("<i8"), 1),
}
_STATE: dict[str, tuple[np.dtype, int]] = {
    "committed": (np.dtype("u1"), 1),
    "checksums": (np.dtype("<u4"), 1),
    "skip_reasons": (np.dtype("S"), 1),
    "rows": (np.dtype("<f4"), 3),
}


def encoded() -> dict[str, tuple[np.dtype, int]]:
    """Every dataset of the format: name -> (type, rank)."""
    return {**_TABLES, **_STATE}


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
        if not isinstance(dataset, h5py.Dataset) or dataset.id.get_offset() is None:
            raise ValueError(f"{name} is not contiguous")
        return cls(dataset.id.get_offset(), dataset.shape, dataset.dtype)


def table_extents(extents: dict[str, Extent]) -> dict[str, Extent]:
    """Only the tables that are fixed when the file is made."""
    return {name: extents[name] for name in _TABLES}


def table_arrays(table: ImageTable) -> dict[str, np.ndarray]:
    """The image table as the arrays that go into the file."""
    return {
        "class_names": _fixed_width(table.class_names),
        "paths": _fixed_width(table.paths),
        "labels": table.labels.astype("<i4"),
        "splits": table.splits.astype("u1"),
        "content_hashes": table.content_hashes.astype("u1"),
        "file_sizes": table.file_sizes.astype("<i8"),
        "file_mtimes": table.file_mtimes.astype("<i8"),
    }


def table_digest(spec: Spec, tables: dict[str, np.ndarray]) -> str:
    """SHA-256, hexadecimal, over the spec and all image tables in the order of the format."""
    digest = hashlib.sha256(spec.to_json().encode())
    for name in _TABLES:
        digest.update(np.ascontiguousarray(tables[name]).tobytes())
    return digest.hexdigest()


def create_file(path: Path, spec: Spec, table: ImageTable, provenance: dict[str, Any], *, views: int = 1) -> None:
    """Writes a complete, empty feature file whose disk space is reserved.

    After this, HDF5 never writes to the file again: rows and flags go straight to their extents, so
    no crash can leave HDF5's own structures half written.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    n = len(table)
    tables = table_arrays(table)
    with h5py.File(path, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = VERSION
        file.attrs["spec"] = spec.to_json()
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        file.attrs["tables_sha256"] = table_digest(spec, tables)
        for name, array in tables.items():
            file.create_dataset(name, data=array)
        file.create_dataset("committed", data=np.zeros(n, "u1"))
        file.create_dataset("checksums", data=np.zeros(n, "<u4"))
        file.create_dataset("skip_reasons", data=np.zeros(n, f"S{SKIP_REASON_BYTES}"))
        _allocate(file, "rows", (n, views, spec.width), _STATE["rows"][0])
    with open(path, "r+b") as raw:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(raw.fileno(), 0, os.fstat(raw.fileno()).st_size)
        os.fsync(raw.fileno())


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    # Only the low-level interface allocates early without writing a fill value over it.
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    h5d.create(file.id, name.encode(), h5t.py_create(dtype), h5s.create_simple(shape), properties)


def _fixed_width(names: tuple[str, ...]) -> np.ndarray:
    as_bytes = [name.encode("utf-8", "surrogateescape") for name in names]
    return np.array(as_bytes, dtype=f"S{max(1, *map(len, as_bytes))}")
