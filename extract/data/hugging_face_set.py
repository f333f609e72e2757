"""A data set by the library of Hugging Face: from the hub, or from a folder of Parquet files."""

import contextlib
import importlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.extract.data.records import Records
from onepass.extract.data.stores import HeldImage, Stamp, require_inside
from onepass.extract.frameworks import import_datasets
from onepass.features.errors import DataError, UnreadableImageError, opt
from onepass.features.progress import phase

_BUILDERS = ("parquet", "arrow", "imagefolder", "cache")
"""Kinds of files that are read: they hold images and plain values, and run nothing."""
_SPLIT = "split"
_CONFIGURATION = re.compile(r"(.+?):([\w.-]+)")


@dataclass(frozen=True, eq=False)
class ArrowStore:
    """Images in a column of a data set that lies in Arrow files.

    Attributes:
        origin: What opens it again.
        cells: Split -> chunked array of structs of bytes and path.
        rows: Name -> split and row.
        changed: What changes with its files.
        folders: Where files may lie that a cell names instead of holding them.
    """

    origin: str
    cells: Mapping[str, Any]
    rows: Mapping[str, tuple[str, int]]
    changed: Stamp
    folders: tuple[Path, ...]

    def __str__(self) -> str:
        return self.origin

    def names(self) -> Iterator[str]:
        return iter(self.rows)

    def file(self, name: str) -> HeldImage:
        require_inside(name, self)
        return HeldImage(self, name)

    def stamp(self, name: str) -> Stamp:  # noqa: ARG002 (all have that of their files)
        return self.changed

    def read(self, name: str) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImageError: With the reason.
        """
        if name not in self.rows:
            raise UnreadableImageError("no such row")
        split, row = self.rows[name]
        cell = self.cells[split][row].as_py() or {}
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        path = Path(str(cell.get("path") or ""))
        if not path.is_file():
            raise UnreadableImageError("no bytes in this row")
        if not any(path.resolve().is_relative_to(folder) for folder in self.folders):
            raise UnreadableImageError("names a file outside of its data set")
        return path.read_bytes()


def hugging_face_set(name: str, revision: str | None, column: str | None) -> tuple[Records, ArrowStore, str | None]:
    """A data set; its images stay undecoded.

    Args:
        name: owner/name on the hub, or a folder; a colon and the name of a configuration may follow.
        revision: Commit, branch or tag; by default the newest.
        column: That holds the images, if several do.

    Returns:
        What it says of its images, these, and its commit; None for a folder.

    Raises:
        DataError: It cannot be had, or holds no images.
    """
    library = import_datasets()
    folder = Path(name) if Path(name).is_dir() else None
    found = None if folder else _CONFIGURATION.fullmatch(name)
    plain, configuration = (found[1], found[2]) if found else (name, None)
    called = f"hf:{name}"
    with _refused(called), _quiet(library):
        if folder and any((folder / one).is_file() for one in ("dataset_dict.json", "state.json")):
            loaded, commit = library.load_from_disk(str(folder)), None
        else:
            builder = library.load_dataset_builder(plain, configuration, revision=revision)
            if (kind := builder.info.builder_name) not in _BUILDERS:
                raise DataError(f"{called} is a data set of kind {kind}; needed: {', '.join(_BUILDERS[:-1])}.")
            commit = builder.hash if not folder and re.fullmatch(r"[0-9a-f]{40}", builder.hash or "") else None
            with phase(f"reading {called}"):
                builder.download_and_prepare()
            loaded = builder.as_dataset()
    parts = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    called += f"@{commit or revision}" if commit or revision else ""
    images = _image_column(library, called, next(iter(parts.values())).features, column)
    caches = [Path(library.config.HF_DATASETS_CACHE), Path(library.config.HF_CACHE_HOME)]
    store = _store(called, parts, images, tuple(one.resolve() for one in (*caches, *([folder] if folder else []))))
    return _records(library, called, parts), store, commit or revision


def _image_column(library: Any, called: str, features: Mapping[str, Any], wanted: str | None) -> str:
    images = [name for name, feature in features.items() if _holds_images(library, feature)]
    if wanted in images:
        return str(wanted)
    if wanted:
        raise DataError(
            f"{opt.path} is {wanted}, which holds no images in {called}; {', '.join(images) or 'none'} does."
        )
    if len(images) == 1:
        return images[0]
    if images:
        raise DataError(f"{called} holds images in {', '.join(images)}. Say by {opt.path} which are meant.")
    raise DataError(f"{called} has no column of images; it has {', '.join(features)[:200]}.")


def _holds_images(library: Any, feature: Any) -> bool:
    """True for images, also where nobody has said that bytes with a path are."""
    return isinstance(feature, library.Image) or (isinstance(feature, dict) and {*feature} == {"bytes", "path"})


def _store(called: str, parts: Mapping[str, Any], column: str, folders: tuple[Path, ...]) -> ArrowStore:
    import pyarrow.compute as pc

    cells = {split: part.data.column(column) for split, part in parts.items()}
    rows: dict[str, tuple[str, int]] = {}
    for split, cell in cells.items():
        paths = [str(path or "") for path in pc.struct_field(cell, "path").to_pylist()]
        told = len(set(paths)) == len(paths) and all(path and not _leads_out(path) for path in paths)
        names = paths if told else [f"{row:08d}" for row in range(len(paths))]
        prefix = f"{split}/" if len(cells) > 1 else ""
        rows |= {prefix + name: (split, row) for row, name in enumerate(names)}
    files = [Path(one["filename"]).stat() for part in parts.values() for one in part.cache_files]
    changed = Stamp(sum(one.st_size for one in files), max((one.st_mtime_ns for one in files), default=0))
    return ArrowStore(called, cells, rows, changed, folders)


def _leads_out(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/") or "\0" in path or "::" in path


def _records(library: Any, called: str, parts: Mapping[str, Any]) -> Records:
    """The columns of plain values; classes by their names."""
    first = next(iter(parts.values())).features
    columns: dict[str, list[Any]] = {}
    for name, feature in first.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, library.ClassLabel | library.Value):
            values = [value for part in parts.values() for value in part.data.column(name).to_pylist()]
            columns[name] = [_named(inner, value) for value in values]
    sizes = [(split, len(part)) for split, part in parts.items()]
    labels = [name for name, feature in first.items() if isinstance(feature, library.ClassLabel)]
    usual = {"label": labels[0]} if len(labels) == 1 else {}
    if len(parts) > 1 and _SPLIT not in columns:
        columns[_SPLIT] = [split for split, size in sizes for _ in range(size)]
        usual[_SPLIT] = _SPLIT
    places = [f"row {row} of {split}" for split, size in sizes for row in range(size)]
    return Records(Path(called), columns, places, images=("image",), usual=usual)


def _named(feature: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_named(feature, one) for one in value]
    if hasattr(feature, "int2str"):  # which has -1 for a test image whose class is kept back
        return feature.int2str(value) if isinstance(value, int) and value >= 0 else None
    return value if value is None or isinstance(value, str | int | float) else str(value)


@contextlib.contextmanager
def _refused(called: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of its own kinds, of the network, of the disk and of damaged files
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{called} cannot be had as a data set: {lines[0].rstrip('.')[:300]}. Needed: "
            "hf:owner/name or hf:owner/name@revision of the Hugging Face hub (hf auth login for what is private), or a "
            "folder of Parquet files."
        ) from None


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without the bars and warnings of the libraries: what fails is told once, by an error."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "fsspec", "httpx")]
    levels = [logger.level for logger in loggers]
    utils = importlib.import_module("datasets.utils")
    shown = not utils.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        library.disable_progress_bars()
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            library.enable_progress_bars()
