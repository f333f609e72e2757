"""Repeats on any machine what a certificate says of a model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from onepass.extract import ImageFiles, depth_of, plain_keras
from onepass.features.errors import DataError, opt
from onepass.features.names import shown
from onepass.features.tables import Record
from onepass.heads.export.certificate import ENDING, Certificate, Latency, beside, require_certified, told_ties
from onepass.heads.export.equivalence import NOISE, HeldOut, latencies, prove
from onepass.heads.export.formats import certified_format, running
from onepass.heads.export.judged import JudgedClasses


@dataclass(frozen=True)
class VerifiedExport:
    """How a model compares with its certificate.

    Attributes:
        path: Of the model.
        images: Images that were found and run; and
        missing: that were not found.
        largest: Largest difference of a probability from the cached way.
        flips: Images that got another class than by the cached way, ties left out; and
        max_flips: how many may, in proportion where images are missing.
        ties: Images that got another class because the two are as close as `tie_gap`; see `Certificate`.
        accuracy, interval: Of the model on these images, with its 95 % interval; None where there are no classes.
        latency: Here, and
        latency_then: when it was exported.
        quality: How good the model is on these images, in words.
        what, tied: As of `Judged`.
    """

    path: Path
    images: int
    missing: int
    largest: float
    flips: int
    max_flips: int
    ties: int
    tie_gap: float
    accuracy: float | None
    interval: tuple[float, float] | None
    latency: list[Latency]
    latency_then: list[Latency]
    quality: str = ""
    what: str = "label"
    tied: str = JudgedClasses.tied

    @property
    def verdict(self) -> str:
        """whole, drifted, or incomplete: nothing differs, but images are missing."""
        if self.flips > self.max_flips:
            return "drifted"
        return "incomplete" if self.missing else "whole"

    def __str__(self) -> str:
        pairs = zip(self.latency, self.latency_then, strict=False)
        speed = [f"{now.milliseconds:.1f} ms for {now.batch} ({then.milliseconds:.1f} then)" for now, then in pairs]
        labels = (
            f"{self.flips} {self.what}s differ ({self.max_flips} may){told_ties(self.ties, self.tie_gap, self.tied)}"
        )
        told = f"{self.images} images: {labels}, {'numbers' if self.what == 'number' else 'probabilities'} by"
        lines = [
            f"{shown(self.path)}: the file that was certified",
            f"{told} {self.largest:.1e} at most; {self.quality}",
            ", ".join(speed),
        ]
        if self.missing:
            lines.append(f"{self.missing} images of the certificate were not found; name their folders with data")
        lines.append("it does NOT do what was certified" if self.verdict == "drifted" else "it does what was certified")
        return "\n".join(lines)

    def record(self) -> Record:
        """As JSON takes it."""
        return {**asdict(self), "path": str(self.path), "verdict": self.verdict}


def verify_export(
    model: str | Path, certificate: str | Path | None = None, *, data: str | Path | Sequence[str | Path] = ()
) -> VerifiedExport:
    """Runs the images of an exported model's certificate through it again, and compares.

    Args:
        model: The file or folder.
        certificate: By default what lies beside it.
        data: Where the images lie; by default they are looked for below the current folder.

    Raises:
        CertificateError: It is missing or damaged, or the model is not the one that was certified.
        UserError: As `verify_model`.

    >>> verify_export("photos.resnet50.mlp.onnx").verdict  # doctest: +SKIP
    'whole'
    """
    proven = Certificate.read(Path(certificate) if certificate else beside(Path(model), ENDING))
    folders = [Path(data)] if isinstance(data, str | Path) else [Path(folder) for folder in data]
    files, found = ImageFiles.found_in(
        folders or [Path()],
        proven.content_hashes,
        image_size=proven.image_size,
        resize=proven.resize,
        depth=depth_of(proven.decode),
    )
    return verify_model(model, proven, files, found)


def verify_model(model: str | Path, certificate: Certificate, images: ImageFiles, found: np.ndarray) -> VerifiedExport:
    """Runs the images of a certificate through a model again, in the model's own runtime.

    Args:
        model: The file or folder.
        certificate: From `Certificate.read`.
        images: Files of the certificate's images, by position in it.
        found: (m,) positions of those that are there.

    Raises:
        CertificateError: The model is not the one that was certified; it is not loaded.
        DataError: No image is there.
        OptionError: The format's runtime is not installed.
        ExportError: The model cannot be loaded or run here.
    """
    path = Path(model)
    require_certified(path, certificate)
    if not len(found):
        raise DataError(
            f"none of the {len(certificate.images)} images that {path} was certified with is here. Name the folders "
            f"they lie in by {opt.data}."
        )
    kind = certified_format(certificate)
    held_out = HeldOut(
        images=images,
        positions=found,
        paths=[certificate.images[i] for i in found],
        y=certificate.y[found],
        expected=np.array(certificate.expected, np.float64)[found],
        task=certificate.task,
        names=tuple(certificate.class_names),
        thresholds=certificate.decides.get("thresholds"),
    )

    def explained(some: int) -> float:
        """As far as it was when the model was exported; what was no tie there is one here by arithmetic alone."""
        half = certificate.tie_gap / 2
        return half if found[some] in certificate.ties else min(half, NOISE)

    with plain_keras(), running(f"{path}"):
        run = kind.load(path)
        proof = prove(run, kind.takes, held_out, explained)
        speed = latencies(run, kind.takes, held_out)
    return VerifiedExport(
        path=path,
        images=len(found),
        missing=len(certificate.images) - len(found),
        largest=proof.largest,
        flips=len(proof.flipped),
        max_flips=certificate.max_flips * len(found) // len(certificate.images),
        ties=len(proof.ties),
        tie_gap=certificate.tie_gap,
        accuracy=proof.accuracy,
        interval=proof.interval,
        latency=speed,
        latency_then=certificate.latency,
        quality=proof.words(),
        what=certificate.judged.what,
        tied=certificate.judged.tied,
    )
