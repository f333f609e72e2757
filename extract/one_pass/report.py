"""What one run of the pass did, in numbers and in words."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.openvino_cache import Quantisation
from onepass.extract.one_pass.compute import Computed
from onepass.extract.one_pass.resolve import Job
from onepass.extract.pixels.decode import depth_of
from onepass.extract.pixels.deep import describe_depth
from onepass.extract.pixels.image_bytes import UNREACHED
from onepass.features import FeatureFile, OverlappingGroup, SkippedImage, find_overlapping_groups
from onepass.features.drift import Drift
from onepass.features.duplicates import DuplicateGroup, describe_duplicates, describe_equal_rows, find_duplicates
from onepass.features.errors import DataError
from onepass.features.groups import group_ids
from onepass.features.moments import all_equal
from onepass.features.names import shown
from onepass.features.overlapping_groups import describe_overlapping_groups
from onepass.features.preprocess import Preprocess
from onepass.features.tables import command_line
from onepass.features.tasks import CLASSES, NONE


@dataclass(frozen=True)
class Extraction:
    """What one run did.

    Attributes:
        path: The feature file.
        images: Images in it that have a row.
        views: Views per image.
        classes: Class or label name -> images with a row; empty for numbers and without labels.
        task: What the labels are, see `features.TASKS`.
        labels: The same in words.
        computed: Images that went through the backbone in this run.
        computed_rows: Rows that were written for them, views and exact copies included.
        reused: Images whose row was there already, or belongs to an image of the same content.
        dropped: Contents that the file had rows of and that are no longer in the folder.
        skipped: Files without a row, with the reason.
        undone: Those of them that can still get one: their files changed or vanished while the pass ran.
        duplicates: Images that are exact copies of each other.
        near_copies: Images that show the same picture as another one, but are not equal to it byte for byte.
        thumbnails: Images that had their rows and were read again for the thumbnail that they lacked.
        without_thumbnail: Images that have rows but still no thumbnail, because their file is not what it was.
        groups: Number of groups that have a name; other images are groups of their own.
        overlapping_groups: Groups that lie in more than one split, because the folders say so.
        row_dtype: float32 or float16: what rows are stored as.
        seconds: Duration of the pass, start-up of the engine included.
        engine: openvino or tensorflow.
        precision: float32, bfloat16 or int8.
        quantisation: int8: what it cost, measured on sample images; else None.
        drift: How far the golden rows of an older file were missed; None if they were not looked at.
        drawn_split: True if the test split was drawn because the folder had none.
        depth: Bits taken to be in use of images with 16 bits per value.
        deep: Images with 16 bits per value that were computed in this run.
        depth_notes: What to tell of those.
        preprocess: What happened to an image before the network; None if the file does not say.
        licence: Of the network's weights, as far as it is known.
        also: The same for the files of further poolings that the pass made.
        equal_rows: True if all images have one and the same row, so that nothing can be learnt from them.
    """

    path: Path
    images: int
    views: int
    classes: dict[str, int]
    task: str
    labels: str
    computed: int
    computed_rows: int
    reused: int
    dropped: int
    skipped: list[SkippedImage]
    undone: list[SkippedImage]
    duplicates: list[DuplicateGroup]
    near_copies: int
    thumbnails: int
    without_thumbnail: int
    groups: int
    overlapping_groups: list[OverlappingGroup]
    row_dtype: str
    seconds: float
    engine: str
    precision: str
    quantisation: Quantisation | None
    drift: Drift | None
    drawn_split: bool
    equal_rows: bool = False
    depth: int = 16
    deep: int = 0
    depth_notes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    licence: str = ""
    also: tuple["Extraction", ...] = ()

    @property
    def all_undone(self) -> list[SkippedImage]:
        """What is undone in this file or in those of further poolings, each image once."""
        return list(dict.fromkeys(image for one in (self, *self.also) for image in one.undone))

    @property
    def images_per_second(self) -> float:
        return self.computed / self.seconds if self.computed else 0.0

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "path": str(self.path),
            "images": self.images,
            "views": self.views,
            "task": self.task,
            "classes": self.classes,
            "computed": self.computed,
            "computed_rows": self.computed_rows,
            "reused": self.reused,
            "dropped": self.dropped,
            "skipped": len(self.skipped),
            "skipped_images": [asdict(image) for image in self.skipped],
            "undone": len(self.undone),
            "duplicates": [asdict(group) for group in self.duplicates],
            "near_copies": self.near_copies,
            "thumbnails": self.thumbnails,
            "without_thumbnail": self.without_thumbnail,
            "groups": self.groups,
            "overlapping_groups": [asdict(group) for group in self.overlapping_groups],
            "row_dtype": self.row_dtype,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            "engine": self.engine,
            "precision": self.precision,
            "quantisation": asdict(self.quantisation) if self.quantisation else None,
            "drift": self.drift.record() if self.drift else None,
            "drawn_split": self.drawn_split,
            "equal_rows": self.equal_rows,
            "depth": self.depth,
            "deep": self.deep,
            "depth_notes": list(self.depth_notes),
            "preprocess": asdict(self.preprocess) if self.preprocess else None,
            "licence": self.licence,
            "also": [one.record() for one in self.also],
        }

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed."""
        if self.also:
            return command_line("compare-heads", self.path, *(one.path for one in self.also))
        if self.task == NONE:
            return command_line("onepass", "label", self.path, "LABELS.csv")
        return command_line("train-head", self.path)

    def __str__(self) -> str:
        views = f" x {self.views} views" if self.views > 1 else ""
        lines = [
            f"{shown(self.path)}: {self.images} images{views}, {self.labels}",
            (
                f"{self.computed} computed, {self.reused} reused, {len(self.skipped)} skipped in {self.seconds:.1f} s "
                f"({self.images_per_second:.1f} images/s, {self.engine} {self.precision})"
            ),
        ]
        if self.computed and self.preprocess:
            lines.append(f"fed as {self.preprocess}; licence of the weights: {self.licence or 'unknown'}")
        if self.undone:
            fetched = any(one.reason.startswith(UNREACHED) for one in self.undone)
            gone = f"{UNREACHED}, or " * fetched + "changed or vanished while the pass ran; run the same command again"
            lines.append(f"NOT DONE: {len(self.undone)} of the images {gone}")
        if self.dropped:
            lines.append(f"rows dropped, because their images are no longer in the folder: {self.dropped}")
        if cost := self.quantisation:
            lines.append(
                f"int8 costs: cosine to float32 {cost.cosine_mean:.4f} on average, {cost.cosine_min:.4f} at worst of "
                f"{cost.sample} images, {cost.golden_min:.4f} at worst of the built-in ones"
            )
        if self.drift and not self.drift.accepted:
            lines.append(f"accepted and recorded: the golden rows differ, {self.drift}")
        if self.duplicates:
            lines.append(describe_duplicates(self.duplicates))
        if self.near_copies:
            are = "image shows the picture" if self.near_copies == 1 else "images show the pictures"
            lines.append(
                f"{self.near_copies} further {are} of another (`onepass inspect {shown(self.path)}` lists them)"
            )
        if self.thumbnails:
            lines.append(f"{self.thumbnails} images were read again, for thumbnails that the file lacked")
        if self.without_thumbnail:
            lines.append(
                f"images whose file is no longer what their row was computed from: {self.without_thumbnail}. Copies of "
                "them that were turned or made grey are not found; extract again with rehash"
            )
        if self.overlapping_groups:
            lines.append(describe_overlapping_groups(self.overlapping_groups))
        if self.drawn_split and self.groups:
            lines.append(f"a fifth of the {self.groups} groups became the test split, chosen by name")
        elif self.drawn_split:
            lines.append("a fifth of the images became the test split, chosen by content")
        lines += self.depth_notes
        if self.equal_rows:
            lines.append(describe_equal_rows(self.images))
        lines += map(str, self.also)
        return "\n".join(lines)


def report(job: Job, done: Computed, drift: Drift | None, *, seconds: float) -> Extraction:
    """Puts together what a run did.

    Raises:
        DataError: A class has no image that could be read.
    """
    path, scan, backbone = job.path, job.scan, job.backbone
    with FeatureFile(path) as file:
        there = file.table.part(file.committed)
        classes, task, labels = there.counts(), there.task, there.summary()
        skipped = file.skipped + done.left + [SkippedImage(p, reason) for p, reason in scan.other.items()]
        duplicates, overlapping = find_duplicates(file), find_overlapping_groups(file.table)
        groups, row_dtype = len(file.table.group_names()), file.row_dtype
        images = int(file.committed.sum())
        near = _near_copies(file)
        equal = images > 1 and all_equal(file.pieces(np.flatnonzero(file.committed)))
        without_thumbnail = int((file.flags[:, 0] & ~file.thumbnailed()).sum())
    if not images:
        raise DataError(
            f"none of the images could be read ({len(skipped)} skipped; `onepass info {path}` lists them). Replace "
            "them and run the same command again."
        )
    if task == CLASSES and (bare := [name for name, count in classes.items() if count == 0]):
        raise DataError(
            f"no image of {', '.join(bare)} could be read ({len(skipped)} skipped; `onepass info {path}` lists them). "
            "Replace these images and run the same command again; the other rows are kept.",
            classes=bare,
        )
    return Extraction(
        path=path,
        images=images,
        views=job.axis.count,
        classes=classes,
        task=task,
        labels=labels,
        computed=done.computed,
        computed_rows=done.rows,
        reused=images - done.computed,
        skipped=skipped,
        undone=list(dict.fromkeys([*done.left, *(one for one in skipped if one.reason.startswith(UNREACHED))])),
        duplicates=duplicates,
        near_copies=near,
        thumbnails=done.thumbnails,
        without_thumbnail=without_thumbnail,
        groups=groups,
        overlapping_groups=overlapping,
        row_dtype=row_dtype,
        seconds=seconds,
        engine=backbone.engine_name,
        precision=backbone.spec.precision,
        quantisation=backbone.quantisation,
        drift=drift,
        dropped=job.dropped(),
        drawn_split=scan.drawn,
        equal_rows=equal,
        depth=depth_of(backbone.spec.decode),
        deep=len(done.highest),
        depth_notes=tuple(describe_depth(done.highest, depth_of(backbone.spec.decode))),
        preprocess=backbone.spec.preprocess,
        licence=backbone.spec.licence,
    )


def _near_copies(file: FeatureFile) -> int:
    """Contents of which an earlier one in the table shows the same picture."""
    exact = group_ids([], file.table.content_hashes)
    either = group_ids([], file.table.content_hashes, file.copies)
    return int(exact.max(initial=-1) - either.max(initial=-1))
