"""The one pass: every image of a folder through the backbone once, into a feature file that lasts."""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.catalogue import BUNDLED
from onepass.extract.backbones.load import check_backbone, load_backbone
from onepass.extract.backbones.options import BackboneSettings
from onepass.extract.data.columns import SourceOptions, SourceSettings
from onepass.extract.data.depth import depth_of_images
from onepass.extract.data.groups import GroupRule
from onepass.extract.data.source import Scan, Source, check_source
from onepass.extract.data.sources import Data, open_source
from onepass.extract.one_pass.compute import Missing, Progress, Target, compute_missing, share_rows
from onepass.extract.one_pass.copies import keep_copies
from onepass.extract.one_pass.golden_check import check_joining_rows, record_drift
from onepass.extract.one_pass.report import Extraction, report
from onepass.extract.one_pass.resolve import (
    Job,
    PassOptions,
    PassSettings,
    output_path,
    require_possible,
    resolve,
    row_sets,
)
from onepass.features import FeatureFile, OnepassWarning
from onepass.features.atomic import remove_leftovers
from onepass.features.drift import Drift
from onepass.features.lock import writer_lock
from onepass.features.progress import log, phase
from onepass.features.writer import RowWriter, write_feature_file


class ExtractionSettings(BackboneSettings, PassSettings, SourceSettings, total=False):
    """Settings of the backbone, see `load_backbone`, of the pass, see `PassOptions`, of tables, see `SourceOptions`."""


def extract_features(
    data: Data,
    backbone: str | Path | Backbone | None = None,
    *,
    progress: Progress | None = None,
    **settings: Unpack[ExtractionSettings],
) -> Path:
    """Runs a backbone over image folders once and keeps the rows; `run_extraction` for the path alone.

    The same call again, after a crash or after images were added, computes only what is missing.

    Returns:
        Path of the feature file; of the first, if several poolings were asked for.

    >>> extract_features("photos/", "resnet50", views=8)  # doctest: +SKIP
    PosixPath('photos.resnet50.h5')
    """
    done = run_extraction(data, backbone, progress=progress, **settings)
    if done.all_undone:
        told = f"{len(done.all_undone)} of the images changed or vanished while the pass ran; extract again"
        warnings.warn(told, OnepassWarning, stacklevel=2)
    return done.path


def run_extraction(
    data: Data,
    backbone: str | Path | Backbone | None = None,
    *,
    found: Scan | None = None,
    progress: Progress | None = None,
    **settings: Unpack[ExtractionSettings],
) -> Extraction:
    """Runs a backbone over image folders once and keeps the rows.

    The same call again, after a crash or after images were added, computes only what is missing.

    Args:
        data: Class folders, optionally under train / val / test folders; or several such folders; or a table.
        backbone: Name, path of a `.keras` file, or what `load_backbone` returned; by default the bundled one.
        found: What to take of the data, if it was read already: a sample of it, say.
        progress: Called with (images done, images to do) as rows are committed.
        **settings: See `load_backbone`, whose are left out if `backbone` is loaded already, `PassOptions`, and, for
            tables, `SourceOptions`.

    Returns:
        What was done, the feature file's path included. With several poolings, `pooling="cls,mean"`, each image goes
        through the backbone once, and each pooling has a file of its own: the first, and the others in `also`.

    Raises:
        UserError: Folder, backbone, weights or file cannot be used; the message says what to do.

    >>> print(run_extraction("photos/", "resnet50"))  # doctest: +SKIP
    photos.resnet50.h5: 600 images, 2 classes (cats 300, dogs 300)
    """
    source, options, ready = prepared(data, backbone, settings, looked=found is not None)
    with contextlib.ExitStack() as stack:
        jobs: list[Job] = []
        parts = ready.apart() if "," in ready.spec.pooling else [(ready, slice(None))]
        for (part, _), name in zip(parts, row_sets(ready.spec.pooling), strict=True):
            own = _own_bases(options, part) if name else options
            path = output_path(source, ready.spec.backbone, options.out, row_set=name)
            stack.enter_context(writer_lock(path))
            remove_leftovers(path.parent, path.name)  # of a run that was killed with everything done but this
            known = found or (jobs[0].scan if jobs and not path.exists() else None)
            jobs.append(stack.enter_context(resolve(source, part, own, row_set=name, found=known)))
        started = time.perf_counter()
        drifts = [_prepare_file(job) for job in jobs]
        missing = [_missing(job) for job in jobs]
        whole = jobs[0].backbone if len(jobs) == 1 else ready
        targets = [_target(job, whole, columns) for job, (_, columns) in zip(jobs, parts, strict=True)]
        done = compute_missing(targets, missing, progress=progress)
        for job in jobs:
            keep_copies(job)
        seconds = time.perf_counter() - started
        reports = [report(*one, seconds=seconds) for one in zip(jobs, done, drifts, strict=True)]
        return dataclasses.replace(reports[0], also=tuple(reports[1:]))


def _own_bases(options: PassOptions, part: Backbone) -> PassOptions:
    """The options for the file of one pooling of several: of the files to take rows from, those of this pooling."""
    own = []
    for base in options.base:
        with FeatureFile(base) as file:
            if file.spec.pooling == part.spec.pooling:
                own.append(base)
    return dataclasses.replace(options, base=own)


def _prepare_file(job: Job) -> Drift | None:
    """Makes the file with all rows that are at hand; the worst drift of rows that stand beside others there."""
    joining = check_joining_rows(job)
    _make_places(job)
    with RowWriter(job.path) as writer:
        for base in job.bases:
            writer.copy_rows(base)
            writer.copy_thumbnails(base)
    for rows in joining:
        if not rows.drift.accepted:
            record_drift(job.path, rows)
    return min((rows.drift for rows in joining), key=lambda drift: drift.cosine, default=None)


def _missing(job: Job) -> Missing:
    path, retry = job.path, job.options.rehash
    missing = Missing.of(path, retry=retry)
    log.info("%d images to compute, %d in the folder, into %s", missing.images, len(job.scan.table), path)
    if missing.images:
        share_rows(path, missing)
        missing = Missing.of(path, retry=retry)
    return missing


def prepared(
    data: Data, backbone: str | Path | Backbone | None, settings: Mapping[str, Any], *, looked: bool = False
) -> tuple[Source, PassOptions, Backbone]:
    """What a pass takes: options are judged first, then the images' names, then the backbone.

    Args:
        data: As for `run_extraction`.
        backbone: As there.
        settings: As there.
        looked: True if the images were read already.

    Raises:
        UserError: An option is wrong, or data or backbone cannot be used.
    """
    own = {name: settings[name] for name in BackboneSettings.__annotations__ if settings.get(name) is not None}
    names = [field.name for field in dataclasses.fields(PassOptions)]
    options = PassOptions(**{name: settings[name] for name in names if settings.get(name) is not None})
    loaded = None if backbone is None or isinstance(backbone, str | Path) else backbone
    name = BUNDLED if backbone is None else str(backbone)
    if loaded is None:
        check_backbone(name, **own)
    with phase("looking through the folder"):
        source = open_source(data, SourceOptions.of(settings))
    if loaded is None:
        require_possible(source, name, options, own.get("resize", "squash"), own.get("pooling"))
    if not looked:
        with phase("looking through the folder"):
            check_source(source, groups=options.groups, group_pattern=options.group_pattern)
    if loaded is not None:
        return source, options, loaded
    if own.get("depth") == "data":
        with phase("looking for the depth of the images"):
            own["depth"] = depth_of_images(source.training_images(), workers=options.workers)
    with phase(f"preparing {name}"):
        return source, options, load_backbone(name, **own)


def _target(job: Job, backbone: Backbone, columns: slice) -> Target:
    return Target(
        path=job.path,
        backbone=backbone,
        columns=columns,
        store=job.scan.store,
        paths=job.scan.table.paths,
        unread=job.scan.unread,
        augmentation=job.axis.augmentation,
        batch_size=job.options.batch_size,
        workers=job.options.workers,
    )


def _make_places(job: Job) -> None:
    """Makes the file that has a place for every image and view, and all rows of the old one still wanted."""
    old, scan, axis, backbone = job.old, job.scan, job.axis, job.backbone
    where: dict[str, Any] = {"source": None, **scan.source.record, **_group_record(job.groups, old)}
    if (
        old
        and old.keeps_thumbnails
        and scan.table.same_files(old.table)
        and (old.views, old.row_dtype) == (axis.count, job.row_dtype)
        and all(old.provenance.get(name) == value for name, value in where.items())
    ):
        return
    known, seed = old.provenance if old else {}, job.options.seed
    provenance: dict[str, Any] = {
        **where,
        "backbone": backbone.source.name,
        "weights": backbone.source.weights,
        "engine": backbone.engine_name,
        "seed": seed if seed is not None else known.get("seed") or 0,
        "drawn_split": scan.drawn,
        "relabelled": known.get("relabelled") or False,
        "augment": str(axis.augmentation) if axis.augmentation else None,
        "quantisation": asdict(backbone.quantisation) if backbone.quantisation else None,
        "environments": (known.get("environments") or []) if old else [backbone.environment],
    }
    golden = old.golden_rows if old else backbone.golden_rows()[None]
    spec = dataclasses.replace(backbone.spec, views=axis.recipe)
    write_feature_file(
        job.path, spec, scan.table, provenance, golden, views=axis.count, row_dtype=job.row_dtype, old=old
    )


def _group_record(groups: GroupRule | None, old: FeatureFile | None) -> dict[str, Any]:
    """Where the groups come from; images that keep them leave the record as it was."""
    if groups:
        return groups.record()
    return {name: old.provenance.get(name) if old else None for name in ("group_file", "group_pattern")}
