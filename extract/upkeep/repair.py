"""Repairs a feature file: recomputes only what is damaged or missing, or drops it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.options import check_running
from onepass.extract.data.folders import Folders
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import source_of, store_of
from onepass.extract.data.stores import Store, is_there
from onepass.extract.one_pass.compute import Missing, Progress, Target, compute_missing, share_rows
from onepass.extract.one_pass.golden_check import check_golden
from onepass.extract.pixels.views import Augmentation, view_recipe
from onepass.extract.upkeep.repair_table import repaired_table
from onepass.extract.upkeep.verify import backbone_of_file
from onepass.features import FeatureFile, ImageTable, SkippedImage, only_feature_file
from onepass.features.errors import DataError, FeatureFileError, opt
from onepass.features.integrity import Integrity, check_file
from onepass.features.lock import writer_lock
from onepass.features.names import shown
from onepass.features.tables import command_line
from onepass.features.writer import RowWriter, write_feature_file

DROPPED = "its row was damaged or missing and was dropped by repair"


@dataclass(frozen=True)
class Repair:
    """What `repair` did.

    Attributes:
        path: The feature file.
        damage: Things that were not as they had been written.
        missing: Images that missed rows.
        computed: Images that went through the backbone.
        dropped: Images that have no row any more, or left the file.
        left: Images that still miss rows, with the reason.
    """

    path: Path
    damage: int = 0
    missing: int = 0
    computed: int = 0
    dropped: int = 0
    left: tuple[SkippedImage, ...] = ()

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """The same as `left`, by the name that all results have."""
        return self.left

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("onepass", "verify", self.path)

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        if not self.damage and not self.missing:
            return f"{shown(self.path)}: nothing to repair"
        return (
            f"{shown(self.path)}: {self.damage} damaged, {self.missing} missing; {self.computed} images computed, "
            f"{self.dropped} dropped, {len(self.left)} still to do"
        )


def repair(
    path: str | Path | None = None,
    *,
    data: Folders | None = None,
    drop: bool = False,
    weights: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Recomputes only what is damaged or missing in a feature file, or drops it.

    Images whose file is gone or has changed keep what they have; they are listed, and `extract` or
    `drop` deals with them. Images that are not in the file are left alone.

    Args:
        path: The feature file; by default the one in the current folder.
        data: The image folder or folders; by default where they were when the file was made.
        drop: Compute nothing: images with bad or missing rows lose them and are listed as skipped,
            images with a damaged table entry leave the file, and views that more than one image in
            20 lacks are given up.
        weights: See `backbone_of_file`.
        engine: See `backbone_of_file`.
        workers: Decoding threads.
        progress: Called with (images done, images to do).

    Raises:
        FeatureFileError: Nothing in the file can be believed, or the images are needed to repair it.
        DriftError: This machine computes other rows than the file's.
        UserError: The images or the backbone cannot be had.

    >>> print(repair("pets.mine.h5"))
    pets.mine.h5: nothing to repair
    """
    check_running(engine=engine, workers=workers, data=data, weights=weights)
    path = only_feature_file() if path is None else Path(path)
    path = path.resolve() if path.is_symlink() else path
    FeatureFile(path).close()  # a missing file or a damaged header ends here
    with writer_lock(path):
        integrity = check_file(path)
        if not integrity.damage and not integrity.pending:
            return Repair(path)
        done = Repair(path, damage=len(integrity.damage), missing=integrity.pending)
        with FeatureFile(path) as file:
            if drop:
                return replace(done, dropped=_drop(file, integrity))
            origin = _Origin(data, weights, engine, workers)
            return _recompute(file, integrity, done, origin, progress)


def _drop(file: FeatureFile, integrity: Integrity) -> int:
    if any(found.part == "class names" for found in integrity.damage):
        raise FeatureFileError(
            f"the class names of {file.path} are damaged; only the image folders can tell them. Name the folder with "
            f"{opt.data} and leave {opt.drop} out."
        )
    bad = [found.position for found in integrity.damage if found.part == "entry"]
    kept = np.setdiff1d(np.arange(len(file)), bad)
    if len(kept) == 0:
        raise FeatureFileError(f"every entry of {file.path} is damaged; nothing would be left. Extract again.")
    views = _finished_views(file)
    if integrity.tables_damaged or views != file.views:
        _rewrite(file, file.unchecked_table().taken(kept), views)
    share_rows(file.path, Missing.of(file.path))
    _clear_damaged_state(file.path)
    with FeatureFile(file.path) as now, RowWriter(file.path) as writer:
        missing = now.pending().tolist()
        for position in missing:
            writer.withdraw([(position, view) for view in range(now.views)])
            writer.skip(position, DROPPED)
    return len(bad) + len(missing)


def _finished_views(file: FeatureFile) -> int:
    """Views to keep: fewer than the file's if growing it was interrupted, so that plain rows are not lost for them.

    The largest number that at least 19 in 20 images have, of those that have any.
    """
    finished = np.cumprod(file.flags, axis=1).sum(axis=1)
    started = finished[finished > 0]
    return (
        max((v for v in range(1, file.views + 1) if (started >= v).mean() >= 0.95), default=1)
        if len(started)
        else file.views
    )


def _rewrite(file: FeatureFile, table: ImageTable, views: int) -> None:
    spec, provenance = file.spec, file.provenance
    if views == 1:
        spec, provenance = replace(spec, views="plain"), {**provenance, "augment": None}
    write_feature_file(file.path, spec, table, provenance, file.golden_rows, views=views, old=file)


@dataclass(frozen=True)
class _Origin:
    """Where images and backbone are now, as the user says."""

    data: Folders | None
    weights: str | None
    engine: str
    workers: int | None


def _recompute(
    file: FeatureFile, integrity: Integrity, done: Repair, origin: _Origin, progress: Progress | None
) -> Repair:
    backbone = backbone_of_file(file, weights=origin.weights, engine=origin.engine)
    check_golden(file, backbone, remedy=f"Or give up what is damaged with {opt.drop}.")
    augmentation = _augmentation(file)
    try:
        store = store_of(file, origin.data)
    except DataError as error:
        raise DataError(f"{error} Or {opt.drop} what is damaged.") from None
    entries = len(file)
    if integrity.tables_damaged:
        found = scan_source(source_of(file, origin.data), seed=int(file.provenance.get("seed") or 0))
        _rewrite(file, repaired_table(file, integrity, found), file.views)
    else:
        _require_images(file, store)
    _clear_damaged_state(file.path)
    share_rows(file.path, Missing.of(file.path))
    with FeatureFile(file.path) as now:
        paths, entries = now.table.paths, entries - len(now)
    target = Target(
        path=file.path,
        backbone=backbone,
        store=store,
        paths=paths,
        augmentation=augmentation,
        workers=origin.workers,
    )
    (computed,) = compute_missing([target], [Missing.of(file.path)], progress=progress)
    return replace(done, computed=computed.computed, dropped=entries, left=tuple(computed.left))


def _require_images(file: FeatureFile, store: Store) -> None:
    """Refuses, before anything is changed, a folder that has none of the images to be computed."""
    missing = Missing.of(file.path).positions
    files = [store.file(file.table.paths[position]) for position in missing]
    if files and not any(map(is_there, files)):
        raise DataError(
            f"none of the {len(missing)} images to compute is in {store}, {file.table.paths[missing[0]]} for one. Say "
            f"with {opt.data} where the images of {file.path} lie now, or {opt.drop} what is damaged."
        )


def _clear_damaged_state(path: Path) -> None:
    """Flags of no meaning and damaged records of skipped images count as nothing written."""
    with FeatureFile(path) as file, RowWriter(path) as writer:
        for position in np.flatnonzero(file.skip_records() == -1).tolist():
            writer.clear_skip(position)
        for position in np.flatnonzero(~file.thumbnailed()).tolist() if file.keeps_thumbnails else ():
            writer.clear_thumbnail(position)
        writer.withdraw([(i, view) for i, view in np.argwhere(file.stored("committed") > 1).tolist()])


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
            f"{view_recipe(augmentation)}. Repair it with the onepass that wrote it, or {opt.drop} what is damaged."
        )
    return augmentation
