"""What a pass would cost, from a pilot of a few images; no feature file is written."""

import contextlib
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.data.folders import Folders, image_folders
from onepass.extract.data.groups import Groups
from onepass.extract.one_pass.choices import ViewAxis, choose_groups, choose_row_dtype, choose_views
from onepass.extract.one_pass.prepare import calibrated_for, existing, lacking_views, scan_for
from onepass.extract.one_pass.run import default_path, require_specs
from onepass.extract.pixels.decode import decode_views, read_bytes, require_views
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError, UnreadableImageError, opt
from onepass.features.layout import ROW_DTYPES

PILOT_VIEWS = 64


@dataclass(frozen=True)
class Plan:
    """What a pass would cost here.

    Attributes:
        path: Where the feature file would go.
        images: Images in the folder, exact copies once.
        to_compute: Those that lack rows.
        views: Views per image.
        seconds: Time for the pass, without starting the engine.
        disk: Size of the feature file, bytes.
        memory: Largest resident memory of this process so far, bytes; the pass needs no more.
        decode_rate: Views a second that all decoding threads deliver, with the processor to themselves.
        compute_rate: Views a second that the engine computes, with the processor to itself.
        rate: Views a second of both together.
        limit: decoding or compute, whichever takes longer.
        engine: openvino or tensorflow.
        precision: float32, bfloat16 or int8.
        workers: Decoding threads.
    """

    path: Path
    images: int
    to_compute: int
    views: int
    seconds: float
    disk: int
    memory: int
    decode_rate: float
    compute_rate: float
    rate: float
    limit: str
    engine: str
    precision: str
    workers: int

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        views = f" x {self.views} views" if self.views > 1 else ""
        return "\n".join(
            [
                f"{self.path}: {self.images} images{views}, {self.to_compute} to compute",
                f"time    {_duration(self.seconds)} at {self.rate:.1f} views/s",
                f"disk    {self.disk / 1e6:,.1f} MB",
                f"memory  {self.memory / 1e6:,.0f} MB",
                (
                    f"limit   {self.limit}: decoding alone {self.decode_rate:.1f}, the engine alone "
                    f"{self.compute_rate:.1f} views/s"
                ),
                f"with    engine {self.engine}, precision {self.precision}, workers {self.workers}",
            ]
        )


def plan_extraction(
    data: Folders,
    backbone: Backbone,
    *,
    out: str | Path | None = None,
    views: int | None = None,
    augment: str | None = None,
    groups: Groups | None = None,
    group_pattern: str | None = None,
    row_dtype: str | None = None,
    base: Sequence[str | Path] = (),
    workers: int | None = None,
) -> Plan:
    """Runs a pilot of 64 views and works out what the whole pass would cost.

    Args:
        data: The image folder, or several.
        backbone: What would compute the rows.
        out: Where the feature file would go.
        views: As for the pass.
        augment: As for the pass.
        groups: As for the pass.
        group_pattern: As for the pass.
        row_dtype: As for the pass.
        base: As for the pass.
        workers: As for the pass.

    Raises:
        DataError: The folder cannot be used, or none of the images tried can be read.
    """
    path = Path(out or default_path(image_folders(data)[0], backbone.spec.backbone))
    threads = os.cpu_count() or 1 if workers is None else workers
    if threads < 1:
        raise OptionError(f"{opt.workers} is {workers}; needed: at least 1.")
    with contextlib.ExitStack() as stack:
        bases = [stack.enter_context(FeatureFile(one)) for one in base]
        old = stack.enter_context(existing(path))
        axis = choose_views(old, views, augment)
        stored_as = choose_row_dtype(old, row_dtype)
        rule = choose_groups(old, groups, group_pattern)
        require_views(backbone.spec.resize, range(axis.count))
        require_specs(old, bases, backbone.spec)
        scan = scan_for(data, old, seed=None, rehash=False, groups=rule)
        sources = [file for file in (old, *bases) if file]
        backbone = calibrated_for(backbone, scan, sources[0] if sources else None)
        lacking = lacking_views(scan, axis, sources, row_dtype=stored_as)
    files = scan.images()
    if not files:
        raise DataError(f"none of the files in {scan.root} could be read.")
    count = min(max(8, PILOT_VIEWS // axis.count), len(files))
    sample = [files[i][1] for i in np.linspace(0, len(files) - 1, count).astype(int)]
    decode, compute, rate = _pilot(backbone, sample, axis, threads)
    tables = scan.table
    widest = [max(len(os.fsencode(name)) for name in names) for names in (tables.paths, tables.groups)]
    entry = 69 + 120 + 9 * axis.count + sum(widest)
    row_bytes = ROW_DTYPES[stored_as].itemsize * backbone.spec.width
    return Plan(
        path=path,
        images=len(files),
        to_compute=len(lacking),
        views=axis.count,
        seconds=sum(lacking.values()) / rate,
        disk=len(tables) * (row_bytes * axis.count + entry),
        memory=_peak_memory(),
        decode_rate=decode,
        compute_rate=compute,
        rate=rate,
        limit="decoding" if decode < compute else "compute",
        engine=backbone.engine_name,
        precision=backbone.spec.precision,
        workers=threads,
    )


def _pilot(backbone: Backbone, sample: Sequence[Path], axis: ViewAxis, workers: int) -> tuple[float, float, float]:
    """Views a second of decoding alone, of the engine alone, and of both together."""
    spec, numbers = backbone.spec, range(axis.count)

    def decode(path: Path) -> list[np.ndarray]:
        try:
            return decode_views(
                read_bytes(path),
                image_size=spec.image_size,
                resize=spec.resize,
                views=numbers,
                augmentation=axis.augmentation,
            )
        except UnreadableImageError:
            return []

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        pixels = [view for views in pool.map(decode, sample) for view in views]
    decode_seconds = time.perf_counter() - started
    if not pixels:
        raise DataError(f"none of the {len(sample)} images tried could be read; look at {sample[0]}, for one.")
    backbone.rows(np.stack(pixels[:4]))  # the engine starts here
    started = time.perf_counter()
    backbone.rows(np.stack(pixels))
    compute_seconds = time.perf_counter() - started
    started = time.perf_counter()
    stream = backbone.stream(
        enumerate(sample), on_skip=_ignore, workers=workers, views=numbers, augmentation=axis.augmentation
    )
    together = sum(len(rows) for _, rows in stream) / (time.perf_counter() - started)
    return len(pixels) / decode_seconds, len(pixels) / compute_seconds, together


def _ignore(_key: int, _reason: str) -> None:
    """Unreadable images of the pilot are the pass's to report."""


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
