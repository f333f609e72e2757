"""A backbone tried on a sample of images: its rows, which are kept, and what it costs here."""

import contextlib
import ctypes
import dataclasses
import gc
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import psutil

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.load import load_backbone
from onepass.extract.backbones.options import BackboneSettings
from onepass.extract.data.sample import FolderSample
from onepass.extract.data.sources import Data, open_source
from onepass.extract.one_pass.compute import Progress
from onepass.extract.one_pass.resolve import calibrated_for, output_path
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile, Spec
from onepass.features.atomic import remove_leftovers, replacing
from onepass.features.errors import DataError, OutputError, cannot_write, reason_of
from onepass.features.progress import phase

WARM_UP, PILOT = 32, 32
"""Images before a rate is measured, while the engine starts and threads fill their queues; images it is first measured
on, which takes a moment."""
ENOUGH = 100
"""Images beyond the warm-up that make the rate of a pass better known than that of the pilot."""
TRIALS = ".trials"
"""What the name of the folder that trials are kept in ends in."""


@dataclass(frozen=True)
class Cost:
    """What a backbone costs here, measured.

    Attributes:
        images_per_second: Decoding, network and writing together, once the engine runs.
        memory: Bytes of resident memory that this process had, at most, as images came out of the network, beyond what
            it had before the engine started: network, buffers and decoded images; not what lies on a GPU.
        images: How many the rate was measured on.
    """

    images_per_second: float
    memory: int
    images: int


def trials_folder(data: Data) -> Path:
    """Where the rows of trials are kept: `<data>.trials` in the current folder, which is made if it is not there.

    Raises:
        OutputError: It cannot be.
    """
    folder = output_path(open_source(data), TRIALS[1:], None).with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {folder} for the rows that are tried: {reason_of(error)}. Work in another folder.",
            path=folder,
        ) from None
    remove_leftovers(folder)
    return folder


class Trial:
    """A backbone that is about to run over a sample, or has done so.

    Its rows are a feature file in `trials_folder`, which extraction takes over; an interrupted trial continues there.
    What it costs is first measured on a few images, and then in the pass itself.

    Args:
        name: As for `load_backbone`.
        sample: The images.
        workers: Decoding threads.
        **settings: As for `load_backbone`.

    Attributes:
        name: As it was given.
        settings: As they were given.
        spec: What its rows are computed with.
        path: The feature file.
        missing: Images of the sample that have no row yet.
        cost: What is known of it so far.

    Raises:
        UserError: The backbone, or what is left of an earlier trial, cannot be used.
    """

    def __init__(
        self, name: str, sample: FolderSample, *, workers: int | None = None, **settings: Unpack[BackboneSettings]
    ) -> None:
        self.name, self.settings, self._sample, self._workers = name, settings, sample, workers
        backbone = load_backbone(name, **settings)
        self.path = trials_folder(sample.found.source) / f"{backbone.spec.backbone}.{_digest(backbone.spec)}.h5"
        backbone, self.missing = self._state(backbone)
        self.spec, self._environment = backbone.spec, backbone.environment
        self.cost = self._kept() or self._pilot(backbone)
        # A converted graph is loaded again in a moment; what TensorFlow has built and compiled is worth keeping.
        self._built = None if backbone.converted else backbone

    @property
    def seconds_left(self) -> float:
        """What the rows that are missing will take, the start of the engine aside."""
        return self.missing / self.cost.images_per_second

    @property
    def seconds_for_all(self) -> float:
        """What the rows of all images in the folders take, the start of the engine aside."""
        return self._sample.images / self.cost.images_per_second

    def run(self, progress: Progress | None = None) -> None:
        """Computes the rows that are missing.

        Args:
            progress: Called with (images done, images to do).

        Raises:
            UserError: As `run_extraction`.
        """
        backbone, self.missing = self._state(self._built or load_backbone(self.name, **self.settings))
        watch, found = _Watch(progress), self._sample.found
        run_extraction(found.source, backbone, found=found, progress=watch, out=self.path, workers=self._workers)
        self.missing, self._built = 0, None
        measured = watch.cost()
        if measured and measured.images >= ENOUGH:
            self.cost = measured
            self._keep()

    def _state(self, backbone: Backbone) -> tuple[Backbone, int]:
        """The backbone, calibrated if it is int8, and how many images of the sample its file has no row of."""
        with FeatureFile(self.path) if self.path.exists() else contextlib.nullcontext() as old:
            ready = calibrated_for(backbone, self._sample.found, old)
            done = {row.tobytes() for row in old.table.content_hashes[old.committed]} | old.given_up() if old else set()
        return ready, len(self._sample.contents.keys() - done)

    def _pilot(self, backbone: Backbone) -> Cost:
        """Cost on a few images, whose rows are not kept; by their contents, so that all classes are among them."""
        files = [path for _, path in sorted(self._sample.contents.items())]
        files *= 1 + (WARM_UP + PILOT) // len(files)
        reasons: dict[int, str] = {}
        watch, stream = _Watch(), backbone.stream(enumerate(files), on_skip=reasons.__setitem__, workers=self._workers)
        with phase(f"timing {self.name}"), contextlib.closing(stream):
            for done, _ in enumerate(islice(stream, WARM_UP + PILOT), 1):
                watch(done, WARM_UP + PILOT)
        if not (measured := watch.cost()):
            unreadable = {files[place]: reason for place, reason in reasons.items()}
            first, reason = next(iter(unreadable.items()))
            raise DataError(
                f"{len(unreadable)} of {len(set(files))} images cannot be read, too many to time {self.name}; {first}, "
                f"for one: {reason}. Replace these files, or move them away."
            )
        self.cost = measured
        self._keep()
        return measured

    def _kept(self) -> Cost | None:
        """What was measured before by the same engine and versions on such a processor."""
        try:
            known: dict[str, Any] = json.loads(self._facts.read_text())
            return Cost(**known["cost"]) if known["environment"] == self._environment else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self) -> None:
        facts = {"cost": asdict(self.cost), "environment": self._environment}
        try:
            with replacing(self._facts) as beside:
                beside.write_text(json.dumps(facts))
        except OSError as error:
            raise OutputError(cannot_write(self._facts, error), path=self._facts) from None

    @property
    def _facts(self) -> Path:
        return self.path.with_suffix(".json")


class _Watch:
    """Measures a pass by its reports: its rate, that of the warm-up left out, and the memory that it takes."""

    def __init__(self, progress: Progress | None = None) -> None:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # only the GNU library can give back what is not used
            ctypes.CDLL(None).malloc_trim(0)
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._progress = progress
        self._first: tuple[int, float] | None = None
        self._images, self._seconds, self._memory = 0, 0.0, 0

    def __call__(self, done: int, of: int) -> None:
        now = time.perf_counter()
        if self._first is None and done >= WARM_UP:
            self._first = done, now
        elif self._first and now > self._first[1]:
            self._images, self._seconds = done - self._first[0], now - self._first[1]
        self._memory = max(self._memory, self._process.memory_info().rss - self._before)
        if self._progress:
            self._progress(done, of)

    def cost(self) -> Cost | None:
        """What was measured; None if the pass was over before it was warm."""
        return Cost(self._images / self._seconds, self._memory, self._images) if self._images else None


def _digest(spec: Spec) -> str:
    """Eight digits that tell specs of one backbone apart, but not the calibrations of an int8 one."""
    text = dataclasses.replace(spec, calibration="", weights="").to_json()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
