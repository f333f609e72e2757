"""Images with what is known of them, named and not yet read; then read once, for their content."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onepass.extract.data.groups import GroupRule, Groups, keep_groups
from onepass.extract.data.hashing import hash_images
from onepass.extract.data.kept_labels import keep_labels
from onepass.extract.data.patients import patient_groups
from onepass.extract.data.splits import draw_splits
from onepass.extract.data.stores import Store
from onepass.extract.pixels.formats import why_unreadable
from onepass.extract.pixels.image_bytes import ImageFile
from onepass.features import SPLITS, ImageTable
from onepass.features.errors import DataError, OnepassWarning, OptionError, opt
from onepass.features.tasks import CLASSES


@dataclass(frozen=True, eq=False)
class Source:
    """Images with their labels, whatever they come from.

    Attributes:
        name: How messages call it.
        stem: How files that are made of it are called.
        store: Where the images lie.
        table: One entry per file that claims to be an image; contents, sizes and times are zeros.
        are_images: (n,) bool, False for files that are no images by their name and are not read.
        record: What opens it again, as plain values: `data`, `folders`, and `source` if labels come from elsewhere.
        said: True if the source says which split an image is in.
        grouped: True if the source says which group an image is in.
        other: path -> reason, for files that have no entry.
        notes: What to tell of it once.
    """

    name: str
    stem: str
    store: Store
    table: ImageTable
    are_images: np.ndarray
    record: dict[str, Any]
    said: bool = False
    grouped: bool = False
    other: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def training_images(self) -> list[ImageFile]:
        """What may be training images by name and place; all, if the source says no splits."""
        train = self.table.splits == SPLITS.index("train")
        return [self.store.file(self.table.paths[i]) for i in np.flatnonzero(self.are_images & train).tolist()]


@dataclass(frozen=True, eq=False)
class Scan:
    """A source whose images have been read for their content.

    Attributes:
        source: The source.
        table: One entry per file that claims to be an image.
        unread: path -> reason, for entries that were not read: no image by name, or no access.
        drawn: True if the split was drawn from the content because the source says none.
        seed: Of the drawn split.
    """

    source: Source
    table: ImageTable
    unread: dict[str, str]
    drawn: bool
    seed: int

    @property
    def store(self) -> Store:
        """Where the images lie."""
        return self.source.store

    @property
    def other(self) -> dict[str, str]:
        """path -> reason, for files that have no entry."""
        return self.source.other

    def part(self, kept: np.ndarray) -> "Scan":
        """Some of the images alone, where (n,) bool is True, each on the side that it has."""
        return replace(self, table=self.table.part(kept), unread={}, drawn=False)

    def images(self, split: str | None = None) -> list[tuple[bytes, ImageFile]]:
        """Content hash and file of every image that could be read, of one split or all; each content once."""
        entries = zip(self.table.content_hashes, self.table.splits, self.table.paths, strict=True)
        wanted = SPLITS if split is None else (split,)
        found = {content.tobytes(): path for content, side, path in entries if SPLITS[side] in wanted}
        found.pop(bytes(32), None)
        return [(content, self.store.file(path)) for content, path in found.items()]


def scan_source(
    source: Source,
    *,
    seed: int = 0,
    known: ImageTable | None = None,
    known_drawn: bool = False,
    rehash: bool = False,
    groups: GroupRule | None = None,
    labelled: ImageTable | None = None,
) -> Scan:
    """Reads all images of a source for their content.

    Where the source says no splits, a fifth of the images becomes the test split, chosen by their content, or whole
    groups by their name (see `features.content_split`).

    Args:
        source: Of images.
        seed: Of the drawn split.
        known: Table of an earlier scan; an image of the same name, size and time is not read again.
        known_drawn: True if the split of `known` was drawn; its images then keep their side.
        rehash: Read every image, whatever its size and time say.
        groups: What gives the images their groups; by default the source, or the patients of DICOM images, else they
            keep those of `known`.
        labelled: Table whose labels count for the images that it knows, whatever the source says.

    Raises:
        DataError: An image has no group.
        OptionError: Groups are given by the source and by a rule.
    """
    table, names = source.table, _groups(source, groups)
    hashes = hash_images(source.store, table.paths, source.are_images, known, rehash=rehash)
    if names is None:
        names = patient_groups(source.store, table.paths, source.are_images, hashes.contents, known)
    if names is None:
        names = keep_groups(known, table.paths, hashes.contents, source.are_images.tolist()) if known else ()
    table = replace(
        table,
        content_hashes=hashes.contents,
        file_sizes=hashes.sizes,
        file_mtimes=hashes.changed,
        groups=names or ("",) * len(table),
    )
    if labelled:
        table = keep_labels(table, labelled)
    if not source.said or (labelled and known_drawn):
        earlier = known if known_drawn else None
        table = replace(
            table, splits=draw_splits(table.strata(), table.content_hashes, table.groups, known=earlier, seed=seed)
        )
    return Scan(source, table, hashes.unread, drawn=not source.said or bool(labelled and known_drawn), seed=seed)


def check_source(source: Source, *, groups: Groups | None = None, group_pattern: str | None = None) -> None:
    """Looks, before anything slow is done, whether a source can be extracted; decodes no image.

    Args:
        source: Of images.
        groups: As for the pass.
        group_pattern: As for the pass.

    Raises:
        DataError: No training image of a class can be opened, or an image has no group.
        OptionError: The groups are given twice, or the pattern is none.
    """
    rule = GroupRule.of(groups, group_pattern)
    _require_readable(source)
    for note in source.notes:
        warnings.warn(note, OnepassWarning, stacklevel=2)
    _groups(source, rule)


def _groups(source: Source, rule: GroupRule | None) -> tuple[str, ...] | None:
    """The groups of the images as somebody says them; None if nobody does."""
    if rule and source.grouped:
        raise OptionError(
            f"{source.name} says the groups of its images, and {rule.name} says them too; needed: one of them. Leave "
            f"{opt.group}, or {opt.groups} and {opt.group_pattern}, out."
        )
    if rule:
        return rule.assign(str(source.store), source.table.paths, source.are_images.tolist())
    return source.table.groups if source.grouped else None


def _require_readable(source: Source) -> None:
    """Refuses a class none of whose training images can be opened as an image; looks at heads alone."""
    table = source.table
    train = table.splits == SPLITS.index("train")
    trains = bool((train & source.are_images).any())
    classes = enumerate(table.class_names) if table.task == CLASSES else [(0, "")]
    for label, name in classes:
        wanted = source.are_images & (table.labels == label if table.task == CLASSES else True)
        if trains:
            wanted &= train
        first, reason = None, ""
        for position in np.flatnonzero(wanted).tolist():
            file = source.store.file(table.paths[position])
            reason = why_unreadable(file)
            if not reason:
                break
            first = first or (file, reason)
        if first and reason:
            what = f"{'training ' if source.said else ''}image{f' of {name}' if name else ''}"
            raise DataError(
                f"no {what} can be read; {first[0]}, for one, is {first[1]}. Replace these files, or move their folder "
                "away.",
                classes=[name],
            )
