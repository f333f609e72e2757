"""What was proven of an exported model, as a JSON file beside it."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.errors import CertificateError, OptionError
from onepass.features.preprocess import ResizeRule
from onepass.features.seal import file_digest, sealed, unsealed
from onepass.features.tables import Record
from onepass.heads import head_facts
from onepass.heads.export.judged import JUDGED, Judged, JudgedClasses, judged
from onepass.heads.schema import require_kinds

FORMAT, VERSION = "onepass-certificate", 1
SUFFIXES = {"keras": ".keras", "h5": ".h5", "savedmodel": "", "onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite"}
"""Format -> ending of its file; a savedmodel is a folder."""

ENDING = ".certificate.json"
"""What follows a model's whole name."""

TAKES = ("pixels", "images", "bytes")
_LARGEST_SIDE = 4096
_DIGITS = 1e-6
"""To which probabilities are rounded."""

_HASH = re.compile("[0-9a-f]{64}")
_LARGEST = 64 * 2**20
"""Bytes of a certificate; one of 200 images and 1,000 classes has 2 MB."""


@dataclass(frozen=True)
class Latency:
    """How long a batch takes in the format's own runtime.

    Attributes:
        batch: Images at once.
        milliseconds: Median over the runs.
        runs: How many.
    """

    batch: int
    milliseconds: float
    runs: int


@dataclass(frozen=True)
class Certificate:
    """The result of a gate.

    Attributes:
        to: Format.
        precision: Of the weights.
        takes: pixels, images or bytes.
        files: Name of the model's file, or path below its folder -> SHA-256, hexadecimal.
        head, spec: What was exported, in words.
        images: n content hashes, hexadecimal, of the images it was proven on.
        measured_on: Which part they are.
        labels: n positions of their true classes; of other tasks none.
        expected: (n, k) outputs of the cached way: probabilities, rounded to 6 digits, or numbers.
        largest: Largest difference of an output.
        flips: Images that got another class or other labels, ties left out, or a number that differs (see `judged`);
            and
        max_flips: how many were allowed.
        ties: Positions of images that got another class because the two lie closer together than the measured
            difference of pixels and float32 arithmetic can move them; and
        tie_gap: how close that is, as a probability. Certificates of onepass 0.1 know no ties.
        accuracy, interval: Of the exported model on these images, with its 95 % interval; and
        before: of the cached way. None where there are no classes.
        latency: At batch sizes 1 and 32.
        decode, resize, image_size: How files become pixels.
        class_names: In the order of the probabilities.
        versions: Of everything that took part.
        machine: Processor and cores.
        trained_on: Where the training rows came from, as in a head file; and
        seen: first 8 bytes of the SHA-256 of every training image, hexadecimal, one behind the other. Certificates of
            onepass 0.1 know neither.
        one_by_one: Whether it takes one image at a time, because its backbone does.
        task: Of the head, one of `features.TASKS`; of other tasks than classes
        wanted: (n, t) what is true of the images, and
        score, score_before: of the exported model and of the cached way, as `Score.record`, and
        decision: what becomes of the outputs, as `SavedHead.decision`.
    """

    to: str
    precision: str
    takes: str
    files: dict[str, str]
    head: str
    spec: str
    images: list[str]
    measured_on: str
    labels: list[int]
    expected: list[list[float]]
    largest: float
    flips: int
    max_flips: int
    accuracy: float | None
    interval: list[float] | None
    before: float | None
    latency: list[Latency]
    decode: str
    resize: str
    image_size: int
    class_names: list[str]
    versions: dict[str, str]
    machine: dict[str, Any]
    ties: list[int] = field(default_factory=list)
    tie_gap: float = 0.0
    trained_on: dict[str, Any] = field(default_factory=dict)
    seen: str = ""
    one_by_one: bool = False
    task: str = CLASSES
    wanted: list[list[float]] = field(default_factory=list)
    score: dict[str, Any] = field(default_factory=dict)
    score_before: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)

    @property
    def y(self) -> np.ndarray:
        """(n,) true classes, or what else is true of the images, as `FeatureFile.wanted` gives it."""
        if self.task == CLASSES:
            return np.array(self.labels, np.int64)
        wanted = np.array(self.wanted, np.float64)
        return np.asarray(wanted[:, 0] if self.task == NUMBER else wanted)

    @property
    def decides(self) -> dict[str, Any]:
        """`decision` by the names of `SavedHead`: thresholds, or residuals and coverage."""
        return head_facts.decision(self.decision, tuple(self.class_names), self.task)

    @property
    def judged(self) -> Judged:
        """What of the outputs matters."""
        return judged(self.task, self.decides.get("thresholds"))

    def quality(self) -> str:
        """How good the model is on these images, and the cached way, in words."""
        if self.accuracy is None or self.interval is None or self.before is None:
            return f"{self._told(self.score)}; from cached rows {self._told(self.score_before)}"
        low, high = self.interval
        return f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f}), {self.before:.3f} from cached rows"

    def _told(self, score: dict[str, Any]) -> str:
        return head_facts.score(score, tuple(self.class_names), self.task).headline()

    def __str__(self) -> str:
        speed = ", ".join(f"{one.milliseconds:.1f} ms for {one.batch}" for one in self.latency)
        what = self.judged.what
        labels = f"1 {what} differs" if self.flips == 1 else f"{self.flips or 'no'} {what}s differ"
        labels += told_ties(len(self.ties), self.tie_gap, self.judged.tied)
        outputs = "numbers" if self.task == NUMBER else "probabilities"
        return (
            f"{len(self.images)} {self.measured_on} images from their files: {labels}, {outputs} by "
            f"{self.largest:.1e} at most; {self.quality()}; {speed}{', one at a time' if self.one_by_one else ''}"
        )

    @property
    def content_hashes(self) -> np.ndarray:
        """(n, 32) uint8, of the images."""
        return np.frombuffer(bytes.fromhex("".join(self.images)), np.uint8).reshape(-1, 32)

    def record(self) -> Record:
        """As JSON takes it."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def write(self, path: Path) -> None:
        """Writes it as JSON, to a place where nobody looks for it yet."""
        path.write_text(json.dumps(sealed(self.record()), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a certificate, which is data alone.

        Raises:
            CertificateError: It is missing, of another version, or damaged.
        """
        try:
            if path.exists() and not path.is_file():
                raise ValueError("it is no file")
            with open(path, "rb") as file:
                text = file.read(_LARGEST + 1)
            if len(text) > _LARGEST:
                raise ValueError(f"it has more than {_LARGEST} bytes")
            return cls._parsed(json.loads(text))
        except FileNotFoundError:
            raise CertificateError(f"there is no certificate {path}. `onepass export` writes one.") from None
        except OSError as error:
            raise CertificateError(f"{path} may not be read: {error.strerror}.") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CertificateError(
                f"{path} is no certificate of this onepass ({type(error).__name__}: {error}). Export the model again."
            ) from None

    @classmethod
    def _parsed(cls, facts: Any) -> Self:
        facts, _ = unsealed(facts)
        if (facts.pop("format"), facts.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format or version")
        latency = [Latency(**one) for one in facts.pop("latency")]
        found = cls(**facts, latency=latency)
        require_kinds(found)
        n, k = len(found.images), len(found.class_names)
        _require_rule(found.resize)
        if found.takes not in TAKES or not n or not 1 <= found.image_size <= _LARGEST_SIDE:
            raise ValueError(f"{n} images, {found.takes} of {found.image_size} px")
        if not all(_HASH.fullmatch(content) for content in found.images):
            raise ValueError("hashes that are no SHA-256")
        expected = np.array(found.expected, np.float64)
        if expected.shape != (n, k) or not np.isfinite(expected).all():
            raise ValueError(f"{expected.shape} outputs for {n} images and {k} classes, not all of them finite")
        if not set(found.ties) <= set(range(n)) or not 0 <= found.tie_gap <= (1 if found.task != NUMBER else np.inf):
            raise ValueError(f"ties {str(found.ties)[:40]} within {found.tie_gap}")
        bytes.fromhex(found.seen)
        if len(found.seen) % 16:
            raise ValueError("half a hash of a training image")
        found._require_task(expected)
        if len(set(found.class_names)) < k or not all(found.class_names):
            raise ValueError(f"the class names {str(found.class_names)[:60]}")
        if not 0 <= found.flips <= n or found.max_flips < 0 or found.largest < 0:
            raise ValueError(f"{found.flips} labels of {n} differ, {found.max_flips} may, by {found.largest}")
        if any(one.batch < 1 or one.runs < 1 or one.milliseconds < 0 for one in latency):
            raise ValueError(f"the times {latency[:2]}")
        return found

    def _require_task(self, expected: np.ndarray) -> None:
        """Refuses labels, outputs and scores of another task, or that make no sense.

        Raises:
            ValueError, TypeError, LookupError: They do not.
        """
        n, k = expected.shape
        if self.task not in JUDGED:
            raise ValueError(f"the task {self.task[:40]!r}")
        if self.task == CLASSES:
            if (expected < 0).any() or (abs(expected.sum(axis=1) - 1) > k * _DIGITS).any():
                raise ValueError("probabilities that do not sum to 1")
            if len(self.labels) != n or not set(self.labels) <= set(range(k)):
                raise ValueError(f"{len(self.labels)} labels for {n} images and {k} classes")
            shares = [0.0, *(self.interval or []), 1.0]
            accuracy, before = (-1.0 if one is None else one for one in (self.accuracy, self.before))
            if len(shares) != 4 or sorted(shares) != shares or not 0 <= accuracy <= 1 or not 0 <= before <= 1:
                raise ValueError(f"accuracy {accuracy} within {self.interval}, {before} before")
            return
        if np.array(self.wanted, np.float64).shape != (n, k):
            raise ValueError(f"what is true of {len(self.wanted)} images; needed: of {n}")
        sound = np.isin(self.wanted, (0, 1)).all() and (expected >= 0).all() and (expected <= 1).all()
        if self.task == LABELS and not sound:
            raise ValueError("probabilities outside of 0 to 1, or labels that are neither 0 nor 1")
        for score in (self.score, self.score_before):
            head_facts.score(score, tuple(self.class_names), self.task)
        _ = self.decides


def told_ties(count: int, gap: float, tied: str = JudgedClasses.tied) -> str:
    """What follows the labels that differ: nothing where there are no ties; see `Judged.tied`."""
    if not count:
        return ""
    return f" beside {count} {'tie' if count == 1 else 'ties'} {tied} within {gap:.1e}"


def hashes_of(path: Path) -> dict[str, str]:
    """SHA-256 of a model: of its file, of the weights that belong to an OpenVINO graph, or of all files of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and weights.is_file():
        files.append(weights)
    base = path if path.is_dir() else path.parent
    return {file.relative_to(base).as_posix(): file_digest(file) for file in files}


def beside(path: Path, ending: str) -> Path:
    """Where something about a model lies: behind its whole name."""
    return path.with_name(path.name + ending)


def require_certified(path: Path, certificate: Certificate) -> None:
    """Refuses a model that is not the one a certificate is about.

    Raises:
        CertificateError: It is missing, cannot be read, or differs.
    """
    if certificate.to not in SUFFIXES:
        raise CertificateError(
            f"the certificate is of a format {certificate.to!r}; needed: one of {', '.join(SUFFIXES)}. It is damaged, "
            "or of a newer onepass."
        )
    if not path.exists():
        raise CertificateError(f"there is no model {path}. `onepass export` writes one.")
    try:
        if not (path.is_dir() or path.is_file()):
            raise OSError(0, "neither a file nor a folder")
        here = hashes_of(path)
    except OSError as error:
        raise CertificateError(f"{path} may not be read: {error.strerror}.") from None
    # A file may have been renamed; what lies in a folder may not.
    renamed = certificate.to != "savedmodel" and sorted(here.values()) == sorted(certificate.files.values())
    if here != certificate.files and not renamed:
        names = sorted(here.keys() | certificate.files.keys())
        differing = [name for name in names if here.get(name) != certificate.files.get(name)]
        raise CertificateError(
            f"{path} is not the model that was certified, so it was not loaded: {differing[0]} differs. Export it "
            "again, or give the certificate that lies beside it."
        )


def _require_rule(resize: str) -> None:
    try:
        ResizeRule.parse(resize)
    except OptionError:
        raise ValueError(f"the resize rule {resize[:40]}") from None
