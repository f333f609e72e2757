"""Makes the feature file ready for a pass: a place for each image and view, old rows taken over by content."""

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Sequence
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
from features.writer import write_feature_file

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


@contextlib.contextmanager
def existing(path: Path) -> Iterator[FeatureFile | None]:
    """The feature file that stands at a path already, or None."""
    if not path.exists():
        yield None
        return
    with FeatureFile(path) as file:
        yield file


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


def scan_for(data: Folders, old: FeatureFile | None, *, seed: int | None, rehash: bool) -> FolderScan:
    """Scans the image folders with the help of what an old feature file knows.

    Raises:
        FeatureFileError: The file holds rows, and none of its images is here.
        OptionError: The file's split was drawn with another seed.
    """
    drawn = bool(old and old.provenance.get("drawn_split"))
    drawn_with = int((old and old.provenance.get("seed")) or 0)
    if old and drawn and seed not in (None, drawn_with):
        raise OptionError(
            f"the test split of {old.path} was drawn with seed {drawn_with}, and images keep their side; got {seed}. "
            "Choose another file with --out; --base takes the rows over."
        )
    # Elsewhere an image of the same name, size and time may still be another one.
    here = bool(old) and old.provenance.get("data") == str(image_folders(data)[1].resolve())  # type: ignore[union-attr]
    scan = scan_folder(
        data,
        seed=drawn_with if seed is None else seed,
        known=old.table if old else None,
        known_drawn=drawn,
        rehash=rehash or not here,
    )
    if old and old.flags.any() and len(dropped_contents(old, scan)) == len(_held_contents(old)):
        raise FeatureFileError(
            f"{old.path} holds rows of {int(old.flags.any(axis=1).sum())} images from "
            f"{old.provenance.get('data')}, none of which is in {_named(data)}. Choose another file with --out, or "
            "delete this one."
        )
    return scan


def dropped_contents(old: FeatureFile, scan: FolderScan) -> set[bytes]:
    """Contents that a file has rows of and that are no longer in the image folders."""
    return _held_contents(old) - {h.tobytes() for h in scan.table.content_hashes}


def _held_contents(file: FeatureFile) -> set[bytes]:
    return {h.tobytes() for h in file.table.content_hashes[file.flags.any(axis=1)]}


def held_views(source: FeatureFile, axis: ViewAxis) -> dict[bytes, int]:
    """How many of the wanted views of each of its contents a feature file has."""
    usable = axis.count if source.spec.views == axis.recipe else 1
    held: dict[bytes, int] = {}
    for content, count in zip(source.table.content_hashes, source.flags[:, :usable].sum(axis=1).tolist(), strict=True):
        held[content.tobytes()] = max(count, held.get(content.tobytes(), 0))
    return held


def lacking_views(
    scan: FolderScan, axis: ViewAxis, sources: Sequence[FeatureFile], *, retry: bool = False
) -> dict[bytes, int]:
    """How many views of each content in the image folders no feature file has.

    Args:
        scan: Of the folders.
        axis: The views wanted.
        sources: The file at hand, and those whose rows are reused.
        retry: Count contents that could not be decoded as well.
    """
    held = [held_views(source, axis) for source in sources]
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
) -> None:
    """Puts a file at `path` that has a place for every image and view, and all rows of `old` still wanted."""
    root = str(scan.root.resolve())
    if old and scan.table.same_files(old.table) and old.views == axis.count and old.provenance.get("data") == root:
        return
    provenance: dict[str, Any] = {
        "data": root,
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
    write_feature_file(path, spec, scan.table, provenance, golden, views=axis.count, old=old)


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
    remedy: str = "Or go on with --accept-drift, which is recorded.",
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
