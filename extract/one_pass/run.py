"""The one pass: every image of a folder through the backbone once, into a feature file that lasts."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone, load_backbone
from onepass.extract.backbones.catalogue import BUNDLED
from onepass.extract.data.folders import Folders, FolderScan, check_folder, image_folders
from onepass.extract.data.groups import Groups
from onepass.extract.one_pass.choices import ViewAxis, choose_groups, choose_row_dtype, choose_views
from onepass.extract.one_pass.compute import Lacking, Progress, fill, share_rows
from onepass.extract.one_pass.prepare import (
    calibrated_for,
    check_golden,
    dropped_contents,
    existing,
    held_views,
    lacking_views,
    record_drift,
    require_spec,
    scan_for,
    write_prepared,
)
from onepass.extract.one_pass.report import Extraction, account
from onepass.extract.pixels.decode import require_views
from onepass.features import FeatureFile, Spec
from onepass.features.drift import Drift
from onepass.features.errors import OptionError, opt
from onepass.features.lock import writer_lock
from onepass.features.writer import RowWriter


class PassOptions(TypedDict, total=False):
    """Settings of the pass itself.

    Attributes:
        out: The feature file; by default `<data>.<backbone>.h5` in the current folder.
        seed: Of the split that is drawn where the folder has none; by default the file's, else 0.
        views: Views per image, the plain one included; by default those that the file has, else 1.
        augment: Recipe of the other views, see `Augmentation.parse`.
        groups: Which images must stay on one side of a split, such as those of a patient: a CSV file with the
            columns path and group, or a mapping of paths to groups. Paths are those of the table, or names of
            files that occur once; every image must be named, and an empty group makes it a group of its own. By
            default images keep the groups that the file has.
        group_pattern: Instead, a regular expression that is searched in the path; what its first parentheses
            find is the group.
        row_dtype: What rows are stored as, float32 or float16 (half the disk); by default as in the file, else
            float32. From float32 to float16 rows are rounded, the other way they are computed anew.
        base: Feature files of the same spec whose rows are reused by content.
        rehash: Read every image to see whether it changed, whatever its size and time say, and try
            those again that could not be decoded.
        accept_drift: Go on although this machine computes other rows than the file's; it is recorded.
        batch_size: Rows committed together.
        workers: Decoding threads; by default one per processor.
        progress: Called with (images done, images to do) as rows are committed.
    """

    out: str | Path | None
    seed: int | None
    views: int | None
    augment: str | None
    groups: Groups | None
    group_pattern: str | None
    row_dtype: str | None
    base: Sequence[str | Path]
    rehash: bool
    accept_drift: bool
    batch_size: int
    workers: int | None
    progress: Progress | None


def extract_features(
    data: Folders,
    *,
    backbone: str | Backbone = BUNDLED,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str = "squash",
    pooling: str = "avg",
    precision: str = "auto",
    engine: str = "auto",
    **options: Unpack[PassOptions],
) -> Path:
    """Runs a backbone over an image folder once and keeps the rows.

    The same call again, after a crash or after images were added, computes only what is missing.

    Args:
        data: Class folders, optionally under train / val / test folders; or several such folders.
        backbone: Name, path of a `.keras` file, or what `load_backbone` returned.
        weights: See `load_backbone`; this and the settings down to `engine` are left out when
            `backbone` is loaded already.
        image_size: Input side, pixels.
        resize: squash, crop, pad or keras.
        pooling: avg, max or flatten.
        precision: float32, bfloat16, int8 or auto.
        engine: openvino, tensorflow or auto.
        **options: See `PassOptions`.

    Returns:
        Path of the feature file.

    Raises:
        UserError: Folder, backbone, weights or file cannot be used; the message says what to do.
    """
    check_folder(data, groups=options.get("groups"), group_pattern=options.get("group_pattern"))
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(
            backbone,
            weights=weights,
            image_size=image_size,
            resize=resize,
            pooling=pooling,
            precision=precision,
            engine=engine,
            batch_size=options.get("batch_size", BATCH_SIZE),
        )
    return run_extraction(data, backbone, **options).path


def default_path(folders: Sequence[Path], backbone: str) -> Path:
    """`<data>.<backbone>.h5` in the current folder; several folders' names are joined by +."""
    names = "+".join(folder.resolve().name or "images" for folder in folders)
    return Path(f"{names[:150]}.{backbone}.h5")


def run_extraction(data: Folders, backbone: Backbone, **options: Unpack[PassOptions]) -> Extraction:
    """`extract_features` with a backbone at hand, and the whole account of what was done."""
    batch_size, workers = options.get("batch_size", BATCH_SIZE), options.get("workers")
    if batch_size < 1 or (workers is not None and workers < 1):
        raise OptionError(f"{opt.batch_size} and {opt.workers} must be at least 1.")
    folders, _ = image_folders(data)
    seed, rehash, accept = options.get("seed"), options.get("rehash", False), options.get("accept_drift", False)
    path = Path(options.get("out") or default_path(folders, backbone.spec.backbone))
    path = path.resolve() if path.is_symlink() else path  # or the link would be replaced, not the file
    with contextlib.ExitStack() as stack:
        bases = [stack.enter_context(FeatureFile(base)) for base in options.get("base", ())]
        stack.enter_context(writer_lock(path))
        old = stack.enter_context(existing(path))
        axis = choose_views(old, options.get("views"), options.get("augment"))
        row_dtype = choose_row_dtype(old, options.get("row_dtype"))
        groups = choose_groups(old, options.get("groups"), options.get("group_pattern"))
        require_views(backbone.spec.resize, range(axis.count))
        require_specs(old, bases, backbone.spec)
        scan = scan_for(data, old, seed=seed, rehash=rehash, groups=groups)
        like = [file for file in (old, *bases) if file]
        backbone = calibrated_for(backbone, scan, like[0] if like else None)
        require_specs(old, bases, backbone.spec)
        started = time.perf_counter()
        drifts = _check_rows(path, backbone, scan, axis, old, bases, row_dtype=row_dtype, accept=accept, rehash=rehash)
        write_prepared(path, backbone, scan, axis, data, old=old, seed=seed, groups=groups, row_dtype=row_dtype)
        with RowWriter(path) as writer:
            for base in bases:
                writer.copy_rows(base)
        for golden, environments, drift in drifts:
            if not drift.accepted:
                record_drift(path, golden, environments, drift)
        lacking = Lacking.of(path, retry=rehash)
        if lacking.images:
            share_rows(path, lacking)
            lacking = Lacking.of(path, retry=rehash)
        done = fill(
            path,
            lacking,
            backbone,
            root=scan.root,
            paths=scan.table.paths,
            unread=scan.unread,
            augmentation=axis.augmentation,
            batch_size=batch_size,
            workers=workers,
            progress=options.get("progress"),
        )
        seconds = time.perf_counter() - started
        dropped = len(dropped_contents(old, scan)) if old else 0
    worst = min((drift for *_, drift in drifts), key=lambda drift: drift.cosine, default=None)
    return account(path, scan, backbone, axis, done, dropped=dropped, drift=worst, seconds=seconds)


def require_specs(old: FeatureFile | None, bases: Sequence[FeatureFile], spec: Spec) -> None:
    """Refuses rows of another spec, those at hand and those to be reused.

    Raises:
        SpecMismatchError: Naming the file.
    """
    if old:
        require_spec(old, spec, remedy=f"Repeat the settings of the file, or choose another file with {opt.out}.")
    for base in bases:
        require_spec(base, spec, remedy=f"Repeat the settings of the file, or leave it out of {opt.base}.")


def _check_rows(
    path: Path,
    backbone: Backbone,
    scan: FolderScan,
    axis: ViewAxis,
    old: FeatureFile | None,
    bases: Sequence[FeatureFile],
    *,
    row_dtype: str,
    accept: bool,
    rehash: bool,
) -> list[tuple[np.ndarray, list[dict[str, Any]], Drift]]:
    """Compares golden rows wherever rows of this machine will stand beside others, before anything is written.

    Returns:
        Golden rows and environments that join the file, and how far they lie from what is there.
    """
    found: list[tuple[np.ndarray, list[dict[str, Any]], Drift]] = []
    new = lacking_views(scan, axis, [old] if old else [], row_dtype=row_dtype, retry=rehash).keys()
    if old and (new or Lacking.of(path).images):
        drift = check_golden(old, backbone, accept=accept)
        found.append((backbone.golden_rows()[None], [backbone.environment], drift))
    for base in bases:
        if new & held_views(base, axis, row_dtype).keys():
            drift = check_golden(base, backbone, accept=accept)
            found.append((base.golden_rows, base.provenance.get("environments") or [], drift))
    return found
