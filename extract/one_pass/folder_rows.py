"""Rows of labelled images for one use, such as scoring a head; they go into no feature file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source, store_of
from onepass.extract.data.stores import Store
from onepass.features import FeatureFile, ImageTable, SkippedImage, rows_to_score
from onepass.features.errors import DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FolderRows:
    """Rows of labelled images that go into no file.

    Attributes:
        x: (m, d) float32.
        y: (m,) int64, positions in `class_names`.
        class_names: k names.
        part: Which of the folder's images these are: train, val, test or all.
        skipped: Images of that part that could not be read.
    """

    x: np.ndarray
    y: np.ndarray
    class_names: tuple[str, ...]
    part: str
    skipped: list[SkippedImage]


def rows_of_folder(
    data: Path,
    backbone: Backbone,
    *,
    part: str = "auto",
    seen: np.ndarray,
    class_names: tuple[str, ...],
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FolderRows:
    """Computes the rows of labelled images for one use, such as scoring a head.

    Args:
        data: Class folders, optionally under split folders; one class is enough.
        backbone: What computes the rows.
        part: See `features.rows_to_score`.
        seen: (m, 8) uint8, first bytes of the content hashes that the head was trained on.
        class_names: Classes there may be; another one is refused before anything is computed.
        seed: Of the split that is drawn where the folder has none.
        workers: Decoding threads.
        progress: Called with (images done, images to do).

    Raises:
        DataError: The folder cannot be used or has a class that is not in `class_names`.
    """
    found = scan_source(open_source(data, least_classes=1), seed=seed)
    table = found.table
    if unknown := [name for name in table.class_names if name not in class_names]:
        raise DataError(
            f"{data} has the class {unknown[0]!r}, which the head does not know; it knows {', '.join(class_names)}. "
            "Rename the class folders, or train a head on these images."
        )
    chosen, part = rows_to_score(table.splits, table.content_hashes, part, drawn=found.drawn, seen=seen)
    return _computed(table, found.store, chosen, part, backbone, workers, progress)[0]


def rows_of_images(
    file: FeatureFile,
    positions: np.ndarray,
    backbone: Backbone,
    *,
    part: str,
    data: Sequence[Path] = (),
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[FolderRows, np.ndarray]:
    """Computes the rows of images of a feature file by another backbone than that of the file.

    Args:
        file: What knows the images; its rows are not read.
        positions: (n,) of the images.
        backbone: What computes the rows.
        part: What to call these images.
        data: Where the image folders lie now; by default where they were.
        workers: Decoding threads.
        progress: Called with (images done, images to do).

    Returns:
        The rows, and the (m,) positions of the images that could be read and are still what they were.

    Raises:
        DataError: The image folder is gone.
    """
    return _computed(file.table, store_of(file, data), positions, part, backbone, workers, progress, verify=True)


def _computed(
    table: ImageTable,
    store: Store,
    positions: np.ndarray,
    part: str,
    backbone: Backbone,
    workers: int | None,
    progress: Progress | None,
    *,
    verify: bool = False,
) -> tuple[FolderRows, np.ndarray]:
    """Each content is computed once; images of one content share its row, or the reason why it has none."""
    keys = {int(i): _key(table, int(i)) for i in np.sort(positions)}
    files = {key: store.file(table.paths[i]) for i, key in keys.items()}
    reasons: dict[bytes, str] = {}
    rows: dict[bytes, np.ndarray] = {}
    stream = backbone.stream(files.items(), on_skip=reasons.__setitem__, workers=workers, verify=verify)
    for key, views in stream:
        rows[key] = views[0]
        if progress:
            progress(len(rows), len(files))
    read = np.array([i for i, key in keys.items() if key in rows], np.int64)
    found = FolderRows(
        x=np.array([rows[keys[int(i)]] for i in read], np.float32).reshape(len(read), backbone.spec.width),
        y=table.labels[read].astype(np.int64),
        class_names=table.class_names,
        part=part,
        skipped=[SkippedImage(table.paths[i], reasons[key]) for i, key in keys.items() if key in reasons],
    )
    return found, read


def _key(table: ImageTable, position: int) -> bytes:
    """The content of an image; of one that was not read, its path."""
    content = table.content_hashes[position]
    return content.tobytes() if content.any() else table.paths[position].encode(errors="surrogateescape")
