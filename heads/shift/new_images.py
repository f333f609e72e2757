"""Rows of new images: of another feature file, or computed now from a folder, a table or an archive."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onepass.extract import (
    Backbone,
    Source,
    SourceOptions,
    Store,
    backbone_of_file,
    is_source,
    open_like,
    rows_of_source,
    store_of,
)
from onepass.features import NONE, FeatureFile, ImageTable, SkippedImage
from onepass.features.drift import measure_drift, require_no_drift
from onepass.features.errors import DataError, FileKindError, OptionError, Parameter, TrainingError, opt
from onepass.features.spec import require_equal_specs
from onepass.features.thumbnails import SIDE
from onepass.heads.file_kinds import FileKind, file_kind
from onepass.heads.saved_head import SavedHead

Progress = Callable[[int, int], None]

_COLUMNS = ("images", "path", "label", "label_separator")


@dataclass(frozen=True, eq=False)
class NewImages:
    """New images with their rows.

    Attributes:
        name: As the user calls them.
        x: (m, d) float32.
        table: What is known of them.
        thumbnails: (m, 24, 24) uint8, zeros where there are none.
        store: Opens where they lie.
        skipped: Images that could not be read.
    """

    name: str
    x: np.ndarray
    table: ImageTable
    thumbnails: np.ndarray
    store: Callable[[], Store]
    skipped: list[SkippedImage] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """How new images are found and turned into rows.

    Attributes:
        images: Where the images lie that a table names; by default beside it.
        path: Column of a table that names the images, or a pattern such as `{id}.jpg`.
        label: Column of classes. What is not said of a table is as it was for the training.
        label_separator: What stands between several labels of an image.
        weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
        engine: openvino, tensorflow or auto.
        accept_drift: Go on where this machine computes other rows.
        workers: Decoding threads.
        progress: Called with (images done, images to do).
    """

    images: str | None = None
    path: str | None = None
    label: str | None = None
    label_separator: str | None = None
    weights: str | None = None
    engine: str = "auto"
    accept_drift: bool = False
    workers: int | None = None
    progress: Progress | None = None

    @property
    def columns(self) -> SourceOptions:
        """What of a table means what."""
        return SourceOptions.of({name: getattr(self, name) for name in _COLUMNS})


def new_images(
    data: str | Path | FeatureFile, file: FeatureFile, head: SavedHead | None, options: NewOptions
) -> NewImages:
    """The rows of what a user names.

    Raises:
        DataError, FileKindError: It cannot be used.
        OptionError: Columns are named of what is no table.
        SpecMismatchError: It is a feature file of other rows.
        TrainingError: It holds no image that can be read.
        DriftError, BackboneError, WeightsError: The backbone cannot be had as it was.
    """
    if isinstance(data, FeatureFile):
        found = _of_file(data, file)
    elif file_kind(data) is FileKind.FEATURES and not is_source(data):
        _require_no_columns(data, options)
        with FeatureFile(data) as other:
            found = _of_file(other, file)
    else:
        found = _of_source(Path(data), file, head, options)
    if not len(found.x):
        raise TrainingError(f"{found.name} holds no image with a row; needed: one or more that can be read.")
    return found


def _of_file(other: FeatureFile, file: FeatureFile) -> NewImages:
    require_equal_specs(
        other.spec,
        file.spec,
        left_name=str(other.path),
        right_name=str(file.path),
        remedy=f"Extract the new images with the settings of {file.path}.",
    )
    other.require_complete()
    there = np.flatnonzero(other.committed)
    path, rows, table = other.path, other.read(there)[0], other.table.taken(there)

    def store() -> Store:
        with FeatureFile(path) as again:
            return store_of(again)

    return NewImages(str(path), rows, table, other.thumbnails[there], store)


def _of_source(path: Path, file: FeatureFile, head: SavedHead | None, options: NewOptions) -> NewImages:
    kind = file_kind(path)
    if not (path.is_dir() or is_source(path) or kind in (FileKind.OTHER, FileKind.MISSING)):
        raise FileKindError(
            f"{path} is {kind}; needed as new images: a folder, a table, an archive, or a feature file.", path=path
        )
    source = _opened(path, file, options)
    backbone = _backbone(file, head, options)
    found = rows_of_source(
        source,
        backbone,
        part="all",
        seen=np.zeros((0, 8), np.uint8),
        labelled=False,
        workers=options.workers,
        progress=options.progress,
    )
    thumbnails = np.zeros((len(found.x), SIDE, SIDE), np.uint8)
    return NewImages(str(path), found.x, found.table, thumbnails, lambda: source.store, found.skipped)


def _opened(path: Path, file: FeatureFile, options: NewOptions) -> Source:
    """With its labels, if it has any; else all its images."""
    columns = options.columns
    if not is_source(path):
        _require_no_columns(path, options)
    try:
        return open_like(path, file.provenance, columns)
    except (DataError, OptionError) as error:
        if options.label or options.label_separator:
            raise
        try:
            return open_like(path, {}, SourceOptions.of({**columns.given(), "unlabelled": True}))
        except (DataError, OptionError):
            raise error from None


def _require_no_columns(data: object, options: NewOptions) -> None:
    if name := next((name for name in _COLUMNS if getattr(options, name) is not None), None):
        raise OptionError(f"{Parameter(name)} belongs to a table, and {data} is none. Leave it out.")


def _backbone(file: FeatureFile, head: SavedHead | None, options: NewOptions) -> Backbone:
    if head:
        return head.load_backbone(weights=options.weights, engine=options.engine, accept_drift=options.accept_drift)
    backbone = backbone_of_file(file, weights=options.weights, engine=options.engine)
    if not options.accept_drift:
        drift = measure_drift(file.golden_rows, backbone.golden_rows(), file.spec.precision)
        require_no_drift(drift, name=str(file.path), remedy=f"Or go on with {opt.accept_drift(True)}.")
    return backbone


def classes_known(table: ImageTable, head: SavedHead) -> bool:
    """Whether the labels of new images are ones that a head can be judged by."""
    present = {table.class_names[label] for label in np.unique(table.labels[table.labelled])}
    return table.task == head.task != NONE and bool(present) and present <= set(head.class_names)
