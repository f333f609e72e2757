"""Opening a feature file: what its header says, checked before anything else is believed."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from onepass.features.errors import DamagedHeaderError, FeatureFileError, opt
from onepass.features.layout import (
    FORMAT,
    VERSIONS,
    Extent,
    digests,
    encoded,
    optional,
    per_image,
    table_extents,
    together,
)
from onepass.features.limits import scalar_attribute
from onepass.features.spec import Spec
from onepass.features.tasks import CLASSES
from onepass.features.thumbnails import SIDE

_ATTRIBUTES = ("spec", "provenance", "header_sha256", "classes_sha256", "tables_sha256")
_AGAIN = f"Or delete it, or choose another file with {opt.out}, and extract again."


@dataclass(frozen=True)
class Header:
    """Attributes of a feature file and the place of every dataset in it.

    Attributes:
        spec: What its rows are computed with.
        provenance: Where it came from.
        attributes: Spec, provenance and digests as they stand in the file.
        extents: Name of a dataset -> where its bytes lie.
    """

    spec: Spec
    provenance: dict[str, Any]
    attributes: dict[str, str]
    extents: dict[str, Extent]

    def require_intact(self, path: Path, descriptor: int) -> None:
        """Refuses a header whose checksum does not hold.

        Raises:
            FeatureFileError: It does not.
        """
        if self.digests(descriptor)["header_sha256"] != self.attributes["header_sha256"]:
            raise DamagedHeaderError(
                f"{path} is damaged: its spec, provenance or golden rows do not match their checksum, so nobody can "
                f"say what its rows are. {_AGAIN}"
            )

    def digests(self, descriptor: int) -> dict[str, str]:
        """What the digests must be, from what stands in the file."""
        tables = {name: self.read(descriptor, name) for name in table_extents(self.extents)}
        return digests(self.attributes["spec"], self.attributes["provenance"], self.attributes.get("task", ""), tables)

    @property
    def task(self) -> str:
        """What the labels are, one of `TASKS`; not checked yet."""
        return self.attributes.get("task") or CLASSES

    def read(self, descriptor: int, name: str) -> np.ndarray:
        """All values of a dataset; threads may read at the same time, since the descriptor's place is not used."""
        extent = self.extents[name]
        return np.frombuffer(os.pread(descriptor, extent.size, extent.offset), extent.dtype).reshape(extent.shape)


def is_feature_file(path: Path) -> bool:
    """True if a file says of itself that it is a feature file of any version."""
    try:
        with h5py.File(path, "r") as file:
            return bool(scalar_attribute(file, "format") == FORMAT)
    except (OSError, LookupError, RuntimeError, ValueError):
        return False


def open_descriptor(path: Path) -> int:
    """Opens a file for reading.

    Raises:
        FeatureFileError: It is missing, a folder, or may not be read.
    """
    try:
        if path.is_dir():
            raise FeatureFileError(f"{path} is a folder; needed: a feature file that extract wrote.")
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise FeatureFileError(f"there is no feature file {path}. Make one with: extract DATA") from None
    except OSError as error:
        raise FeatureFileError(f"{path} may not be read: {error.strerror}.") from None


def read_header(path: Path, descriptor: int) -> Header:
    """Reads and checks the header; HDF5 itself is closed again at once.

    Raises:
        FeatureFileError: No feature file, one of another version, or a damaged one.
    """
    try:
        with open(descriptor, "rb", closefd=False) as raw, h5py.File(raw, "r") as file:
            _check_format(path, file)
            version_3 = scalar_attribute(file, "format_version") == VERSIONS[0]
            attributes = {name: _text(file, name) for name in (*_ATTRIBUTES, *(() if version_3 else ("task",)))}
            extents = {name: Extent.of(file, name) for name in encoded() if name in file or not optional(name)}
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise FeatureFileError(
            f"{path} cannot be read as a feature file: {error}. It is another kind of file or is damaged. {_AGAIN}"
        ) from None
    spec = Spec.from_json(attributes["spec"])
    _check_shapes(path, extents, spec, os.fstat(descriptor).st_size)
    provenance = _provenance(attributes["provenance"], path)
    return Header(spec, provenance, attributes, extents)


def _text(file: h5py.File, name: str) -> str:
    if not isinstance(found := scalar_attribute(file, name), str):
        raise KeyError(f"no text {name}")
    return found


def _check_format(path: Path, file: h5py.File) -> None:
    if (found := scalar_attribute(file, "format")) != FORMAT:
        raise FeatureFileError(
            f"{path} is HDF5 but no feature file (its format attribute is {found!r}). Needed: a file that extract "
            "wrote."
        )
    version = scalar_attribute(file, "format_version")
    if version not in VERSIONS:
        raise FeatureFileError(
            f"{path} has format version {version}; this onepass reads versions {' and '.join(map(str, VERSIONS))}. "
            f"Use the onepass that wrote it. {_AGAIN}"
        )


def _check_shapes(path: Path, extents: dict[str, Extent], spec: Spec, size: int) -> None:
    n, views, width = (*extents["rows"].shape, 0, 0, 0)[:3]
    if missing := together(extents):
        raise damaged(path, f"it lacks {missing[0]}")
    for name, extent in extents.items():
        dtypes, rank = encoded()[name]
        fits = extent.dtype in dtypes or extent.dtype.kind == "S" == dtypes[0].kind
        if not fits or len(extent.shape) != rank:
            needed = " or ".join(map(str, dtypes))
            raise damaged(path, f"its {name} are {extent.dtype} {extent.shape}; needed: {needed}, rank {rank}")
        if per_image(name) and extent.shape[0] != n:
            raise damaged(path, f"its {name} have {extent.shape[0]} entries for {n} images")
        if name in ("committed", "checksums") and extent.shape[1] != views:
            raise damaged(path, f"its {name} have {extent.shape[1]} views, its rows {views}")
        if extent.offset + extent.size > size:
            raise damaged(path, f"its {name} end behind the end of the file")
    for name in ("rows", "golden_rows"):
        if extents[name].shape[2] != spec.width:
            raise damaged(path, f"its {name} are {extents[name].shape[2]} wide, its spec says {spec.width}")
    wanted = {"thumbnails": (n, SIDE, SIDE), "copies_sha256": (32,)}
    for name in wanted.keys() & extents.keys():
        if extents[name].shape != wanted[name]:
            raise damaged(path, f"its {name} have the shape {extents[name].shape}")
    if extents["content_hashes"].shape[1] != 32 or views < 1 or width < 1:
        raise damaged(path, f"its rows have the shape {extents['rows'].shape}")


def _all(kind: type) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, list) and all(isinstance(item, kind) for item in value))


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


# What later steps rely on; all of it may be absent.
_PROVENANCE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data": (_is_text, "a path"),
    "folders": (_all(str), "a list of paths"),
    "backbone": (_is_text, "a name"),
    "weights": (_is_text, "a name or path"),
    "source": (lambda value: value is None or isinstance(value, dict), "an object"),
    "augment": (_is_text, "a recipe of views"),
    "group_file": (_is_text, "a path"),
    "group_pattern": (_is_text, "a regular expression"),
    "seed": (lambda value: value is None or (type(value) is int and 0 <= value < 2**63), "a whole number"),
    "environments": (_all(dict), "a list of objects"),
}


def _provenance(text: str, path: Path) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        raise damaged(path, "its provenance is not a JSON object")
    if wrong := wrong_provenance(provenance):
        raise damaged(path, wrong)
    return provenance


def wrong_provenance(provenance: dict[str, Any]) -> str:
    """What in a provenance later steps could not go by; empty if nothing is."""
    for name, (kind, needed) in _PROVENANCE.items():
        if not kind(provenance.get(name)):
            return f"{name} in its provenance is {str(provenance[name])[:60]!r}; needed: {needed}"
    return ""


def damaged(path: Path, what: str) -> FeatureFileError:
    """The error for a file that is not as it was written."""
    return FeatureFileError(
        f"{path} is damaged: {what}. `onepass verify {path}` lists all damage, `onepass repair {path}` repairs it."
    )
