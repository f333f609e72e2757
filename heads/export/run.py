"""From a head to a model file in a given format, kept only if it was proven from image files."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from onepass.extract import (
    FULL_DEPTH,
    BackboneName,
    BackboneOrigin,
    check_running,
    depth_of,
    graph_formats,
    machine,
    plain_keras,
)
from onepass.features import CLASSES, NUMBER, FeatureFile
from onepass.features.atomic import flush, folder_beside, leftovers, move, remove_leftovers
from onepass.features.errors import CertificateError, ExportError, OptionError, cannot_write, opt
from onepass.features.names import shown
from onepass.features.progress import phase
from onepass.features.tables import Record, command_line
from onepass.heads.export.card import model_card
from onepass.heads.export.certificate import ENDING, SUFFIXES, Certificate, beside, hashes_of
from onepass.heads.export.equivalence import HeldOut, Proof, Steps, latencies, prove
from onepass.heads.export.export_source import ExportInputs, ExportSource
from onepass.heads.export.formats import Format, OneByOne, format_of, running
from onepass.heads.export.inference_model import WholeModel
from onepass.heads.file_kinds import FileKind, classifier_file
from onepass.heads.finetune.model_file import tuned_model
from onepass.heads.predict.nearest import training_file
from onepass.heads.saved_head import SavedHead, load_head
from onepass.heads.tasks.score import Score

_ALL = ("float32", "float16", "int8")
PRECISIONS = {**dict.fromkeys(SUFFIXES, ("float32",)), "openvino": _ALL, "tflite": _ALL}
"""Format -> precisions that its weights can have."""

_PACKAGES = ("onepass", "keras", "tensorflow", "numpy", "pillow")
_MAY_FLIP = 0.02
"""Share of the images that may get another label at reduced precision, unless --max-flips says otherwise."""


@dataclass(frozen=True)
class Exported:
    """A model that was kept.

    Attributes:
        path: Of the model.
        certificate: What was proven; it lies in `path` with `.certificate.json` behind its name.
    """

    path: Path
    certificate: Certificate

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.certificate}"

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        return command_line("onepass", "verify", self.path)

    def record(self) -> Record:
        """As JSON takes it, without what is said of single images."""
        facts = self.certificate.record()
        del facts["expected"], facts["labels"], facts["wanted"], facts["seen"]
        return {"path": str(self.path), **facts, "images": len(facts["images"])}


class ExportOptions(TypedDict, total=False):
    """What is exported, and how; what is left out has its default.

    Attributes:
        out: File, or folder for savedmodel; by default the head's name with the format's ending.
        precision: Of the weights: float32 by default; float16 and int8 for openvino and tflite.
        takes_bytes: Let a savedmodel take encoded JPEG and PNG files.
        max_flips: Images that may get another label than by the cached way; by default none, and 2 %, one at least,
            where the weights or the head's rows are of reduced precision.
    """

    out: str | Path | None
    precision: str
    takes_bytes: bool
    max_flips: int | None


def export(
    model: str | Path | SavedHead,
    *,
    to: str,
    data: str | Path | Sequence[str | Path] = (),
    features: str | Path | None = None,
    weights: str | None = None,
    workers: int | None = None,
    **options: Unpack[ExportOptions],
) -> Exported:
    """Writes backbone, preprocessing and head as one model, after it has been proven in its own runtime.

    The model is loaded again and run from the files of images that training did not see. Beside it lie a
    certificate (`.certificate.json`) and a model card (`.md`), behind its whole name.

    Args:
        model: Head file, model that `fine_tune` wrote, or what `load_head` returned.
        to: keras, h5, savedmodel, onnx, openvino or tflite.
        data: Where the images lie, if they are not where they were.
        features: Feature file of the training, if it is not where it was, or another of the same rows.
        weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
        workers: Decoding threads; by default one per processor.
        **options: See `ExportOptions`.

    Raises:
        OptionError: An option is wrong, something would be overwritten, or the head cannot be had in that format.
        ExportError: More labels differ, ties left out, or the model cannot be written or run; nothing is left behind.
        HeadFileError, TrainingError: It is no head and no model.
        SpecMismatchError: The feature file holds other rows.
        DataError: An image is gone or has changed.

    >>> export("photos.resnet50.mlp.head", to="onnx")  # doctest: +SKIP
    """
    given: Record = {name: value for name, value in options.items() if name != "out"}
    _check_options(to, **given)
    check_running(workers=workers, data=data, weights=weights)
    head = model if isinstance(model, SavedHead) else _opened(model)
    source = BackboneOrigin.of(head.trained_on, weights)
    if not head.is_whole:
        _require_format(head, to, source)
    _checked_place(head, to, options.get("out"))
    with FeatureFile(features or training_file(head)) as file:
        folders = [Path(data)] if isinstance(data, str | Path) else [Path(folder) for folder in data]
        inputs = ExportInputs.of(head, file, data=folders, weights=weights, workers=workers)
        return export_model(head, file, inputs, to=to, **options)


def _opened(model: str | Path) -> SavedHead:
    path, kind = classifier_file(model)
    if kind is FileKind.HEAD:
        return load_head(path)
    if path.suffix not in (".keras", ".h5"):
        raise ExportError(
            f"{path} is an exported model in a format that cannot be turned into another. Export the head file, or the "
            "model that fine-tune wrote, instead.",
            path=path,
        )
    return tuned_model(path)


def _require_format(head: SavedHead, to: str, source: BackboneOrigin) -> None:
    """Refuses a format that cannot hold the backbone.

    Raises:
        OptionError: With those that can.
    """
    able = graph_formats(source)
    if able and to not in able:
        provider = BackboneName.parse(source.name).provider
        graph = "an ONNX graph" if provider == "onnx" else f"a graph of {provider}"
        raise OptionError(
            f"{head.path} stands on {head.spec.backbone}, which is {graph}, and {to} cannot hold it; needed: "
            f"{opt.to(able[0])}{''.join(f' or {one}' for one in able[1:])}.",
            to=to,
        )


def export_model(
    head: SavedHead,
    file: FeatureFile,
    inputs: ExportInputs,
    *,
    to: str,
    out: str | Path | None = None,
    precision: str = "float32",
    takes_bytes: bool = False,
    max_flips: int | None = None,
) -> Exported:
    """`export` with everything at hand; options and errors as there.

    Args:
        head: From `load_head`; or what `tuned_model` says of a model.
        file: The feature file of its training, or another of the same rows.
        inputs: The network and the images.
    """
    _check_options(to, precision, takes_bytes, max_flips)
    if inputs.graph:
        _require_format(head, to, inputs.graph.source)
    path = _checked_place(head, to, out)
    kind = format_of(to, takes_bytes=takes_bytes)
    if takes_bytes and depth_of(head.spec.decode) != FULL_DEPTH:
        raise OptionError(
            f"{head.path} is for images of {depth_of(head.spec.decode)} bits, and TensorFlow decodes 16-bit files by "
            f"their upper 8 bits; leave {opt.takes_bytes} out, and decode with read_image.",
            depth=depth_of(head.spec.decode),
        )
    head.require_rows_of(file)
    file.require_complete()
    with plain_keras(), _safe_names():
        with phase(f"building {head.spec.backbone}"):
            source = ExportSource.of(head, file, inputs)
            candidate = _Candidate(source, source.whole(to), *source.held_out(), kind, precision, max_flips)
        try:
            with folder_beside(path.absolute()) as folder:
                made = folder / path.name
                certificate = candidate.proven(made, path)
                certificate.write(beside(made, ENDING))
                card = model_card(head, certificate, path.name)
                beside(made, ".md").write_text(card, encoding="utf-8", errors="backslashreplace")
                _keep(folder, _parts(path, to))
        except OSError as error:
            raise ExportError(cannot_write(path, error, opt.out), path=path) from None
    return Exported(path, certificate)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A model that may become a file.

    Attributes:
        source: What it is made of.
        whole: The Keras model.
        held_out, part: Images to prove it on, and what they are called.
        kind, precision: Of the file.
        max_flips: As given.
    """

    source: ExportSource
    whole: WholeModel
    held_out: HeldOut
    part: str
    kind: Format
    precision: str
    max_flips: int | None

    @property
    def may_flip(self) -> int:
        """Images that may get another label."""
        if self.max_flips is not None:
            return self.max_flips
        exact = self.precision == "float32" and self.source.exact
        return 0 if exact else max(1, round(_MAY_FLIP * len(self.held_out)))

    def proven(self, made: Path, path: Path) -> Certificate:
        """Writes the model to `made`, which is to become `path`, and runs it there.

        Raises:
            ExportError: It cannot be written or run, or more labels differ than may.
        """
        kind = self.kind
        sample = self.source.sample() if self.precision == "int8" else np.empty(0)
        with running(f"the {kind.name} model in {self.precision}", path):
            with phase(f"writing {kind.name} in {self.precision}"):
                kind.write(self.whole, made, self.precision, sample)
                run = kind.load(made)
            steps = self.source.steps(kind.takes, self.whole, self.held_out)
            with phase(f"running it on {len(self.held_out)} images"):
                proof = prove(run, kind.takes, self.held_out, partial(steps.explained, held_out=self.held_out))
            if len(proof.flipped) > self.may_flip:
                raise ExportError(self._refusal(path, proof, steps), flips=len(proof.flipped), max_flips=self.may_flip)
            with phase("measuring its speed"):
                speed = latencies(run, kind.takes, self.held_out)
        head, held_out = self.source.head, self.held_out
        hashes = self.source.file.table.content_hashes[held_out.positions]
        return Certificate(
            to=kind.name,
            precision=self.precision,
            takes=kind.takes,
            files=hashes_of(made),
            head=f"{head.path.name}, {head.kind}",
            spec=str(head.spec),
            images=[content.tobytes().hex() for content in hashes],
            measured_on=self.part,
            labels=held_out.y.tolist() if head.task == CLASSES else [],
            expected=(held_out.expected if head.task == NUMBER else np.round(held_out.expected, 6)).tolist(),
            largest=proof.largest,
            flips=len(proof.flipped),
            max_flips=self.may_flip,
            ties=proof.ties.tolist(),
            tie_gap=proof.tie_gap,
            accuracy=proof.accuracy,
            interval=list(proof.interval) if proof.interval else None,
            before=proof.before,
            task=head.task,
            wanted=[] if head.task == CLASSES else held_out.y.reshape(len(held_out), -1).tolist(),
            score=_as_json(proof.score),
            score_before=_as_json(proof.score_before),
            decision=head.decision(),
            latency=speed,
            one_by_one=isinstance(run, OneByOne),
            decode=head.spec.decode,
            resize=head.spec.resize,
            image_size=head.spec.image_size,
            class_names=list(head.class_names),
            versions={name: version(name) for name in (*_PACKAGES, kind.runtime)},
            machine=machine(),
            trained_on=head.trained_on,
            seen=head.seen.tobytes().hex(),
        )

    def _refusal(self, path: Path, proof: Proof, steps: Steps) -> str:
        """Which image differs most, and where."""
        held_out, names, count = self.held_out, self.whole.class_names, len(proof.flipped)
        away = np.abs(proof.found - held_out.expected).max(axis=1)
        worst = int(proof.flipped[away[proof.flipped].argmax()])
        judged = held_out.judged
        was, now = (judged.says(outputs[worst], names) for outputs in (held_out.expected, proof.found))
        told, quality = steps.where(worst, held_out, proof), proof.words()
        before = f"{proof.before:.3f}" if proof.before is not None else str(proof.score_before)
        return (
            f"{path} was not written: {count} of {len(held_out)} held-out images "
            f"{'gets' if count == 1 else 'get'} another {judged.what} than by the cached way; "
            f"{self.may_flip or 'none'} may. {quality[:1].upper()}{quality[1:]}, {before} from cached rows. Most of "
            f"all differs {held_out.paths[worst]}, {was} before and {now} now, {told}. "
            f"Allow it with {opt.max_flips(count)}, or choose another format or precision."
        )


def _as_json(score: Score | None) -> Record:
    """A score as it comes back from JSON; nothing for none."""
    found: Record = json.loads(json.dumps(score.record())) if score else {}
    return found


def _safe_names() -> Any:
    """A scope for all names, because TensorFlow saves none that starts with an underscore."""
    import tensorflow as tf

    return tf.name_scope("onepass")


def _checked_place(head: SavedHead, to: str, out: str | Path | None) -> Path:
    """Where the model goes; refuses to overwrite anything."""
    stem = head.path.stem + (".exported" if head.is_whole and head.path.suffix == SUFFIXES[to] else "")
    path = Path(out) if out else Path(f"{stem}{SUFFIXES[to] or '.savedmodel'}")
    if not path.name:
        raise OptionError(f"{opt.out} is {path}; needed: the name of a new file or folder.")
    if SUFFIXES[to] and path.suffix != SUFFIXES[to]:
        raise OptionError(f"{opt.out} is {path}; needed: a name that ends in {SUFFIXES[to]}.")
    if not path.absolute().parent.is_dir():
        raise OptionError(f"the folder of {opt.out(path)} does not exist. Make it, or name another one.")
    _undo_killed(path, to)
    for part in _parts(path, to):
        _require_free(part)
    return path


def _require_free(path: Path) -> None:
    if os.path.lexists(path):
        raise OptionError(f"{path} exists and is not overwritten. Choose another name with {opt.out}, or delete it.")


def _keep(folder: Path, parts: list[Path]) -> None:
    """Moves what was made to its place, all of it or nothing."""
    moved: list[Path] = []
    flush(folder)
    try:
        for part in parts:
            _require_free(part)
            move(folder / part.name, part)
            moved.append(part)
    except BaseException:
        for part in moved:
            _remove(part)
        raise


def _undo_killed(path: Path, to: str) -> None:
    """Takes back what killed exports to this place had moved there, so that it is in nobody's way.

    The certificate moves last. While it still waits beside, what is in its place and waits no more was moved there; a
    model of another content than the certificate says is somebody else's.
    """
    for folder in leftovers(path.absolute().parent, path.name):
        with contextlib.suppress(CertificateError, OSError):
            files = Certificate.read(beside(folder / path.name, ".certificate.json")).files
            for part in _parts(path, to):
                if not os.path.lexists(part) or os.path.lexists(folder / part.name):
                    continue
                if part.suffix != ".md" and not hashes_of(part).items() <= files.items():
                    break
                _remove(part)
    remove_leftovers(path.absolute().parent, path.name)


def _remove(part: Path) -> None:
    shutil.rmtree(part) if part.is_dir() else part.unlink()


def _parts(path: Path, to: str) -> list[Path]:
    """All that lies where a model is, the certificate last: with it the model is complete."""
    weights = [path.with_suffix(".bin")] if to == "openvino" else []
    return [*weights, path, beside(path, ".md"), beside(path, ENDING)]


def _check_options(
    to: str, precision: str = "float32", takes_bytes: bool = False, max_flips: int | None = None
) -> None:
    if to not in SUFFIXES:
        raise OptionError(f"{opt.to} is {to!r}; needed: one of {', '.join(SUFFIXES)}.", to=to)
    if precision not in PRECISIONS[to]:
        able = [name for name, known in PRECISIONS.items() if precision in known]
        raise OptionError(
            f"{opt.precision(precision)} does not go with {opt.to(to)}; needed: {', '.join(PRECISIONS[to])}"
            + (f", or {opt.to} {' or '.join(able)}." if able else ".")
        )
    if takes_bytes and to != "savedmodel":
        raise OptionError(f"{opt.takes_bytes} goes with {opt.to('savedmodel')} alone.")
    if max_flips is not None and max_flips < 0:
        raise OptionError(f"{opt.max_flips} is {max_flips}; needed: 0 or more.")
