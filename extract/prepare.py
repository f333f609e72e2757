"""Makes the feature file ready for a pass: a place for each image and view, old rows taken over by content."""

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbone import Backbone
from extract.folders import Folders, FolderScan, image_folders, scan_folder
from extract.quantise import calibrated
from extract.views import Augmentation, view_recipe
from features import FeatureFile, Spec
from features.drift import Drift, measure_drift, require_no_drift
from features.errors import FeatureFileError, OptionError
from features.spec import require_equal_specs
from features.writer import RowWriter, write_feature_file

DEFAULT_AUGMENT = "classic"


@dataclass(frozen=True)
class ViewAxis:
    """The views of a feature file.

    Attributes:
        count: Views per image, the plain one included.
        augmentation: What the others are drawn from; None if there are no others.
    """

    count: int = 1
    augmentation: Augmentation | None = None

    @property
    def recipe(self) -> str:
        """How a spec names it."""
        return view_recipe(self.augmentation) if self.augmentation else "plain"


def choose_views(old: FeatureFile | None, views: int | None, augment: str | None) -> ViewAxis:
    """The views that a command asks for, given what the file holds already.

    Raises:
        OptionError: The number is out of range, or the file holds other or more views.
    """
    if views is not None and not 1 <= views <= 1000:
        raise OptionError(f"--views is {views}; needed: 1 to 1000.")
    held = old.views if old else 1
    if held > 1 and views is not None and views < held:
        raise OptionError(f"{old and old.path} holds {held} views per image; none is dropped. Choose another --out.")
    count = views or held
    if count == 1:
        if augment:
            raise OptionError("--augment needs --views, how many views each image shall have, such as --views 8.")
        return ViewAxis()
    text = augment or (str((old and old.provenance.get("augment")) or DEFAULT_AUGMENT))
    axis = ViewAxis(count, Augmentation.parse(text))
    if old and held > 1 and old.spec.views != axis.recipe:
        raise OptionError(
            f"{old.path} holds views of the recipe {old.spec.views}; this command asks for {axis.recipe}. "
            "Leave --augment out, or choose another --out."
        )
    return axis


def scan_for(data: Folders, old: FeatureFile | None, *, seed: int, rehash: bool) -> FolderScan:
    """Scans the image folders with the help of what an old feature file knows.

    Raises:
        FeatureFileError: The file holds rows, and none of its images is here.
    """
    known_drawn = bool(old and old.provenance.get("drawn_split"))
    scan = scan_folder(data, seed=seed, known=old.table if old else None, known_drawn=known_drawn, rehash=rehash)
    if old and old.flags.any():
        shared = {h.tobytes() for h in scan.table.content_hashes} & {h.tobytes() for h in old.table.content_hashes}
        if not shared:
            raise FeatureFileError(
                f"{old.path} holds rows of {int(old.flags.any(axis=1).sum())} images from "
                f"{old.provenance.get('data')}, none of which is in {_named(data)}. Choose another file with --out, or "
                "delete this one."
            )
    return scan


def calibrated_for(backbone: Backbone, scan: FolderScan, old: FeatureFile | None) -> Backbone:
    """An int8 backbone calibrated on the training images, or as it was for the rows of an old file.

    A backbone of another precision is returned as it is.

    Raises:
        BackboneError: NNCF is not installed, or the graph of the old rows is not to be had.
    """
    if backbone.spec.precision != "int8" or backbone.spec.calibration or (old and old.spec.precision != "int8"):
        return backbone
    calibration, name = (old.spec.calibration, str(old.path)) if old else ("", "")
    return calibrated(backbone, scan.images("train"), calibration=calibration, needed_by=name)


def write_prepared(
    path: Path,
    backbone: Backbone,
    scan: FolderScan,
    axis: ViewAxis,
    data: Folders,
    *,
    old: FeatureFile | None,
    seed: int,
) -> None:
    """Puts a file at `path` that has a place for every image and view, and all rows of `old` still wanted."""
    if old and scan.table.same_entries(old.table) and old.views == axis.count:
        return
    provenance: dict[str, Any] = {
        "data": str(scan.root.resolve()),
        "folders": [str(folder.resolve()) for folder in image_folders(data)[0]],
        "backbone": backbone.source.name,
        "weights": backbone.source.weights,
        "engine": backbone.engine_name,
        "seed": seed,
        "drawn_split": scan.drawn,
        "augment": str(axis.augmentation) if axis.augmentation else None,
        "quantisation": asdict(backbone.quantisation) if backbone.quantisation else None,
        "environments": old.provenance.get("environments") if old else [backbone.environment],
    }
    golden = old.golden_rows if old else backbone.golden_rows()[None]
    spec = dataclasses.replace(backbone.spec, views=axis.recipe)
    write_feature_file(path, spec, scan.table, provenance, golden, views=axis.count, old=old)


def take_over(path: Path, bases: Sequence[Path], backbone: Backbone, *, accept_drift: bool) -> list[Drift]:
    """Copies rows from other feature files of an equal spec; returns how far their golden rows lie.

    Raises:
        SpecMismatchError: A file has another spec.
        DriftError: A file's golden rows are not what the backbone computes here.
    """
    drifts = []
    for base in bases:
        with FeatureFile(base) as source, RowWriter(path) as writer:
            require_spec(source, backbone.spec)
            drifts.append(check_golden(source, backbone, accept=accept_drift))
            writer.copy_rows(source)
    return drifts


def require_spec(file: FeatureFile, spec: Spec) -> None:
    """Refuses a file whose rows are not those of this spec.

    Raises:
        SpecMismatchError: With both side by side.
    """
    require_equal_specs(
        file.spec,
        spec,
        left_name=str(file.path),
        right_name="this command",
        remedy="Repeat the settings of the file, or choose another file with --out.",
    )


def check_golden(file: FeatureFile, backbone: Backbone, *, accept: bool = False) -> Drift:
    """Recomputes a file's golden rows.

    Raises:
        DriftError: They differ beyond the tolerance and that is not accepted.
    """
    drift = measure_drift(file.golden_rows, backbone.golden_rows(), file.spec.precision)
    if not accept:
        require_no_drift(drift, name=str(file.path))
    return drift


def record_drift(path: Path, backbone: Backbone, drift: Drift) -> None:
    """Writes into a feature file that rows of this environment were accepted although they differ."""
    with FeatureFile(path) as old:
        accepted = {
            **backbone.environment,
            "accepted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cosine": drift.cosine,
            "difference": drift.difference,
        }
        provenance = {**old.provenance, "environments": [*old.provenance.get("environments", []), accepted]}
        golden = np.concatenate([old.golden_rows, backbone.golden_rows()[None]])
        write_feature_file(path, old.spec, old.table, provenance, golden, views=old.views, old=old)


def _named(data: Folders) -> str:
    return " or ".join(map(str, image_folders(data)[0]))
