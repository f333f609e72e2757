"""Verifies a feature file against its checksums and golden rows, and mends what is bad or missing."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbone import BATCH_SIZE, Backbone, Source, load_backbone_for
from extract.fill import Lacking, Progress, fill
from extract.folders import Folders, image_folders, scan_folder
from extract.prepare import check_golden
from extract.views import Augmentation, view_recipe
from features import FeatureFile, ImageTable, SkippedImage
from features.drift import Drift
from features.errors import DataError, FeatureFileError, UserError
from features.integrity import Integrity, check_file
from features.lock import writer_lock
from features.writer import RowWriter, write_feature_file

DROPPED = "its row was damaged or missing and was dropped by repair"


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        integrity: Checksums, flags and counts.
        drift: Of the golden rows; None if they were not recomputed.
        not_checked: Why they were not.
    """

    integrity: Integrity
    drift: Drift | None
    not_checked: str = ""

    @property
    def verdict(self) -> str:
        """damaged, incomplete, drifted, unproven (golden rows not checked) or whole; the worst counts."""
        if self.integrity.damage:
            return "damaged"
        if self.integrity.pending:
            return "incomplete"
        if self.drift and not self.drift.accepted:
            return "drifted"
        return "unproven" if self.not_checked else "whole"

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        counts = {
            name: getattr(self.integrity, name) for name in ("images", "views", "committed", "pending", "skipped")
        }
        return {
            "path": str(self.integrity.path),
            "verdict": self.verdict,
            **counts,
            "damage": [asdict(found) for found in self.integrity.damage],
            "drift": asdict(self.drift) if self.drift else None,
            "golden_rows_not_checked": self.not_checked or None,
        }

    def __str__(self) -> str:
        found = self.integrity
        lines = [
            f"{found.path}: {self.verdict}",
            (
                f"{found.committed} of {found.images} images complete and intact, {found.pending} to do, "
                f"{found.skipped} skipped"
            ),
        ]
        lines += [f"damaged: {damage}" for damage in found.damage]
        if self.drift:
            lines.append(f"golden rows: {self.drift}")
        if self.not_checked:
            lines.append(f"golden rows not checked: {self.not_checked}")
        if self.verdict in ("damaged", "incomplete"):
            lines.append(f"Mend it with: onepass repair {found.path}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Repair:
    """What `repair` did.

    Attributes:
        path: The feature file.
        damage: Things that were not as they had been written.
        missing: Images that had no row yet.
        computed: Images that went through the backbone.
        dropped: Images that have no row now, with the reason.
    """

    path: Path
    damage: int
    missing: int
    computed: int
    dropped: list[SkippedImage]

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        if not self.damage and not self.missing:
            return f"{self.path}: nothing to mend"
        return (
            f"{self.path}: {self.damage} damaged, {self.missing} missing; {self.computed} images computed, "
            f"{len(self.dropped)} without a row"
        )


def backbone_of(file: FeatureFile, *, weights: str | None = None, engine: str = "auto") -> Backbone:
    """The backbone that computed a file's rows.

    Args:
        file: The feature file.
        weights: Where its weights or `.keras` file lie now, if not where they were.
        engine: openvino, tensorflow or auto.

    Raises:
        BackboneError: It cannot be built or run here.
        SpecMismatchError: What is found here is another backbone.
    """
    source = Source(str(file.provenance.get("backbone")), weights or str(file.provenance.get("weights")))
    if weights and weights.endswith(".keras"):
        source = Source(weights, "imagenet")
    return load_backbone_for(file.spec, source=source, engine=engine, needed_by=str(file.path))


def verify(path: str | Path, *, golden: bool = True, weights: str | None = None, engine: str = "auto") -> Verification:
    """Looks whether a feature file is what was written, and whether this machine still computes its rows.

    Args:
        path: The feature file.
        golden: Recompute the golden rows.
        weights: See `backbone_of`.
        engine: See `backbone_of`.

    Raises:
        FeatureFileError: It is no feature file, or damaged so that nothing in it can be believed.
    """
    integrity = check_file(Path(path))
    if not golden:
        return Verification(integrity, None)
    with FeatureFile(path) as file:
        try:
            return Verification(
                integrity, check_golden(file, backbone_of(file, weights=weights, engine=engine), accept=True)
            )
        except UserError as error:
            return Verification(integrity, None, str(error))


def repair(
    path: str | Path,
    *,
    data: Folders | None = None,
    drop: bool = False,
    weights: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Recomputes only what is bad or missing in a feature file, or drops it.

    Args:
        path: The feature file.
        data: The image folder or folders; by default where they were when the file was made.
        drop: Compute nothing: images with bad or missing rows lose them and are listed as skipped,
            images with a damaged table entry leave the file.
        weights: See `backbone_of`.
        engine: See `backbone_of`.
        workers: Decoding threads.
        progress: Called with (images done, images to do).

    Raises:
        FeatureFileError: Nothing in the file can be believed, or the images are needed to mend it.
        UserError: The images or the backbone cannot be had.
    """
    path = Path(path)
    with writer_lock(path):
        integrity = check_file(path)
        if not integrity.damage and not integrity.pending:
            return Repair(path, 0, 0, 0, [])
        with FeatureFile(path) as file:
            if drop:
                computed = 0
                _drop(file, integrity)
            else:
                computed = _recompute(file, integrity, data, weights, engine, workers, progress)
        with FeatureFile(path) as file:
            return Repair(path, len(integrity.damage), integrity.pending, computed, file.skipped)


def _drop(file: FeatureFile, integrity: Integrity) -> None:
    if any(found.part == "class names" for found in integrity.damage):
        raise FeatureFileError(
            f"the class names of {file.path} are damaged; only the image folders can tell them. Name the folder with "
            "--data and leave --drop out."
        )
    bad = {found.position for found in integrity.damage if found.part == "entry"}
    if bad:
        kept = np.setdiff1d(np.arange(len(file)), list(bad))
        table = _without(file.unchecked_table(), kept)
        write_feature_file(file.path, file.spec, table, file.provenance, file.golden_rows, views=file.views, old=file)
    with FeatureFile(file.path) as now, RowWriter(file.path) as writer:
        records, damaged = now.skip_records(), now.damaged(np.arange(len(now)))
        for position in np.flatnonzero((records != 1) & ~(now.flags & ~damaged).all(axis=1)).tolist():
            writer.withdraw([(position, view) for view in range(now.views)])
            writer.skip(position, DROPPED)
        for position in np.flatnonzero(now.committed & (records == -1)).tolist():
            writer.clear_skip(position)


def _without(table: ImageTable, kept: np.ndarray) -> ImageTable:
    names = ("labels", "splits", "content_hashes", "file_sizes", "file_mtimes")
    columns = {name: getattr(table, name)[kept] for name in names}
    return replace(table, paths=tuple(table.paths[i] for i in kept), **columns)


def _recompute(
    file: FeatureFile,
    integrity: Integrity,
    data: Folders | None,
    weights: str | None,
    engine: str,
    workers: int | None,
    progress: Progress | None,
) -> int:
    backbone = backbone_of(file, weights=weights, engine=engine)
    check_golden(file, backbone)
    folders = data if data is not None else [Path(folder) for folder in file.provenance.get("folders", [])]
    try:
        root = image_folders(folders)[1]
    except DataError as error:
        raise DataError(
            f"{error} Say with --data where the images of {file.path} lie now, or --drop what is bad."
        ) from None
    unread: dict[str, str] = {}
    if integrity.tables_damaged:
        scan = scan_folder(folders, seed=int(file.provenance.get("seed", 0)))
        unread = scan.unread
        write_feature_file(
            file.path, file.spec, scan.table, file.provenance, file.golden_rows, views=file.views, old=file
        )
    with FeatureFile(file.path) as now, RowWriter(file.path) as writer:
        for position in np.flatnonzero(now.skip_records() == -1).tolist():
            writer.clear_skip(position)
        for position, view in np.argwhere(now.stored("committed") > 1).tolist():
            writer.withdraw([(position, view)])
        paths = now.table.paths
    done = fill(
        file.path,
        Lacking.of(file.path),
        backbone,
        root=root,
        paths=paths,
        unread=unread,
        augmentation=_augmentation(file),
        batch_size=BATCH_SIZE,
        workers=workers,
        progress=progress,
    )
    _drop_unreadable(file.path, done.skipped)
    return done.computed


def _drop_unreadable(path: Path, skipped: list[SkippedImage]) -> None:
    """Images that kept some views but whose file is gone or has changed lose these too: rows are whole or absent."""
    reasons = {image.path: image.reason for image in skipped}
    with FeatureFile(path) as file, RowWriter(path) as writer:
        for position in file.pending().tolist():
            if reason := reasons.get(file.table.paths[position]):
                writer.withdraw([(position, view) for view in range(file.views)])
                writer.skip(position, reason)


def _augmentation(file: FeatureFile) -> Augmentation | None:
    """The recipe of a file's views.

    Raises:
        FeatureFileError: Its views were drawn by another rule than this onepass has.
    """
    if file.views == 1:
        return None
    augmentation = Augmentation.parse(str(file.provenance.get("augment")))
    if view_recipe(augmentation) != file.spec.views:
        raise FeatureFileError(
            f"the views of {file.path} were drawn by {file.spec.views}; this onepass draws "
            f"{view_recipe(augmentation)}. Mend it with the onepass that wrote it, or --drop what is bad."
        )
    return augmentation
