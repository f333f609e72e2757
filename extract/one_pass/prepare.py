"""Makes the feature file ready for a pass: a place for each image and view, old rows taken over by content."""

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.quantisation import calibrated
from onepass.extract.data.folders import Folders, FolderScan, image_folders, scan_folder
from onepass.extract.data.groups import GroupRule
from onepass.extract.one_pass.choices import ViewAxis
from onepass.features import FeatureFile, Spec
from onepass.features.drift import Drift, measure_drift, require_no_drift
from onepass.features.errors import FeatureFileError, OptionError, opt
from onepass.features.layout import keeps_precision
from onepass.features.spec import require_equal_specs
from onepass.features.writer import write_feature_file


@contextlib.contextmanager
def existing(path: Path) -> Iterator[FeatureFile | None]:
    """The feature file that stands at a path already, or None."""
    if not path.exists():
        yield None
        return
    with FeatureFile(path) as file:
        yield file


def scan_for(
    data: Folders, old: FeatureFile | None, *, seed: int | None, rehash: bool, groups: GroupRule | None = None
) -> FolderScan:
    """Scans the image folders with the help of what an old feature file knows.

    Args:
        data: The image folder, or several.
        old: The feature file, if there is one.
        seed: Of the drawn split; None for the file's, else 0.
        rehash: Read every file, whatever its size and time say.
        groups: From `choose_groups`.

    Raises:
        DataError: The folder cannot be used, or an image has no group.
        FeatureFileError: The file holds rows, and none of its images is here.
        OptionError: The file's split was drawn with another seed.
    """
    drawn = bool(old and old.provenance.get("drawn_split"))
    drawn_with = int((old and old.provenance.get("seed")) or 0)
    if old and drawn and seed not in (None, drawn_with):
        raise OptionError(
            f"the test split of {old.path} was drawn with seed {drawn_with}, and images keep their side; got {seed}. "
            f"Choose another file with {opt.out}; {opt.base} takes the rows over."
        )
    # Elsewhere an image of the same name, size and time may still be another one.
    here = bool(old) and old.provenance.get("data") == str(image_folders(data)[1].resolve())  # type: ignore[union-attr]
    scan = scan_folder(
        data,
        seed=drawn_with if seed is None else seed,
        known=old.table if old else None,
        known_drawn=drawn,
        rehash=rehash or not here,
        groups=groups,
    )
    if old and old.flags.any() and len(dropped_contents(old, scan)) == len(_held_contents(old)):
        raise FeatureFileError(
            f"{old.path} holds rows of {int(old.flags.any(axis=1).sum())} images from "
            f"{old.provenance.get('data')}, none of which is in {_named(data)}. Choose another file with {opt.out}, or "
            "delete this one."
        )
    return scan


def dropped_contents(old: FeatureFile, scan: FolderScan) -> set[bytes]:
    """Contents that a file has rows of and that are no longer in the image folders."""
    return _held_contents(old) - {h.tobytes() for h in scan.table.content_hashes}


def _held_contents(file: FeatureFile) -> set[bytes]:
    return {h.tobytes() for h in file.table.content_hashes[file.flags.any(axis=1)]}


def held_views(source: FeatureFile, axis: ViewAxis, row_dtype: str) -> dict[bytes, int]:
    """How many of the wanted views of each of its contents a feature file has, precise enough for `row_dtype`."""
    if not keeps_precision(source.row_dtype, row_dtype):
        return {}
    usable = axis.count if source.spec.views == axis.recipe else 1
    held: dict[bytes, int] = {}
    for content, count in zip(source.table.content_hashes, source.flags[:, :usable].sum(axis=1).tolist(), strict=True):
        held[content.tobytes()] = max(count, held.get(content.tobytes(), 0))
    return held


def lacking_views(
    scan: FolderScan, axis: ViewAxis, sources: Sequence[FeatureFile], *, row_dtype: str, retry: bool = False
) -> dict[bytes, int]:
    """How many views of each content in the image folders no feature file has.

    Args:
        scan: Of the folders.
        axis: The views wanted.
        sources: The file at hand, and those whose rows are reused.
        row_dtype: What rows will be stored as.
        retry: Count contents that could not be decoded as well.
    """
    held = [held_views(source, axis, row_dtype) for source in sources]
    given_up = set() if retry else {content for source in sources for content in source.given_up()}
    contents = {content.tobytes() for content in scan.table.content_hashes} - {bytes(32)} - given_up
    lacking = {content: axis.count - max((have.get(content, 0) for have in held), default=0) for content in contents}
    return {content: count for content, count in lacking.items() if count}


def calibrated_for(backbone: Backbone, scan: FolderScan, like: FeatureFile | None) -> Backbone:
    """An int8 backbone calibrated on the training images, or as it was for the rows of a file.

    A backbone of another precision is returned as it is.

    Raises:
        BackboneError: NNCF is not installed, or the graph of the file's rows is not to be had.
    """
    if backbone.spec.precision != "int8" or backbone.spec.calibration:
        return backbone
    calibration, name = (like.spec.calibration, str(like.path)) if like else ("", "")
    return calibrated(backbone, scan.images("train"), calibration=calibration, needed_by=name)


def write_prepared(
    path: Path,
    backbone: Backbone,
    scan: FolderScan,
    axis: ViewAxis,
    data: Folders,
    *,
    old: FeatureFile | None,
    seed: int | None,
    groups: GroupRule | None,
    row_dtype: str,
) -> None:
    """Puts a file at `path` that has a place for every image and view, and all rows of `old` still wanted."""
    where: dict[str, Any] = {"data": str(scan.root.resolve()), **_group_record(groups, old)}
    if (
        old
        and scan.table.same_files(old.table)
        and (old.views, old.row_dtype) == (axis.count, row_dtype)
        and where.items() <= old.provenance.items()
    ):
        return
    provenance: dict[str, Any] = {
        **where,
        "folders": [str(folder.resolve()) for folder in image_folders(data)[0]],
        "backbone": backbone.source.name,
        "weights": backbone.source.weights,
        "engine": backbone.engine_name,
        "seed": seed if seed is not None else (old.provenance.get("seed") or 0) if old else 0,
        "drawn_split": scan.drawn,
        "augment": str(axis.augmentation) if axis.augmentation else None,
        "quantisation": asdict(backbone.quantisation) if backbone.quantisation else None,
        "environments": (old.provenance.get("environments") or []) if old else [backbone.environment],
    }
    golden = old.golden_rows if old else backbone.golden_rows()[None]
    spec = dataclasses.replace(backbone.spec, views=axis.recipe)
    write_feature_file(path, spec, scan.table, provenance, golden, views=axis.count, row_dtype=row_dtype, old=old)


def _group_record(groups: GroupRule | None, old: FeatureFile | None) -> dict[str, Any]:
    """Where the groups come from; images that keep them leave the record as it was."""
    if groups:
        return groups.record()
    return {name: old.provenance.get(name) if old else None for name in ("group_file", "group_pattern")}


def require_spec(file: FeatureFile, spec: Spec, *, remedy: str) -> None:
    """Refuses a file whose rows are not those of this spec; an int8 spec may still lack its calibration.

    Raises:
        SpecMismatchError: With both side by side.
    """
    if spec.precision == "int8" and not spec.calibration:
        spec = dataclasses.replace(spec, calibration=file.spec.calibration)
    require_equal_specs(file.spec, spec, left_name=str(file.path), right_name="this command", remedy=remedy)


def check_golden(
    file: FeatureFile,
    backbone: Backbone,
    *,
    accept: bool = False,
    remedy: str = f"Or go on with {opt.accept_drift}, which is recorded.",
) -> Drift:
    """Recomputes a file's golden rows.

    Raises:
        DriftError: They differ beyond the tolerance and that is not accepted.
    """
    drift = measure_drift(file.golden_rows, backbone.golden_rows(), file.spec.precision)
    if not accept:
        require_no_drift(drift, name=str(file.path), remedy=remedy)
    return drift


def record_drift(path: Path, golden: np.ndarray, environments: list[dict[str, Any]], drift: Drift) -> None:
    """Writes into a feature file that rows of other environments were accepted although they differ.

    Args:
        path: The file.
        golden: (e, g, d) float32, golden rows of these environments; those that it has are left out.
        environments: What they are.
        drift: What was accepted.
    """
    with FeatureFile(path) as old:
        known = {rows.tobytes() for rows in old.golden_rows}
        new = [rows for rows in golden if rows.tobytes() not in known]
        if not new:
            return
        note = {
            "accepted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cosine": drift.cosine,
            "difference": drift.difference,
        }
        listed = [*(old.provenance.get("environments") or []), *({**found, **note} for found in environments)]
        provenance = {**old.provenance, "environments": listed}
        both = np.concatenate([old.golden_rows, np.stack(new)])
        write_feature_file(path, old.spec, old.table, provenance, both, views=old.views, old=old)


def _named(data: Folders) -> str:
    return " or ".join(map(str, image_folders(data)[0]))
