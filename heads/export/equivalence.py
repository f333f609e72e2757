"""Runs an exported model from image files in its own runtime, and compares it with the cached way."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from onepass.extract import ImageFiles, Tensor
from onepass.features import CLASSES
from onepass.features.errors import ExportError, opt
from onepass.heads.export.certificate import Latency
from onepass.heads.export.judged import Judged, judged
from onepass.heads.stats.intervals import wilson_interval
from onepass.heads.tasks.score import Score
from onepass.heads.tasks.task import TASKS

Runtime = Callable[[Any], np.ndarray]
"""A batch of what a format takes -> (b, k) probabilities."""

_BATCH = 32
NOISE = 1e-4
"""By what float32 arithmetic may move a probability; runtimes were 2e-5 apart at most (benchmarks/exporting.py)."""

_ALIKE = 1.0
"""Mean difference of pixels, of 255 levels, up to which two ways of reading a file count as the same picture."""

ENCODED = (b"\xff\xd8\xff", b"\x89PNG")
"""How JPEG and PNG files begin."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images that a model is proven on, and what is expected of it.

    Attributes:
        images: Their files.
        positions: (n,) of them in `images`.
        paths: n names.
        y: (n,) true classes, or as `FeatureFile.wanted` gives what is true.
        expected: (n, k) outputs of the cached way: probabilities, or numbers.
        task: One of `features.TASKS`.
        names: k names of classes or labels, or one of what the number is.
        thresholds: Of labels: (k,) the probability from which on each is named.
    """

    images: ImageFiles
    positions: np.ndarray
    paths: list[str]
    y: np.ndarray
    expected: np.ndarray
    task: str = CLASSES
    names: tuple[str, ...] = ()
    thresholds: np.ndarray | None = None

    @property
    def judged(self) -> Judged:
        """What of the outputs matters."""
        return judged(self.task, self.thresholds)

    def __len__(self) -> int:
        return len(self.positions)

    def batch(self, takes: str, some: list[int]) -> Any:
        """Some of the images as a format takes them: pixels, images (which must be equally large) or bytes."""
        positions = self.positions[some]
        if takes == "pixels":
            return self.images.read(positions)
        if takes == "images":
            return np.stack([self.images.whole(position) for position in positions.tolist()])
        files = [self.images.data(position) for position in positions.tolist()]
        for i, file in zip(some, files, strict=True):
            if not file.startswith(ENCODED):
                raise ExportError(
                    f"{self.paths[i]} is neither JPEG nor PNG, which is all that a model of encoded files reads. Leave "
                    f"{opt.takes_bytes} out."
                )
        return files


Explained = Callable[[int], float]
"""Position of an image -> by how much its probabilities may differ for a known and harmless reason."""


def noise_alone(some: int) -> float:  # noqa: ARG001
    """What explains a difference where both ways see the very same pixels."""
    return NOISE


@dataclass(frozen=True, eq=False)
class Proof:
    """How a model compares with what is expected.

    Attributes:
        found: (n, k) outputs: probabilities, or numbers.
        largest: Largest difference of one.
        flipped: (f,) positions of images that got another class, ties left out.
        ties: (t,) positions of images that got another class because both classes are, either way, less than
            `tie_gap` apart.
        tie_gap: The largest gap that counted as a tie.
        accuracy, interval: Of the model, with its 95 % interval; and
        before: of the cached way. None where there are no classes.
        score, score_before: The same where there are none.
    """

    found: np.ndarray
    largest: float
    flipped: np.ndarray
    ties: np.ndarray
    tie_gap: float
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    before: float | None = None
    score: Score | None = None
    score_before: Score | None = None

    def words(self) -> str:
        """How good the model is, with its 95 % interval."""
        if self.accuracy is None or self.interval is None:
            return str(self.score)
        low, high = self.interval
        return f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f})"


def prove(run: Runtime, takes: str, held_out: HeldOut, explained: Explained = noise_alone) -> Proof:
    """Runs all images through a model, from their files.

    Args:
        run: The model in its own runtime.
        takes: What it takes; see `Format`.
        held_out: The images.
        explained: Asked for images that get another class. Two probabilities that may each be off by so much change
            places within twice as much, and what lies that close is a tie.

    Raises:
        ExportError: It does not give probabilities of these classes.
        DataError: A file is gone or has changed.
    """
    size = 1 if takes == "images" else _BATCH  # images differ in size
    starts = range(0, len(held_out), size)
    batches = (list(range(start, min(start + size, len(held_out)))) for start in starts)
    found = np.concatenate([run(held_out.batch(takes, some)) for some in batches]).astype(np.float64)
    expected, y = held_out.expected, held_out.y
    if found.shape != expected.shape or not np.isfinite(found).all():
        what = "numbers that are not finite" if found.shape == expected.shape else f"an output of shape {found.shape}"
        raise ExportError(f"the exported model gives {what}; needed: finite numbers, {expected.shape}.")
    differing = np.flatnonzero(held_out.judged.changed(found, expected))
    allowed = np.array([2 * explained(some) for some in differing.tolist()])
    tied = held_out.judged.gaps(found[differing], expected[differing]) <= allowed
    proof = Proof(
        found=found,
        largest=float(np.abs(found - expected).max()),
        flipped=differing[~tied],
        ties=differing[tied],
        tie_gap=float(max(allowed[tied], default=2 * NOISE)),
    )
    if held_out.task != CLASSES:
        return replace(proof, score=_scored(found, held_out), score_before=_scored(expected, held_out))
    right = int((found.argmax(axis=1) == y).sum())
    return replace(
        proof,
        accuracy=right / len(y),
        interval=wilson_interval(right, len(y)),
        before=float((expected.argmax(axis=1) == y).mean()),
    )


def _scored(outputs: np.ndarray, held_out: HeldOut) -> Score:
    task = TASKS[held_out.task]
    return task.score(task.answers(outputs, held_out.thresholds), held_out.y, held_out.names, measured_on="held-out")


def latencies(run: Runtime, takes: str, held_out: HeldOut, *, runs: int = 5) -> list[Latency]:
    """How long batches of 1 and 32 take in the runtime alone, after one that does not count.

    Images are timed at the size that the backbone sees; larger ones take longer to be resized.
    """
    found = []
    for size in (1, _BATCH):
        batch = held_out.batch("pixels" if takes == "images" else takes, [0] * size)
        batch = batch.astype(np.uint8) if takes == "images" else batch
        seconds = [_seconds(partial(run, batch)) for _ in range(runs + 1)][1:]
        found.append(Latency(size, round(1000 * statistics.median(seconds), 3), runs))
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps from an image to its probabilities, one by one.

    Attributes:
        takes: What the format takes.
        resizer: Of the exported graph: (1, h, w, 3) uint8 -> (1, s, s, 3) pixels.
        rows_of: Pixels -> rows, by the network in Keras.
        head: Rows -> probabilities, by the head itself; and
        row_of: position -> the cached row. None both for a fine-tuned model.
        model: Pixels -> probabilities, by the Keras model that was exported.
    """

    takes: str
    resizer: Callable[[Tensor], Tensor]
    rows_of: Runtime
    head: Runtime | None
    row_of: Callable[[int], np.ndarray] | None
    model: Runtime

    def explained(self, some: int, held_out: HeldOut) -> float:
        """By how much the probabilities of an image may differ, in a runtime whose arithmetic is sound.

        By `NOISE`, and by what the pixels that the graph makes of the file change: measured, by running the exported
        network on them and on those of the cached way. Nothing but noise explains a picture that looks different.
        """
        if self.takes == "pixels":
            return NOISE
        pixels, inside = held_out.batch("pixels", [some]), self._pixels_inside(some, held_out)
        if np.abs(inside.astype(np.float64) - pixels).mean() > _ALIKE:
            return NOISE
        return NOISE + float(np.abs(self.model(inside) - self.model(pixels)).max())

    def _pixels_inside(self, some: int, held_out: HeldOut) -> np.ndarray:
        return np.asarray(self.resizer(held_out.batch("images", [some])))

    def where(self, some: int, held_out: HeldOut, proof: Proof) -> str:
        """In which step an image differs most: decode and resize, backbone, head, or the format's runtime."""
        pixels = held_out.batch("pixels", [some])
        found: dict[str, tuple[float, str]] = {}
        if self.takes != "pixels":
            away = np.abs(self._pixels_inside(some, held_out).astype(np.float64) - pixels)
            told = f"pixels by {away.mean():.2f} of 255 on average, {away.max():.0f} at most"
            found["decode and resize"] = float(away.mean()) / 255, told
        if self.head and self.row_of:
            row, cached = self.rows_of(pixels)[0].astype(np.float64), self.row_of(some).astype(np.float64)
            cosine = float(row @ cached / max(float(np.linalg.norm(row) * np.linalg.norm(cached)), 1e-30))
            found["backbone"] = 1 - cosine, f"its row has a cosine of {cosine:.6f} to the cached one"
            by_head = float(np.abs(self.head(row[None].astype(np.float32)) - self.model(pixels)).max())
            found["head"] = by_head, f"probabilities by {by_head:.1e} on that row"
        by_runtime = float(np.abs(proof.found[some] - self.model(pixels)[0]).max())
        told = f"probabilities by {by_runtime:.1e} from Keras"
        if self.takes != "pixels":
            told += ", the difference of pixels included"
        found["runtime"] = by_runtime, told
        # The runtime's difference contains that of the pixels, so an earlier step that is off explains it.
        worst = max((name for name in found if name != "runtime"), key=lambda name: found[name][0], default="runtime")
        if found[worst][0] < 1e-3:
            worst = "runtime"
        return f"mostly in the {worst} ({'; '.join(f'{name}: {text}' for name, (_, text) in found.items())})"
