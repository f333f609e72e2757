"""The fine-tuned model as a file: Keras's own format, with what is known about it inside."""

import contextlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from onepass.extract import Backbone, KerasModel, depth_of, load_bounded_model, quiet_stderr
from onepass.features import CLASSES, Spec, limits, seal
from onepass.features.atomic import replacing
from onepass.features.errors import FeatureFileError, OptionError, TrainingError, cannot_write, opt
from onepass.features.places import require_place as require_writable
from onepass.features.tables import Record
from onepass.heads import head_facts
from onepass.heads.evaluation import Evaluation, LeakFree
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.saved_head import SavedHead

FACTS = "onepass.json"
"""Name of the entry that Keras ignores."""

_MOST_CLASSES = 10_000

FORMATS = ("keras", "h5")


def require_place(path: Path) -> None:
    """Refuses to write where something else stands, before anything is trained.

    Raises:
        OptionError: The name has another ending, or a file that is no model of `fine-tune` has it: a feature file, say.
    """
    require_writable(path, endings=[f".{name}" for name in FORMATS])
    if path.exists() and not _made_by_fine_tune(path):
        raise OptionError(
            f"{path} exists and is no model that fine-tune wrote; it is left alone. Choose another name with {opt.out}."
        )


def save_model(model: KerasModel, path: Path, facts: Record) -> None:
    """Writes a model of images to probabilities; a crash leaves the old file or the new one.

    Args:
        model: `keras.Model`.
        path: Ends in .keras, or in .h5 for the legacy format.
        facts: What `read_facts` gives back; as JSON takes it.

    Raises:
        TrainingError: The file cannot be written.
    """
    try:
        with replacing(path) as beside:
            write_model(model, beside, facts)
    except OSError as error:
        raise TrainingError(cannot_write(path, error, opt.out), path=path) from None


def write_model(model: KerasModel, path: Path, facts: Record) -> None:
    """`save_model` at a place where nobody looks for it yet; raises whatever Keras and zipfile raise."""
    if path.suffix == ".h5":
        path.write_bytes(_legacy_bytes(model, facts) + seal.PLACE)
        seal.seal_file(path)
        return
    with quiet_stderr():
        model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FACTS, json.dumps(facts))
        archive.comment = seal.PLACE
    seal.seal_file(path)


def _legacy_bytes(model: KerasModel, facts: Record) -> bytes:
    """The content of a file in the legacy format. HDF5 writing to a full disk itself ends the process."""
    import h5py

    class InMemory(h5py.File):  # type: ignore[misc]
        def __str__(self) -> str:
            return "in memory.h5"  # Keras goes by the ending of whatever it is given

    memory = io.BytesIO()
    with quiet_stderr(), _without_legacy_warning(), InMemory(memory, "w") as file:
        model.save(file)
        file.attrs[FACTS] = json.dumps(facts)
    return memory.getvalue()


def read_facts(path: Path) -> Record:
    """What `save_model` wrote beside the weights.

    Raises:
        TrainingError: The file holds none, or is damaged.
    """
    require_whole(path)
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return dict(json.loads(limits.scalar_attribute(file, FACTS)))
        return dict(json.loads(limits.read_member(path, FACTS)))
    except (OSError, EOFError, LookupError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise TrainingError(f"{path} is no model that fine-tune or export wrote.") from None


def require_whole(path: Path) -> None:
    """Refuses a file of ours that is not as it was written; those of onepass 0.1, and others', have no checksum.

    Raises:
        TrainingError: Its bytes do not match the checksum at its end.
    """
    with contextlib.suppress(OSError):  # whoever opens it tells what is wrong
        if not seal.matches_seal(path):
            raise TrainingError(
                f"{path} is damaged: its bytes do not match their checksum. Take it from a copy, or delete it and "
                "fine-tune or export again.",
                path=path,
            )


def _made_by_fine_tune(path: Path) -> bool:
    try:
        facts = read_facts(path)
    except TrainingError:
        return False
    return "spec" in facts and "kind" not in facts  # which only export writes


def load_model(path: Path) -> KerasModel:
    """The model alone, without running code from the file.

    Raises:
        TrainingError: It is damaged, Keras cannot load it so, or it is a legacy file with a Lambda layer.
    """
    require_whole(path)
    if path.suffix == ".h5":
        _require_no_lambda(path)
    elif path.suffix != ".keras":
        raise TrainingError(f"{path} is no model of Keras by its name; needed: one that ends in .keras or .h5.")
    try:
        with quiet_stderr():
            return load_bounded_model(path)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path} cannot be loaded: {reason}") from None


def _require_no_lambda(path: Path) -> None:
    """Refuses a legacy file with a Lambda layer, whose code lies in the file.

    Raises:
        TrainingError: It holds one, or no model at all.
    """
    try:
        with h5py.File(path, "r") as file:
            config = json.loads(limits.scalar_attribute(file, "model_config"))
    except (OSError, KeyError, ValueError, TypeError, RecursionError, RuntimeError):
        raise TrainingError(f"{path} holds no model in the legacy format of Keras.") from None
    left = [config]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if part.get("class_name") in ("Lambda", "TFOpLambda", "TFSMLayer", "__lambda__"):
                raise TrainingError(f"{path} holds a Lambda layer, which is code, and is not loaded.")
            left += part.values()
        elif isinstance(part, list):
            left += part


def logits_of(path: Path) -> Record:
    """What `extract.load_backbone` takes to give the logits of a model as rows.

    Raises:
        TrainingError: The file is no model that fine-tune or export wrote, or lacks what is needed.
    """
    facts = read_facts(path)
    with _known(path):
        spec = facts["spec"]
        return {
            "name": f"{path}@{facts['logits']}",
            "image_size": int(spec["image_size"]),
            "resize": str(spec["resize"]),
            "depth": depth_of(str(spec["decode"])),
            "pooling": "flatten",
            "precision": "float32",
        }


def tuned_model(path: Path) -> SavedHead:
    """What is known about a model, as if it were a head on its own logits; its spec is that of the rows inside.

    Raises:
        TrainingError: The file is no model that fine-tune or export wrote, or lacks what is needed.
    """
    facts = read_facts(path)
    with _known(path):
        task = head_facts.task(facts["task"]) if "task" in facts else CLASSES
        classes, report = head_facts.class_names(facts["class_names"], task), facts["report"]
        k = len(classes)
        if k > _MOST_CLASSES:
            raise ValueError(f"{k} classes")
        evaluation = (
            _evaluation(report, classes) if task == CLASSES else head_facts.score(report["score"], classes, task)
        )
        seen = np.frombuffer(bytes.fromhex(facts.get("seen", "")), np.uint8).reshape(-1, 8)
        return SavedHead(
            kind=head_facts.kind(facts.get("kind", "fine-tuned")),
            network=DenseNetwork.identity(k, head_facts.OUTPUT_OF[task][0]),
            class_names=classes,
            spec=Spec.from_json(json.dumps(facts["spec"])),
            parameters=head_facts.parameters(facts["plan"]),
            evaluation=evaluation,
            trained_on=head_facts.origin(facts["trained_on"]),
            golden=np.zeros((0, 0, k), np.float32),
            seen=seen,
            path=path,
            guarded=seal.is_sealed(path),
            task=task,
            **head_facts.decision(facts.get("decision", {}), classes, task),
        )


def _evaluation(report: Record, classes: tuple[str, ...]) -> Evaluation:
    """The score of what was kept."""
    kept = "after" if report["kept"] == "fine-tuned" else "before"
    right, interval = report[kept]
    leak_free = _leak_free(report.get("without_copies"), kept)
    found = Evaluation(report["measured_on"], report["n"], right, tuple(interval), {}, [], leak_free=leak_free)
    head_facts.require_sense(found, classes)
    return found


def _leak_free(found: Record | None, kept: str) -> LeakFree | None:
    """The score of what was kept, without copies of training images; files of earlier versions have none."""
    if found is None:
        return None
    right, interval = found[kept]
    return LeakFree(found["leaked"], found["n"], right, tuple(interval))


def as_head(path: Path, backbone: Backbone) -> SavedHead:
    """A model as a head on its own logits, so that it predicts as all heads do.

    Args:
        path: The model.
        backbone: Made of `logits_of(path)`.

    Raises:
        TrainingError: The file is no model that fine-tune or export wrote, or lacks what is needed.
    """
    found = tuned_model(path)
    with _known(path):
        if backbone.spec.width != len(found.class_names):
            raise ValueError(f"{backbone.spec.width} logits for {len(found.class_names)} classes")
        # The environments are those of the feature file, which say nothing of the model: so its golden rows are tried.
        origin = {**found.trained_on, "environments": []}
        return replace(found, spec=backbone.spec, trained_on=origin, golden=_golden(read_facts(path), backbone))


def _golden(facts: Record, backbone: Backbone) -> np.ndarray:
    """(1, g, k) float32 logits of the built-in test images, as they were; models of onepass 0.1 keep none."""
    if "golden" not in facts:
        return backbone.golden_rows()[None]
    golden = np.array(facts["golden"], np.float32)[None]
    if golden.shape[2:] != (backbone.spec.width,) or not np.isfinite(golden).all():
        raise ValueError(f"golden rows of shape {golden.shape}")
    return golden


@contextlib.contextmanager
def _known(path: Path) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, FeatureFileError) as error:
        raise TrainingError(
            f"{path} lacks what predict needs ({type(error).__name__}: {error}). Fine-tune again with this onepass."
        ) from None


@contextlib.contextmanager
def _without_legacy_warning() -> Iterator[None]:
    """Without Keras's advice against a format that was asked for."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
