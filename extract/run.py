"""The one pass: every image of a folder through the backbone once, into a feature file that lasts."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from extract.account import Extraction, account
from extract.backbone import BATCH_SIZE, Backbone, load_backbone
from extract.catalogue import BUNDLED
from extract.fill import Lacking, Progress, fill
from extract.folders import Folders, check_folder, image_folders
from extract.prepare import (
    calibrated_for,
    check_golden,
    choose_views,
    record_drift,
    require_spec,
    scan_for,
    take_over,
    write_prepared,
)
from features import FeatureFile
from features.errors import OptionError
from features.lock import writer_lock


class PassOptions(TypedDict, total=False):
    """Settings of the pass itself.

    Attributes:
        out: The feature file; by default `<data>.<backbone>.h5` in the current folder.
        seed: Of the split that is drawn where the folder has none.
        views: Views per image, the plain one included; by default those that the file has, else 1.
        augment: Recipe of the other views, see `Augmentation.parse`.
        base: Feature files of the same spec whose rows are reused by content.
        rehash: Read every image to see whether it changed, whatever its size and time say.
        accept_drift: Go on although this machine computes other rows than the file's; it is recorded.
        batch_size: Rows committed together.
        workers: Decoding threads; by default one per processor.
        progress: Called with (images done, images to do) as rows are committed.
    """

    out: str | Path | None
    seed: int
    views: int | None
    augment: str | None
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
    check_folder(data)
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
        raise OptionError("--batch-size and --workers must be at least 1.")
    folders, _ = image_folders(data)
    seed, accept = options.get("seed", 0), options.get("accept_drift", False)
    path = Path(options.get("out") or default_path(folders, backbone.spec.backbone))
    bases = [Path(base) for base in options.get("base", ())]
    with writer_lock(path):
        old = FeatureFile(path) if path.exists() else None
        axis = choose_views(old, options.get("views"), options.get("augment"))
        if axis.count > 1 and backbone.spec.resize == "keras":
            raise OptionError("--resize keras gives plain images alone; leave --views out, or choose another --resize.")
        scan = scan_for(data, old, seed=seed, rehash=options.get("rehash", False))
        backbone = calibrated_for(backbone, scan, old)
        if old:
            require_spec(old, backbone.spec)
        started = time.perf_counter()
        write_prepared(path, backbone, scan, axis, data, old=old, seed=seed)
        drifts = take_over(path, bases, backbone, accept_drift=accept)
        lacking = Lacking.of(path)
        if old and lacking.images:
            drifts.append(check_golden(old, backbone, accept=accept))
        for drift in drifts:
            if not drift.accepted:
                record_drift(path, backbone, drift)
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
    return account(path, scan, backbone, axis, done, drifts, seconds)
