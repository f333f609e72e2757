"""Rows of images for one use, such as scoring a head; they go into no feature file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.data.source import Source, scan_source
from onepass.extract.data.sources import store_of
from onepass.extract.data.stores import Store
from onepass.features import FeatureFile, ImageTable, SkippedImage, rows_to_score

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FolderRows:
    """Rows of images that go into no file.

    Attributes:
        x: (m, d) float32.
        table: What is known of the m images.
        part: Which of the source's images these are: train, val, test or all.
        skipped: Images of that part that could not be read.
    """

    x: np.ndarray
    table: ImageTable
    part: str
    skipped: list[SkippedImage]


def rows_of_source(
    source: Source,
    backbone: Backbone,
    *,
    part: str = "auto",
    seen: np.ndarray,
    labelled: bool = True,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FolderRows:
    """Computes the rows of images for one use, such as scoring a head.

    Args:
        source: Of the images.
        backbone: What computes the rows.
        part: See `features.rows_to_score`.
        seen: (m, 8) uint8, first bytes of the content hashes that the head was trained on.
        labelled: Whether images without a label are left out.
        seed: Of the split that is drawn where the source has none.
        workers: Decoding threads.
        progress: Called with (images done, images to do).
    """
    found = scan_source(source, seed=seed)
    table = found.table.part(found.table.labelled) if labelled else found.table
    chosen, part = rows_to_score(
        table.splits, table.content_hashes, part, drawn=found.drawn, seen=seen, ids=table.group_ids()
    )
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
        table=table.taken(read),
        part=part,
        skipped=[SkippedImage(table.paths[i], reasons[key]) for i, key in keys.items() if key in reasons],
    )
    return found, read


def _key(table: ImageTable, position: int) -> bytes:
    """The content of an image; of one that was not read, its path."""
    content = table.content_hashes[position]
    return content.tobytes() if content.any() else table.paths[position].encode(errors="surrogateescape")
