"""What a pass would cost, from a pilot of a few images; no feature file is written."""

import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.data.sources import Data
from onepass.extract.one_pass.resolve import Job, ViewAxis, resolve
from onepass.extract.one_pass.run import ExtractionSettings, prepared
from onepass.extract.pixels.decode import decode, depth_of
from onepass.extract.pixels.deep import describe_depth
from onepass.extract.pixels.image_bytes import read_bytes
from onepass.features.errors import DataError, UnreadableImageError
from onepass.features.layout import ROW_DTYPES
from onepass.features.names import shown
from onepass.features.progress import duration, phase
from onepass.features.thumbnails import SIDE

PILOT_VIEWS = 64


@dataclass(frozen=True)
class Estimate:
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
        depth_notes: What to tell of images with 16 bits per value among those tried.
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
    depth_notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        views = f" x {self.views} views" if self.views > 1 else ""
        return "\n".join(
            [
                f"{shown(self.path)}: {self.images} images{views}, {self.to_compute} to compute",
                f"time    {duration(self.seconds)} at {self.rate:.1f} views/s",
                f"disk    {self.disk / 1e6:,.1f} MB",
                f"memory  {self.memory / 1e6:,.0f} MB",
                (
                    f"limit   {self.limit}: decoding alone {self.decode_rate:.1f}, the engine alone "
                    f"{self.compute_rate:.1f} views/s"
                ),
                f"with    engine {self.engine}, precision {self.precision}, workers {self.workers}",
                *(f"of the images tried, {note}" for note in self.depth_notes),
            ]
        )


def plan(data: Data, backbone: str | Path | Backbone | None = None, **settings: Unpack[ExtractionSettings]) -> Estimate:
    """Runs a pilot of 64 views and works out what the whole pass would cost; no feature file is written.

    Args:
        data: The image folder, or several.
        backbone: As for `run_extraction`.
        **settings: As for `run_extraction`.

    Raises:
        DataError: The folder cannot be used, or none of the images tried can be read.
        UserError: As `run_extraction`.

    >>> print(plan("photos/", "resnet50"))  # doctest: +SKIP
    """
    source, options, ready = prepared(data, backbone, settings)
    with resolve(source, ready, options) as job:
        missing = job.missing_views(job.sources)
        files = job.scan.images()
        if not files:
            raise DataError(f"none of the files in {source.name} could be read.")
        count = min(max(8, PILOT_VIEWS // job.axis.count), len(files))
        sample = [files[i][1] for i in np.linspace(0, len(files) - 1, count).astype(int)]
        threads = options.workers or os.cpu_count() or 1
        highest: list[int] = []
        with phase(f"trying {count} images"):
            decode, compute, rate = _pilot(job.backbone, sample, job.axis, threads, highest)
        return Estimate(
            path=job.path,
            images=len(files),
            to_compute=len(missing),
            views=job.axis.count,
            seconds=sum(missing.values()) / rate,
            disk=_file_size(job),
            memory=_peak_memory(),
            decode_rate=decode,
            compute_rate=compute,
            rate=rate,
            limit="decoding" if decode < compute else "compute",
            engine=job.backbone.engine_name,
            precision=job.backbone.spec.precision,
            workers=threads,
            depth_notes=tuple(describe_depth(highest, depth_of(job.backbone.spec.decode))),
        )


def _file_size(job: Job) -> int:
    """Bytes of the feature file: rows, and the entry of each image in the tables."""
    table, views = job.scan.table, job.axis.count
    widest = [max(len(os.fsencode(name)) for name in names) for names in (table.paths, table.groups)]
    row_bytes = ROW_DTYPES[job.row_dtype].itemsize * job.backbone.spec.width
    return len(table) * (row_bytes * views + 69 + 120 + 9 * views + SIDE**2 + 8 + sum(widest))


def _pilot(
    backbone: Backbone, sample: Sequence[Path], axis: ViewAxis, workers: int, highest: list[int]
) -> tuple[float, float, float]:
    """Views a second of decoding alone, of the engine alone, and of both; adds to the highest 16-bit values."""
    spec, numbers = backbone.spec, range(axis.count)

    def pixels_of(path: Path) -> list[np.ndarray]:
        try:
            found = decode(
                read_bytes(path),
                image_size=spec.image_size,
                resize=spec.resize,
                views=numbers,
                augmentation=axis.augmentation,
                depth=depth_of(spec.decode),
            )
            if found.highest is not None:
                highest.append(found.highest)
            return found.views
        except UnreadableImageError:
            return []

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        pixels = [view for views in pool.map(pixels_of, sample) for view in views]
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
