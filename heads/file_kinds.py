"""Tells what a file is, by what stands in it: every file that a command writes, and what is none of them."""

from enum import StrEnum
from pathlib import Path

import h5py

from onepass.features.errors import CertificateError, HeadFileError, TrainingError
from onepass.features.header import is_feature_file
from onepass.features.seal import is_sealed
from onepass.heads.export.certificate import ENDING, FORMAT
from onepass.heads.finetune.model_file import read_facts
from onepass.heads.saved_head import is_head

_START = 4096
"""Bytes of the beginning that tell a format."""

_COMPARISONS = (b'"higher_is_better":', b'"take":')
"""What stands at the beginning of the JSON of compare-heads, and of choose."""

_EXPORTED = (".onnx", ".tflite")


class FileKind(StrEnum):
    """What a file or folder is; the values end the sentence "it is ..."."""

    FEATURES = "a feature file"
    HEAD = "a head file"
    TUNED = "a model that fine-tune wrote"
    EXPORTED = "an exported model"
    CERTIFICATE = "the certificate of an exported model"
    COMPARISON = "what compare-heads or choose printed as JSON"
    KERAS = "a Keras file that neither fine-tune nor export wrote"
    WEIGHTS = "a file of arrays without a head"
    DAMAGED = "damaged at its beginning, where a file says what it is"
    FOLDER = "a folder"
    MISSING = "not there"
    OTHER = "no file that onepass writes"


WHOLE = (FileKind.TUNED, FileKind.EXPORTED)
"""Models that bring their backbone along."""

CLASSIFIERS = (FileKind.HEAD, *WHOLE)

_REMEDIES = {
    FileKind.FEATURES: " Train a head on it with: train-head {path}",
    FileKind.KERAS: " To use it as a backbone: extract --backbone {path} DATA",
    FileKind.FOLDER: " Name a file in it.",
}


def file_kind(path: str | Path) -> FileKind:
    """What a file is, whatever its name.

    Names decide only where formats have no mark of their own: .onnx, and .xml with weights beside it. A file that is
    damaged at its very beginning has lost its mark, and counts by its ending as what it claims to be.

    >>> file_kind("pets.mine.h5").value, file_kind("nowhere.head").value
    ('a feature file', 'not there')
    """
    path = Path(path)
    if path.is_dir():
        return FileKind.EXPORTED if (path / "saved_model.pb").is_file() else FileKind.FOLDER
    if not path.exists():
        return FileKind.MISSING
    if not path.is_file():
        return FileKind.OTHER  # a pipe would be waited for
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError:
        return _by_ending(path)
    return _by_mark(path, start) or _by_ending(path)


def classifier_file(path: str | Path) -> tuple[Path, FileKind]:
    """The head file or whole model that somebody named, by itself or by its certificate, and which it is.

    Raises:
        HeadFileError: It is something else; with what it is, and what to do.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind is FileKind.CERTIFICATE:
        path = certified_model(path)
        kind = file_kind(path)
    if kind in CLASSIFIERS:
        return path, kind
    if kind is FileKind.MISSING:
        raise HeadFileError(f"there is no head file {path}. Make one with: train-head FEATURES", path=path)
    remedy = _REMEDIES.get(kind, "").format(path=path)
    raise HeadFileError(
        f"{path} is {kind}; needed: a head file, or a model that fine-tune or export wrote.{remedy}",
        path=path,
        kind=kind,
    )


def certified_model(certificate: Path) -> Path:
    """The model that a certificate lies beside.

    Raises:
        CertificateError: It does not lie there.
    """
    model = certificate.with_name(certificate.name.removesuffix(ENDING))
    if model == certificate or not model.exists():
        raise CertificateError(
            f"{certificate} is the certificate of a model that does not lie beside it under the name {model.name}. "
            "Put them together, or name the model.",
            path=certificate,
        )
    return model


def _by_mark(path: Path, start: bytes) -> FileKind | None:
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        if is_feature_file(path):
            return FileKind.FEATURES
        return _model_kind(path) or (FileKind.KERAS if _is_keras_h5(path) else FileKind.FEATURES)
    if start.startswith(b"PK\x03\x04"):
        return _model_kind(path) or (FileKind.KERAS if path.suffix == ".keras" else None)
    if start[4:8] == b"TFL3":
        return FileKind.EXPORTED
    if start[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        return FileKind.HEAD if is_head(path) or path.suffix == ".head" else FileKind.WEIGHTS
    if f'"format": "{FORMAT}"'.encode() in start:
        return FileKind.CERTIFICATE
    if start.lstrip().startswith(b"{") and any(mark in start for mark in _COMPARISONS):
        return FileKind.COMPARISON
    return FileKind.EXPORTED if path.suffix == ".xml" and b"<net" in start else None


def _by_ending(path: Path) -> FileKind:
    if path.name.endswith(ENDING):
        return FileKind.CERTIFICATE
    endings = {".head": FileKind.HEAD, ".h5": FileKind.FEATURES, ".keras": FileKind.DAMAGED}
    return endings.get(path.suffix, FileKind.EXPORTED if path.suffix in _EXPORTED else FileKind.OTHER)


def _model_kind(path: Path) -> FileKind | None:
    """TUNED or EXPORTED, for a Keras file that holds our facts; a damaged one counts as TUNED until it is read."""
    try:
        facts = read_facts(path)
    except TrainingError:
        return FileKind.TUNED if is_sealed(path) else None
    return FileKind.EXPORTED if "kind" in facts else FileKind.TUNED  # only export names the head


def _is_keras_h5(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return bool({"model_config", "layer_names"} & set(file.attrs) or {"layers", "model_weights"} & set(file))
    except (OSError, LookupError, RuntimeError, ValueError):
        return False
