"""Verifies a feature file against its checksums, and this machine against its golden rows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.load import load_backbone_for
from onepass.extract.backbones.options import BackboneOrigin
from onepass.extract.one_pass.golden_check import check_golden
from onepass.features import FeatureFile
from onepass.features.drift import Drift
from onepass.features.errors import UserError
from onepass.features.integrity import Integrity, check_file
from onepass.features.names import shown
from onepass.features.progress import phase
from onepass.features.tables import command_line


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        integrity: Checksums, flags and counts.
        drift: Of the golden rows; None if they were not recomputed.
        not_checked: Why they were not, if they should have been.
    """

    integrity: Integrity
    drift: Drift | None
    not_checked: str = ""

    @property
    def verdict(self) -> str:
        """damaged, incomplete, drifted, unproven (golden rows could not be checked) or whole; the worst counts."""
        if self.integrity.damage:
            return "damaged"
        if self.integrity.pending:
            return "incomplete"
        if self.drift and not self.drift.accepted:
            return "drifted"
        return "unproven" if self.not_checked else "whole"

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed; nothing where it must be extracted anew."""
        path = self.integrity.path
        if self.verdict in ("damaged", "incomplete"):
            return "" if self.integrity.header_damaged else command_line("onepass", "repair", path)
        return command_line("train-head", path)

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        counts = {
            name: getattr(self.integrity, name) for name in ("images", "views", "committed", "pending", "skipped")
        }
        return {
            "path": str(self.integrity.path),
            "verdict": self.verdict,
            **counts,
            "damage": [asdict(found) for found in self.integrity.damage],
            "drift": self.drift.record() if self.drift else None,
            "golden_rows_not_checked": self.not_checked or None,
        }

    def __str__(self) -> str:
        found = self.integrity
        lines = [
            f"{shown(found.path)}: {self.verdict}",
            (
                f"{found.committed} of {found.images} images complete and intact, {found.pending} to do, "
                f"{found.skipped} skipped"
            ),
        ]
        lines += [f"damaged: {damage}" for damage in found.damage]
        if self.drift:
            lines.append(f"golden rows: {self.drift}")
        if self.not_checked:
            lines.append(f"golden rows not checked: {self.not_checked}")
        if found.header_damaged:
            lines.append("Nothing in it can be believed: delete it and extract again.")
        elif self.verdict in ("damaged", "incomplete"):
            lines.append(f"Repair it with: onepass repair {shown(found.path)}")
        return "\n".join(lines)


def verify(path: str | Path, *, golden: bool = True, weights: str | None = None, engine: str = "auto") -> Verification:
    """Looks whether a feature file is what was written, and whether this machine still computes its rows.

    Args:
        path: The feature file.
        golden: Recompute the golden rows.
        weights: See `backbone_of_file`.
        engine: See `backbone_of_file`.

    Raises:
        FeatureFileError: It is no feature file.
    """
    with phase("checking every checksum"):
        integrity = check_file(Path(path))
    if not golden or integrity.header_damaged:
        return Verification(integrity, None)
    with FeatureFile(path) as file:
        try:
            with phase("computing the golden rows again"):
                backbone = backbone_of_file(file, weights=weights, engine=engine)
                return Verification(integrity, check_golden(file, backbone, accept=True))
        except UserError as error:
            return Verification(integrity, None, str(error))


def backbone_of_file(file: FeatureFile, *, weights: str | None = None, engine: str = "auto") -> Backbone:
    """The backbone that computed a file's rows.

    Args:
        file: The feature file.
        weights: Where its weights or `.keras` file lie now, if not where they were.
        engine: openvino, tensorflow or auto.

    Raises:
        BackboneError: It cannot be built or run here.
        SpecMismatchError: What is found here is another backbone.
    """
    source = BackboneOrigin.of(file.provenance, weights)
    return load_backbone_for(file.spec, source=source, engine=engine, needed_by=str(file.path))
