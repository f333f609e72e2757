"""The one pass: every image of a folder through the backbone once, into a feature file that lasts."""

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from extract.backbone import BATCH_SIZE, Backbone, load_backbone
from extract.catalogue import BUNDLED
from extract.folders import FolderScan, check_folder, scan_folder
from features import FeatureFile, SkippedImage
from features.errors import DataError, FeatureFileError, OptionError
from features.lock import writer_lock
from features.spec import require_equal_specs
from features.writer import RowWriter, write_feature_file


@dataclass(frozen=True)
class Extraction:
    """What one run did.

    Attributes:
        path: The feature file.
        images: Images in it that have a row.
        classes: Class name -> images with a row.
        computed: Images that went through the backbone in this run.
        reused: Images whose row was there already, or belongs to an image of the same content.
        skipped: Files without a row, with the reason.
        seconds: Duration of the pass, start-up of the engine included.
        engine: openvino or tensorflow.
        precision: float32 or bfloat16.
        drawn_split: True if the test split was drawn because the folder had none.
    """

    path: Path
    images: int
    classes: dict[str, int]
    computed: int
    reused: int
    skipped: list[SkippedImage]
    seconds: float
    engine: str
    precision: str
    drawn_split: bool

    @property
    def images_per_second(self) -> float:
        return self.computed / self.seconds if self.computed else 0.0


def extract_features(
    data: str | Path,
    *,
    backbone: str | Backbone = BUNDLED,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    resize: str = "squash",
    pooling: str = "avg",
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Runs a backbone over an image folder once and keeps the rows.

    The same call again, after a crash or after images were added, computes only what is missing.

    Args:
        data: Class folders, optionally under train / val / test folders.
        backbone: Name, path of a `.keras` file, or what `load_backbone` returned.
        weights: See `load_backbone`; this and the settings down to `engine` are left out when
            `backbone` is loaded already.
        image_size: Input side, pixels.
        resize: squash, crop or pad.
        pooling: avg, max or flatten.
        precision: float32, bfloat16 or auto.
        engine: openvino, tensorflow or auto.
        batch_size: Rows committed together.
        workers: Decoding threads; by default one per processor.
        out: The feature file; by default `<data>.<backbone>.h5` in the current folder.
        seed: Of the split that is drawn where the folder has none.
        progress: Called with (images done, images to do) as rows are committed.

    Returns:
        Path of the feature file.

    Raises:
        UserError: Folder, backbone, weights or file cannot be used; the message says what to do.
    """
    check_folder(Path(data))
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(
            backbone,
            weights=weights,
            image_size=image_size,
            resize=resize,
            pooling=pooling,
            precision=precision,
            engine=engine,
            batch_size=batch_size,
        )
    return run_extraction(
        Path(data), backbone, batch_size=batch_size, workers=workers, out=out, seed=seed, progress=progress
    ).path


def default_path(data: Path, backbone: str) -> Path:
    """`<data>.<backbone>.h5` in the current folder."""
    return Path(f"{data.resolve().name or 'images'}.{backbone}.h5")


def run_extraction(
    data: Path,
    backbone: Backbone,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """`extract_features` with a backbone at hand, and the whole account of what was done."""
    if batch_size < 1 or (workers is not None and workers < 1):
        raise OptionError("--batch-size and --workers must be at least 1.")
    path = Path(out) if out else default_path(data, backbone.spec.backbone)
    with writer_lock(path):
        scan = _prepare_file(data, path, backbone, seed)
        started = time.perf_counter()
        computed, reused = _compute_missing(data, path, scan, backbone, batch_size, workers, progress)
        seconds = time.perf_counter() - started
    return _account(path, scan, backbone, computed, reused, seconds)


def _prepare_file(data: Path, path: Path, backbone: Backbone, seed: int) -> FolderScan:
    """Scans the folder and makes the file at `path` one that has a place for each of its images."""
    old = FeatureFile(path) if path.exists() else None
    if old:
        require_equal_specs(
            old.spec,
            backbone.spec,
            left_name=str(path),
            right_name="this command",
            remedy="Repeat the settings of the file, or choose another file with --out.",
        )
    known_drawn = bool(old and old.provenance.get("drawn_split"))
    scan = scan_folder(data, seed=seed, known=old.table if old else None, known_drawn=known_drawn)
    if old and scan.table.same_entries(old.table):
        return scan
    if old:
        _refuse_strangers(scan, old, data)
    provenance = {
        "data": str(data.resolve()),
        "backbone": backbone.source.name,
        "weights": backbone.source.weights,
        "engine": backbone.engine_name,
        "seed": seed,
        "drawn_split": scan.drawn,
        "versions": {name: version(name) for name in ("onepass", "keras", "openvino", "pillow", "numpy")},
    }
    write_feature_file(path, backbone.spec, scan.table, provenance, old=old)
    return scan


def _refuse_strangers(scan: FolderScan, old: FeatureFile, data: Path) -> None:
    """A folder that shares nothing with the file is a slip of the hand, not an update."""
    shared = {h.tobytes() for h in scan.table.content_hashes} & {h.tobytes() for h in old.table.content_hashes}
    if not shared and old.committed.any():
        raise FeatureFileError(
            f"{old.path} holds rows of {int(old.committed.sum())} images from {old.provenance.get('data')}, none of "
            f"which is in {data}. Choose another file with --out, or delete this one."
        )


def _compute_missing(
    data: Path,
    path: Path,
    scan: FolderScan,
    backbone: Backbone,
    batch_size: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    """Computes each missing content once; returns how many were computed and how many rows reused."""
    with FeatureFile(path) as file:
        missing = ~file.committed
        stored = np.flatnonzero(file.committed)
        missing[stored[file.damaged(stored)]] = True
    places: dict[bytes, list[int]] = defaultdict(list)
    for position in np.flatnonzero(missing).tolist():
        places[scan.table.content_hashes[position].tobytes()].append(position)
    unread = places.pop(bytes(32), [])
    reused = int((~missing).sum())
    computed = skipped = 0
    with RowWriter(path) as writer, _Committer(writer, batch_size) as committer:

        def skip(content: bytes, reason: str) -> None:
            nonlocal skipped
            skipped += 1
            for position in places[content]:
                writer.skip(position, reason)

        for position in unread:
            writer.skip(position, scan.unread[scan.table.paths[position]])
        files = [(content, data / scan.table.paths[where[0]]) for content, where in places.items()]
        if not files:
            return 0, reused
        for content, row in backbone.stream(files, on_skip=skip, workers=workers, verify=True):
            for position in places[content]:
                writer.skip(position, "")
                committer.add(position, row)
            computed += 1
            reused += len(places[content]) - 1
            if progress:
                progress(computed + skipped, len(files))
    return computed, reused


class _Committer:
    """Commits rows in batches in a thread of its own, so that the disk never holds up the engine.

    What was added is committed even if the block is left by an exception or Ctrl-C.
    """

    def __init__(self, writer: RowWriter, batch_size: int) -> None:
        self._writer = writer
        self._batch_size = batch_size
        self._batch: list[tuple[int, np.ndarray]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> "_Committer":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._commit()
            self._wait()
        finally:
            self._thread.shutdown()

    def add(self, position: int, row: np.ndarray) -> None:
        self._batch.append((position, row))
        if len(self._batch) >= self._batch_size:
            self._commit()

    def _commit(self) -> None:
        self._wait()
        if self._batch:
            positions, rows = zip(*self._batch, strict=True)
            self._under_way = self._thread.submit(self._writer.commit, positions, rows)
            self._batch = []

    def _wait(self) -> None:
        if self._under_way:
            self._under_way.result()
            self._under_way = None


def _account(
    path: Path, scan: FolderScan, backbone: Backbone, computed: int, reused: int, seconds: float
) -> Extraction:
    with FeatureFile(path) as file:
        labels = file.table.labels[file.committed]
        counts = np.bincount(labels, minlength=len(file.class_names)).tolist()
        classes = dict(zip(file.class_names, counts, strict=True))
        skipped = file.skipped + [SkippedImage(p, reason) for p, reason in scan.other.items()]
    if bare := [name for name, count in classes.items() if count == 0]:
        raise DataError(
            f"no image of {', '.join(bare)} could be read ({len(skipped)} skipped; `onepass info {path}` lists them). "
            "Mend or replace these images and run the same command again; the other rows are kept."
        )
    return Extraction(
        path=path,
        images=int(file.committed.sum()),
        classes=classes,
        computed=computed,
        reused=reused,
        skipped=skipped,
        seconds=seconds,
        engine=backbone.engine_name,
        precision=backbone.spec.precision,
        drawn_split=scan.drawn,
    )
