"""The fine-tuned model as a file: Keras's own format, with what is known about it inside."""

import contextlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import NoneType

import numpy as np

from onepass.extract import Backbone, KerasModel, import_keras, quiet_stderr
from onepass.features import Spec
from onepass.features.atomic import replacing
from onepass.features.errors import FeatureFileError, OptionError, TrainingError, cannot_write, opt
from onepass.features.tables import Record
from onepass.heads.evaluation import Evaluation, LeakFree
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.saved_head import SavedHead
from onepass.heads.schema import require_kinds

FACTS = "onepass.json"
"""Name of the entry that Keras ignores."""

_LARGEST_FACTS = 64 * 2**20
_MOST_CLASSES = 10_000

FORMATS = ("keras", "h5")


def require_place(path: Path) -> None:
    """Refuses to write where something else stands, before anything is trained.

    Raises:
        OptionError: The name has another ending, or a file that is no model of `fine-tune` has it: a feature file, say.
    """
    if path.suffix.removeprefix(".") not in FORMATS:
        raise OptionError(f"{opt.out} is {path}; needed: a name that ends in .keras or .h5.")
    if path.exists() and (not is_model(path) or "kind" in read_facts(path)):  # which only export writes
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
        path.write_bytes(_legacy_bytes(model, facts))
        return
    with quiet_stderr():
        model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FACTS, json.dumps(facts))


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
        TrainingError: The file holds none.
    """
    try:
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path, "r") as file:
                return dict(json.loads(file.attrs[FACTS]))
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(FACTS).file_size > _LARGEST_FACTS:
                raise ValueError("too long")
            return dict(json.loads(archive.read(FACTS)))
    except (OSError, EOFError, LookupError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise TrainingError(f"{path} is no model that fine-tune or export wrote.") from None


def is_whole_model(path: Path) -> bool:
    """True for what fine-tune and export write for Keras; a head file may have any name."""
    return path.suffix == ".keras" or (path.suffix == ".h5" and is_model(path))


def is_model(path: Path) -> bool:
    """True if fine-tune wrote the file."""
    try:
        return "spec" in read_facts(path)
    except TrainingError:
        return False


def load_model(path: Path) -> KerasModel:
    """The model alone, without running code from the file.

    Raises:
        TrainingError: Keras cannot load it so, or it is a legacy file with a Lambda layer.
    """
    if path.suffix == ".h5":
        _require_no_lambda(path)
    elif path.suffix != ".keras":
        raise TrainingError(f"{path} is no model of Keras by its name; needed: one that ends in .keras or .h5.")
    try:
        with quiet_stderr():
            return import_keras().models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path} cannot be loaded: {reason}") from None


def _require_no_lambda(path: Path) -> None:
    """Refuses a legacy file with a Lambda layer, whose code lies in the file.

    Raises:
        TrainingError: It holds one, or no model at all.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config = json.loads(file.attrs["model_config"])
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
        TrainingError: The file is no model that fine-tune wrote, is a legacy one, or lacks what is needed.
    """
    if path.suffix != ".keras":
        raise TrainingError(f"{path} is in the legacy format, which only Keras reads. Predict with a .keras file.")
    facts = read_facts(path)
    with _known(path):
        spec = facts["spec"]
        return {
            "name": f"{path}@{facts['logits']}",
            "image_size": int(spec["image_size"]),
            "resize": str(spec["resize"]),
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
        classes, report = tuple(map(str, facts["class_names"])), facts["report"]
        k = len(classes)
        if not 2 <= k <= _MOST_CLASSES:
            raise ValueError(f"{k} classes")
        zeros, ones = np.zeros(k, np.float32), np.ones(k, np.float32)
        kept = "after" if report["kept"] == "fine-tuned" else "before"
        right, interval = report[kept]
        leak_free = _leak_free(report.get("without_copies"), kept)
        evaluation = Evaluation(report["measured_on"], report["n"], right, tuple(interval), {}, [], leak_free=leak_free)
        require_kinds(evaluation)
        plan = dict(facts["plan"])
        if type(plan.get("seed", 0)) not in (int, NoneType):
            raise ValueError(f"seed {plan['seed']!r}")
        seen = np.frombuffer(bytes.fromhex(facts.get("seen", "")), np.uint8).reshape(-1, 8)
        return SavedHead(
            kind=str(facts.get("kind", "fine-tuned")),
            network=DenseNetwork(zeros, ones, (np.eye(k, dtype=np.float32),), (zeros,)),
            class_names=classes,
            spec=Spec.from_json(json.dumps(facts["spec"])),
            parameters=plan,
            evaluation=evaluation,
            trained_on=dict(facts["trained_on"]),
            golden=np.zeros((0, 0, k), np.float32),
            seen=seen,
            path=path,
        )


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
        return replace(found, spec=backbone.spec, golden=backbone.golden_rows()[None])


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
