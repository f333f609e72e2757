"""What any file that onepass writes holds, and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onepass.extract import plain_keras
from onepass.features import (
    SPLITS,
    FeatureFile,
    SkippedImage,
    Spec,
    find_duplicates,
    find_overlapping_groups,
    only_feature_file,
)
from onepass.features.duplicates import describe_duplicates
from onepass.features.errors import FileKindError, OptionError, opt
from onepass.features.names import Lines, shown
from onepass.features.overlapping_groups import describe_overlapping_groups
from onepass.features.tables import Record, command_line, facts_table, html_table, plain
from onepass.features.tasks import NONE
from onepass.heads.export.certificate import ENDING, Certificate, beside
from onepass.heads.file_kinds import WHOLE, FileKind, file_kind
from onepass.heads.finetune.model_file import load_model, read_facts, tuned_model
from onepass.heads.predict.exported import certificate_of
from onepass.heads.saved_head import SavedHead, load_head


@dataclass(frozen=True)
class Info:
    """Facts on a file.

    Attributes:
        title: What it is.
        facts: All of them, as JSON takes them.
        rows: Name and value of those that people read.
        skipped: Images of a feature file that could not be read, with the reason.
    """

    title: str
    facts: Record
    rows: list[list[str]]
    skipped: tuple[SkippedImage, ...] = ()

    def __str__(self) -> str:
        return f"{shown(self.title)}\n{facts_table(self.rows)}".rstrip()

    def _repr_html_(self) -> str:
        return html_table([["", ""], *self.rows], title=self.title)

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed: train a head on a feature file, predict with a head or a model."""
        path = Path(str(self.facts["file"]))
        if self.facts.get("task") == NONE:
            return command_line("onepass", "label", path, "LABELS.csv")
        if "committed" in self.facts:
            return command_line("train-head", path)
        return command_line("onepass", "predict", path, "IMAGES")

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return self.facts


@dataclass(frozen=True)
class Summary:
    """A head, or a whole model, as `model.summary()` of Keras shows it."""

    text: str

    def __str__(self) -> str:
        return self.text

    def record(self) -> dict[str, str]:
        """The same as plain values, for JSON."""
        return {"summary": Lines(self.text)}


def info(file: str | Path | None = None, *, summary: bool = False) -> Info | Summary:
    """Says what a file holds and where it came from: a feature file, head, model or certificate.

    Args:
        file: By default the feature file in the current folder.
        summary: Instead a head, or the whole network of a fine-tuned or exported Keras model, as `model.summary()` of
            Keras shows it: layers, shapes, parameters, and of models what is trainable. No code from the file is run.

    Raises:
        FileKindError: It is no file that onepass writes.
        OptionError: A summary is asked for of a file that is neither a head nor a Keras model.
        UserError: The file is damaged.

    >>> info("photos.resnet50.h5")  # doctest: +SKIP
    """
    path = Path(file) if file is not None else only_feature_file()
    kind = file_kind(path)
    if kind is FileKind.HEAD:
        head = load_head(path)
        return _summary(head) if summary else _of_head(head)
    if summary:
        if kind in WHOLE and path.suffix in (".keras", ".h5"):
            return _network_summary(path)
        raise OptionError(f"{opt.summary} is for head files and Keras models; {path} is {kind}.", file=path)
    if kind in (FileKind.FEATURES, FileKind.MISSING):  # opening it says that it is missing
        with FeatureFile(path) as opened:
            return _of_features(opened)
    if kind is FileKind.CERTIFICATE:
        return _of_certificate(path, Certificate.read(path))
    if kind in WHOLE:
        return _of_model(path, kind)
    raise FileKindError(f"{path} is {kind}; needed: a feature file, a head, a model or a certificate.", file=path)


def _of_certificate(path: Path, proven: Certificate) -> Info:
    model = path.with_name(path.name.removesuffix(ENDING))
    facts = {"file": str(path), "kind": FileKind.CERTIFICATE.value, "model": str(model), **proven.record()}
    return Info(f"{path}: {FileKind.CERTIFICATE}", facts, [["model", str(model)], *_proven(proven)])


def _proven(proven: Certificate) -> list[list[str]]:
    return [
        ["format", f"{proven.to} in {proven.precision}, takes {proven.takes}"],
        ["made of", f"{proven.head}, on {proven.spec}"],
        [proven.task, _positions(proven.class_names)],
        ["proven on", str(proven)],
        ["versions", plain(proven.versions)],
        ["machine", plain(proven.machine)],
    ]


def _of_model(path: Path, kind: FileKind) -> Info:
    """A fine-tuned or exported model, by the facts in it or by the certificate beside it."""
    certified = beside(path, ENDING)
    proven = Certificate.read(certified) if certified.exists() else None
    if path.suffix not in (".keras", ".h5"):
        proven = proven or certificate_of(path)
        return Info(f"{path}: {kind}", {**_of_certificate(certified, proven).facts, "file": str(path)}, _proven(proven))
    model = tuned_model(path)
    scored = model.evaluation
    facts = {**read_facts(path), "file": str(path), "kind": kind.value, "bytes": path.stat().st_size}
    for name in ("seen", "answers"):
        facts.pop(name, None)
    facts["positions"] = dict(enumerate(model.class_names))
    rows = [
        [model.task, _positions(model.class_names)],
        ["pixels and backbone", str(model.spec)],
        ["parameters", plain(model.parameters)],
        ["trained on", f"{len(model.seen)} images"],
        *([["proven on", str(proven)]] if proven else []),
        *([["without copies", scored.without_copies]] if scored.without_copies else []),
        *_provenance(model.trained_on),
    ]
    return Info(f"{path}: {kind}, {scored.measured_on} {scored}", facts, rows)


def _summary(head: SavedHead) -> Summary:
    from onepass.heads.inference.keras_layers import summary

    return Summary(summary(head.network, dropout=float(head.parameters.get("dropout") or 0.0)))


def _network_summary(path: Path) -> Summary:
    from onepass.heads.inference.keras_layers import network_summary

    with plain_keras():
        return Summary(network_summary(load_model(path)))


def _of_head(head: SavedHead) -> Info:
    scored, unknown, coverage = head.evaluation, head.abstention, head.coverage
    facts = {
        "file": str(head.path),
        "head": head.kind,
        "task": head.task,
        "classes": list(head.class_names),
        "positions": dict(enumerate(head.class_names)),
        "spec": asdict(head.spec),
        "parameters": head.parameters,
        "evaluation": scored.record(),
        "trained_on": head.trained_on,
        "unknown": asdict(unknown) if unknown else None,
        "coverage": asdict(coverage) if coverage else None,
        "history": head.history.record() if head.history else None,
        "checksum": head.guarded,
        "bytes": head.path.stat().st_size,
    }
    rows = [
        [head.task, _positions(head.class_names)],
        ["rows", str(head.spec)],
        *_network(head.spec),
        ["parameters", plain(head.parameters)],
        *([["unknown", str(unknown)]] if unknown else []),
        *([["intervals", str(coverage)]] if coverage else []),
        *([["history", str(head.history)]] if head.history else []),
        *([] if head.guarded else [["checksum", "none, since onepass 0.1 wrote it; a head trained anew has one"]]),
        *_provenance(head.trained_on),
    ]
    return Info(f"{head.path}: {head.kind} head, {scored.measured_on} {scored}", facts, rows)


def _of_features(file: FeatureFile) -> Info:
    table, duplicates, overlapping = file.table, find_duplicates(file), find_overlapping_groups(file.table)
    groups, committed, pending = len(table.group_names()), int(file.committed.sum()), len(file.pending())
    classes = table.part(file.committed).counts()
    splits = {name: len(file.rows_of(name)) for name in SPLITS}
    facts = {
        "file": str(file.path),
        "images": len(file),
        "views": file.views,
        "committed": committed,
        "pending": pending,
        "task": file.task,
        "labelled": int((table.labelled & file.committed).sum()),
        "skipped": [asdict(image) for image in file.skipped],
        "classes": classes,
        "positions": dict(enumerate(file.class_names)),
        "splits": splits,
        "duplicates": [asdict(group) for group in duplicates],
        "groups": groups,
        "overlapping_groups": [asdict(group) for group in overlapping],
        "row_dtype": file.row_dtype,
        "spec": asdict(file.spec),
        "provenance": file.provenance,
        "bytes": file.path.stat().st_size,
    }
    told = f"{groups}; {describe_overlapping_groups(overlapping)}" if overlapping else str(groups)
    rows = [
        ["committed", f"{committed} of {len(file)} images" + (f", {pending} to do" if pending else "")],
        *([[file.task, plain(classes) if classes else table.what()]]),
        *([["positions", _positions(file.class_names)]] if classes else []),
        ["splits", plain(splits)],
        *([["groups", told]] if groups else []),
        ["rows", f"{file.spec}" + (", stored as float16" if file.row_dtype == "float16" else "")],
        *_network(file.spec),
        *([["duplicates", describe_duplicates(duplicates)]] if duplicates else []),
        *_provenance(file.provenance),
    ]
    return Info(f"{file.path}: {file}", facts, rows, tuple(file.skipped))


def _positions(class_names: Sequence[str]) -> str:
    """Each class with its place among the outputs: 0 cats, 1 dogs; a number's name alone."""
    if len(class_names) == 1:
        return class_names[0]
    return ", ".join(f"{position} {name}" for position, name in enumerate(class_names))


def _network(spec: Spec) -> list[list[str]]:
    """What is known of the network behind rows."""
    return [
        *([["fed as", str(spec.preprocess)]] if spec.preprocess else []),
        ["weights hash", spec.weights_hash],
        *([["licence", spec.licence]] if spec.licence else []),
    ]


def _provenance(provenance: Mapping[str, Any]) -> list[list[str]]:
    """Name and value of all that is known; each environment on a line of its own."""
    environments = [["environment", plain(found)] for found in provenance.get("environments") or []]
    others = {name: value for name, value in provenance.items() if name != "environments" and value is not None}
    return [[name.replace("_", " "), plain(value)] for name, value in others.items()] + environments
