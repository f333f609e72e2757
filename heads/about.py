"""What a feature file or a head file holds, and where it came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onepass.features import (
    SPLITS,
    FeatureFile,
    SkippedImage,
    find_duplicates,
    find_overlapping_groups,
    only_feature_file,
)
from onepass.features.duplicates import describe_duplicates
from onepass.features.errors import OptionError, opt
from onepass.features.overlapping_groups import describe_overlapping_groups
from onepass.features.tables import Record, html_table, plain, text_table
from onepass.heads.saved_head import SavedHead, is_head, load_head


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
        return f"{self.title}\n{text_table(self.rows)}".rstrip()

    def _repr_html_(self) -> str:
        return html_table([["", ""], *self.rows], title=self.title)

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return self.facts


@dataclass(frozen=True)
class Summary:
    """A head as `model.summary()` of Keras shows it."""

    text: str

    def __str__(self) -> str:
        return self.text

    def record(self) -> dict[str, str]:
        """The same as plain values, for JSON."""
        return {"summary": self.text}


def info(file: str | Path | None = None, *, summary: bool = False) -> Info | Summary:
    """Says what a feature file or a head file holds and where it came from.

    Args:
        file: By default the feature file in the current folder.
        summary: A head as `model.summary()` of Keras shows it instead.

    Raises:
        OptionError: A summary is asked for of a file that is no head.
        FeatureFileError, HeadFileError: The file cannot be read.

    >>> info("photos.resnet50.h5")  # doctest: +SKIP
    """
    path = Path(file) if file is not None else only_feature_file()
    if path.is_file() and is_head(path):
        head = load_head(path)
        return _summary(head) if summary else _of_head(head)
    if summary:
        raise OptionError(f"{opt.summary} is for head files; {path} is none.", file=path)
    with FeatureFile(path) as opened:
        return _of_features(opened)


def _summary(head: SavedHead) -> Summary:
    from onepass.heads.inference.keras_layers import summary

    return Summary(summary(head.network, dropout=float(head.parameters.get("dropout") or 0.0)))


def _of_head(head: SavedHead) -> Info:
    scored, unknown = head.evaluation, head.abstention
    facts = {
        "file": str(head.path),
        "head": head.kind,
        "classes": list(head.class_names),
        "spec": asdict(head.spec),
        "parameters": head.parameters,
        "evaluation": asdict(scored),
        "trained_on": head.trained_on,
        "unknown": asdict(unknown) if unknown else None,
        "checksum": head.guarded,
        "bytes": head.path.stat().st_size,
    }
    rows = [
        ["classes", ", ".join(head.class_names)],
        ["rows", str(head.spec)],
        ["weights hash", head.spec.weights_hash],
        ["parameters", plain(head.parameters)],
        *([["unknown", str(unknown)]] if unknown else []),
        *([] if head.guarded else [["checksum", "none, since onepass 0.1 wrote it; a head trained anew has one"]]),
        *_provenance(head.trained_on),
    ]
    return Info(f"{head.path}: {head.kind} head, {scored.measured_on} {scored}", facts, rows)


def _of_features(file: FeatureFile) -> Info:
    table, duplicates, overlapping = file.table, find_duplicates(file), find_overlapping_groups(file.table)
    groups, committed, pending = len(table.group_names()), int(file.committed.sum()), len(file.pending())
    classes = {name: int((table.labels[file.committed] == i).sum()) for i, name in enumerate(file.class_names)}
    splits = {name: len(file.rows_of(name)) for name in SPLITS}
    facts = {
        "file": str(file.path),
        "images": len(file),
        "views": file.views,
        "committed": committed,
        "pending": pending,
        "skipped": [asdict(image) for image in file.skipped],
        "classes": classes,
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
        ["classes", plain(classes)],
        ["splits", plain(splits)],
        *([["groups", told]] if groups else []),
        ["rows", f"{file.spec}" + (", stored as float16" if file.row_dtype == "float16" else "")],
        ["weights hash", file.spec.weights_hash],
        *([["duplicates", describe_duplicates(duplicates)]] if duplicates else []),
        *_provenance(file.provenance),
    ]
    return Info(f"{file.path}: {file}", facts, rows, tuple(file.skipped))


def _provenance(provenance: Mapping[str, Any]) -> list[list[str]]:
    """Name and value of all that is known; each environment on a line of its own."""
    environments = [["environment", plain(found)] for found in provenance.get("environments") or []]
    others = {name: value for name, value in provenance.items() if name != "environments" and value is not None}
    return [[name.replace("_", " "), plain(value)] for name, value in others.items()] + environments
