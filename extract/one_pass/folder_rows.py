"""Rows of labelled images for one use, such as scoring a head; they go into no file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.data.folders import scan_folder
from onepass.features import SkippedImage, rows_to_score
from onepass.features.errors import DataError


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
    progress: Callable[[int, int], None] | None = None,
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
    scan = scan_folder(data, seed=seed, least_classes=1)
    table = scan.table
    if unknown := [name for name in table.class_names if name not in class_names]:
        raise DataError(
            f"{data} has the class {unknown[0]!r}, which the head does not know; it knows {', '.join(class_names)}. "
            "Rename the class folders, or train a head on these images."
        )
    chosen, part = rows_to_score(table.splits, table.content_hashes, part, drawn=scan.drawn, seen=seen)
    reasons: dict[int, str] = {}
    files = [(int(i), scan.root / table.paths[i]) for i in chosen]
    rows: dict[int, np.ndarray] = {}
    for position, views in backbone.stream(files, on_skip=reasons.__setitem__, workers=workers):
        rows[position] = views[0]
        if progress:
            progress(len(rows), len(files))
    order = sorted(rows)
    return FolderRows(
        x=np.array([rows[i] for i in order], np.float32).reshape(len(order), backbone.spec.width),
        y=table.labels[order].astype(np.int64),
        class_names=table.class_names,
        part=part,
        skipped=[SkippedImage(table.paths[i], reasons[i]) for i in sorted(reasons)],
    )
