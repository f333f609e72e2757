"""Golden rows compared wherever rows of this machine will stand beside others, and what was accepted recorded."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.one_pass.compute import Missing
from onepass.extract.one_pass.resolve import Job
from onepass.features import FeatureFile, opt
from onepass.features.drift import Drift, measure_drift, require_no_drift
from onepass.features.writer import write_feature_file


@dataclass(frozen=True, eq=False)
class Joining:
    """Rows of other environments that will stand beside those of a file.

    Attributes:
        golden: (e, g, d) float32, their golden rows.
        environments: What they were computed in.
        drift: How far they lie from those of the file.
    """

    golden: np.ndarray
    environments: list[dict[str, Any]]
    drift: Drift


def check_golden(file: FeatureFile, backbone: Backbone, *, accept: bool = False, remedy: str = "") -> Drift:
    """Recomputes a file's golden rows.

    Args:
        file: The feature file.
        backbone: Of its spec.
        accept: Measure only.
        remedy: What else the user can do; the last sentence.

    Raises:
        DriftError: They differ beyond the tolerance and that is not accepted.
    """
    drift = measure_drift(file.golden_rows, backbone.golden_rows(), file.spec.precision)
    if not accept:
        remedy = remedy or f"Or go on with {opt.accept_drift(True)}, which is recorded."
        require_no_drift(drift, name=str(file.path), remedy=remedy)
    return drift


def check_joining_rows(job: Job) -> list[Joining]:
    """Compares golden rows before anything is written.

    Raises:
        DriftError: Rows differ beyond the tolerance and that is not accepted.
    """
    found: list[Joining] = []
    backbone, accept = job.backbone, job.options.accept_drift
    new = job.missing_views([job.old] if job.old else []).keys()
    if job.old and (new or Missing.of(job.path).images):
        drift = check_golden(job.old, backbone, accept=accept)
        found.append(Joining(backbone.golden_rows()[None], [backbone.environment], drift))
    for base in job.bases:
        if new & job.held_views(base).keys():
            drift = check_golden(base, backbone, accept=accept)
            found.append(Joining(base.golden_rows, base.provenance.get("environments") or [], drift))
    return found


def record_drift(path: Path, joining: Joining) -> None:
    """Writes into a feature file that rows of other environments were accepted although they differ."""
    with FeatureFile(path) as old:
        known = {rows.tobytes() for rows in old.golden_rows}
        new = [rows for rows in joining.golden if rows.tobytes() not in known]
        if not new:
            return
        note = {
            "accepted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cosine": joining.drift.cosine,
            "difference": joining.drift.difference,
        }
        listed = [*(old.provenance.get("environments") or []), *({**one, **note} for one in joining.environments)]
        provenance = {**old.provenance, "environments": listed}
        both = np.concatenate([old.golden_rows, np.stack(new)])
        write_feature_file(path, old.spec, old.table, provenance, both, views=old.views, old=old)
