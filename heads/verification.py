"""Verifies what lies on disk: a feature file, a head, a fine-tuned model, or an exported model by its images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onepass.extract import Verification, check_running
from onepass.extract import verify as verify_features
from onepass.features import only_feature_file
from onepass.features.drift import Drift, measure_drift
from onepass.features.errors import (
    FileKindError,
    HeadFileError,
    OnepassWarning,
    OptionError,
    TrainingError,
    UserError,
    opt,
)
from onepass.features.names import shown
from onepass.features.tables import Record
from onepass.heads.export.verify import VerifiedExport, verify_export
from onepass.heads.file_kinds import FileKind, certified_model, file_kind
from onepass.heads.finetune.model_file import load_model, read_facts
from onepass.heads.predict.classify import BackboneOptions, describe_classifier, load_classifier


@dataclass(frozen=True)
class VerifiedHead:
    """What `verify` found of a head file or a fine-tuned model.

    Attributes:
        path: The file.
        kind: What it is.
        damage: What is wrong with it; empty if nothing is.
        drift: Of its golden rows; None if they were not recomputed.
        not_checked: Why they were not, if they should have been.
    """

    path: Path
    kind: str
    damage: str = ""
    drift: Drift | None = None
    not_checked: str = ""

    @property
    def verdict(self) -> str:
        """damaged, drifted, unproven (golden rows could not be checked) or whole; the worst counts."""
        if self.damage:
            return "damaged"
        if self.drift and not self.drift.accepted:
            return "drifted"
        return "unproven" if self.not_checked else "whole"

    def record(self) -> Record:
        """The same as plain values, for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "verdict": self.verdict,
            "damage": self.damage or None,
            "drift": self.drift.record() if self.drift else None,
            "golden_rows_not_checked": self.not_checked or None,
        }

    def __str__(self) -> str:
        lines = [f"{shown(self.path)}: {self.verdict}, {self.kind}"]
        if self.damage:
            lines.append(f"damaged: {self.damage}")
        if self.drift:
            lines.append(f"golden rows: {self.drift}")
        if self.not_checked:
            lines.append(f"golden rows not checked: {self.not_checked}")
        return "\n".join(lines)


def verify(
    file: str | Path | None = None,
    certificate: str | Path | None = None,
    *,
    data: str | Path | Sequence[str | Path] = (),
    golden: bool = True,
    weights: str | None = None,
    engine: str = "auto",
) -> Verification | VerifiedExport | VerifiedHead:
    """Looks whether a file is as it was written, and whether this machine still computes what it stands for.

    Feature files, heads and fine-tuned models are checked by their checksums and golden rows, exported models by the
    images of their certificate.

    Args:
        file: Any file that onepass writes, by default the feature file in the current folder.
        certificate: Of an exported model; by default what lies beside it.
        data: Where the images of a certificate lie; by default below the current folder.
        golden: Whether to compute golden rows again.
        weights: Where the backbone's weights or `.keras` file lie now, if not where they were.
        engine: openvino, tensorflow or auto.

    Raises:
        UserError: As `verify_features` and `verify_export`.

    >>> verify("photos.resnet50.h5").verdict  # doctest: +SKIP
    'whole'
    """
    check_running(engine=engine, data=data, weights=weights)
    path = Path(file) if file is not None else only_feature_file()
    kind = file_kind(path)
    if certificate or kind is FileKind.EXPORTED:
        return verify_export(path, certificate, data=data)
    if kind is FileKind.CERTIFICATE:
        return verify_export(certified_model(path), path, data=data)
    if data:
        raise OptionError(
            f"{opt.data} says where the images of an exported model's certificate lie; name the model.", data=data
        )
    if kind in (FileKind.HEAD, FileKind.TUNED):
        options: BackboneOptions = {"engine": engine, "accept_drift": True}
        if kind is FileKind.HEAD:
            options["weights"] = weights
        return _verify_head(path, kind, options, golden=golden)
    if kind in (FileKind.FEATURES, FileKind.MISSING):
        return verify_features(path, golden=golden, weights=weights, engine=engine)
    raise FileKindError(f"{path} is {kind}; needed: a feature file, a head, or a model.", path=path, kind=kind)


def _verify_head(path: Path, kind: FileKind, options: BackboneOptions, *, golden: bool) -> VerifiedHead:
    try:
        describe_classifier(path)
        if kind is FileKind.TUNED:
            load_model(path)
    except (HeadFileError, TrainingError) as error:
        return VerifiedHead(path, kind.value, damage=str(error))
    if not golden:
        return VerifiedHead(path, kind.value)
    try:
        return VerifiedHead(path, kind.value, drift=_drift(path, kind, options))
    except UserError as error:
        return VerifiedHead(path, kind.value, not_checked=str(error))


def _drift(path: Path, kind: FileKind, options: BackboneOptions) -> Drift:
    """How far the golden rows lie from those computed now.

    Raises:
        UserError: They cannot be computed, or the file keeps none.
    """
    if kind is FileKind.TUNED and "golden" not in read_facts(path):
        raise TrainingError("an earlier onepass wrote the model without golden rows", path=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OnepassWarning)  # the drift is the answer
        head, backbone = load_classifier(path, **options)
    return measure_drift(head.golden, backbone.golden_rows(), head.spec.precision, head=head)
