"""Finds the images of a folder: which class, which split, which content."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.extract.data.groups import GroupRule, Groups, keep_groups
from onepass.extract.data.hashing import hash_files
from onepass.extract.data.splits import draw_splits
from onepass.extract.data.watch import IMAGE_SUFFIXES, hidden, walk_files
from onepass.features import SPLITS, ImageTable
from onepass.features.errors import DataError

Folders = str | Path | Sequence[str | Path]
"""One image folder, or several that are put together."""


SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class FolderScan:
    """What lies in an image folder.

    Attributes:
        root: The folder that paths are relative to.
        table: One entry per file that claims to be an image.
        unread: path -> reason, for entries that were not read: no image by name, or no access.
        other: path -> reason, for files outside the class folders, which have no entry.
        drawn: True if the split was drawn from the content because there were no split folders.
        seed: Of the drawn split.
    """

    root: Path
    table: ImageTable
    unread: dict[str, str]
    other: dict[str, str]
    drawn: bool
    seed: int

    def images(self, split: str | None = None) -> list[tuple[bytes, Path]]:
        """Content hash and path of every file that could be read, of one split or all; each content once."""
        entries = zip(self.table.content_hashes, self.table.splits, self.table.paths, strict=True)
        wanted = SPLITS if split is None else (split,)
        found = {content.tobytes(): path for content, side, path in entries if SPLITS[side] in wanted}
        found.pop(bytes(32), None)
        return [(content, self.root / path) for content, path in found.items()]


def image_folders(data: Folders) -> tuple[list[Path], Path]:
    """The folders given, and the one their images' paths are relative to: itself, or what all have in common.

    Raises:
        DataError: One is missing, or lies inside another.
    """
    folders = [Path(data)] if isinstance(data, (str, Path)) else [Path(folder) for folder in data]
    if not folders:
        raise DataError("no image folder was given.")
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder} is {'a file' if folder.exists() else 'not there'}; needed: a folder of images.")
    if len(folders) == 1:
        return folders, folders[0]
    for folder, other in itertools.permutations(folders, 2):
        if folder.resolve().is_relative_to(other.resolve()):
            raise DataError(f"{folder} lies in {other}, so its images would count twice. Name only one of them.")
    # Absolute but with its links: a link's own name may be that of a split.
    folders = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100
    return folders, Path(os.path.commonpath(folders))


def scan_folder(
    data: Folders,
    *,
    seed: int = 0,
    known: ImageTable | None = None,
    known_drawn: bool = False,
    rehash: bool = False,
    least_classes: int = 2,
    groups: GroupRule | None = None,
) -> FolderScan:
    """Reads class folders, optionally under train / val / test folders, and hashes every file.

    Without split folders a fifth of the images becomes the test split, chosen by their content, or whole
    groups by their name (see `features.content_split`). Several folders are put together, class by class; then a
    folder whose own name is that of a split is that split.

    Args:
        data: The image folder, or several.
        seed: Of the drawn split.
        known: Table of an earlier scan; a file of the same path, size and time is not read again.
        known_drawn: True if the split of `known` was drawn; its images then keep their side.
        rehash: Read every file, whatever its size and time say.
        least_classes: How many classes there must be.
        groups: What gives the images their groups; by default they keep those of `known`.

    Raises:
        DataError: No such folder, no images, an empty class, too few classes, an image without a group.
    """
    files, other, root = _checked_files(data, least_classes)
    paths, are_images = [file.path for file in files], [file.is_image for file in files]
    names = groups.assign(root, paths, are_images) if groups else ("",) * len(paths)
    class_names = tuple(sorted({file.label for file in files}))
    hashes, sizes, mtimes, unread = hash_files(root, paths, are_images, known, rehash=rehash)
    if groups is None and known:
        names = keep_groups(known, paths, hashes, are_images)
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[file.label] for file in files], np.int32)
    splits = np.array([SPLITS.index(file.split or "train") for file in files], np.uint8)
    drawn = all(file.split in (None, "train") for file in files)
    if drawn:
        splits[:] = draw_splits(labels, hashes, names, known=known if known_drawn else None, seed=seed)
    table = ImageTable(class_names, tuple(paths), labels, splits, hashes, sizes, mtimes, names)
    return FolderScan(root, table, unread, other, drawn, seed)


def check_folder(data: Folders, *, groups: Groups | None = None, group_pattern: str | None = None) -> None:
    """Looks, before anything slow is done, whether a folder can be extracted; reads no image.

    Args:
        data: The image folder, or several.
        groups: As for the pass.
        group_pattern: As for the pass.

    Raises:
        DataError: As `scan_folder`.
        OptionError: The groups are given twice, or the pattern is none.
    """
    rule = GroupRule.of(groups, group_pattern)
    files, _, root = _checked_files(data, least_classes=2)
    if rule:
        rule.assign(root, [file.path for file in files], [file.is_image for file in files])


def _checked_files(data: Folders, least_classes: int) -> tuple[list["_File"], dict[str, str], Path]:
    folders, root = image_folders(data)
    files: list[_File] = []
    other: dict[str, str] = {}
    empty: list[str] = []
    for folder in folders:
        split = SPLIT_FOLDERS.get(folder.name.lower()) if len(folders) > 1 else None
        _find_files(folder, root, split, files, other, empty)
    _check_classes(" and ".join(map(str, folders)), files, empty, least_classes)
    return sorted(files), other, root


@dataclass(frozen=True, order=True)
class _File:
    path: str
    label: str
    split: str | None
    is_image: bool


def _find_files(
    data: Path, root: Path, split: str | None, files: list[_File], other: dict[str, str], empty: list[str]
) -> None:
    """Adds what lies in one image folder: files of class folders, files beside them, empty class folders."""
    for split_here, folder in _split_folders(data, split):
        for entry in _visible(folder):
            if not entry.is_dir():
                other[_relative(Path(entry.path), root)] = "not in a class folder"
                continue
            before = len(files)
            for path in walk_files(Path(entry.path)):
                is_image = path.suffix.lower() in IMAGE_SUFFIXES
                files.append(_File(_relative(path, root), entry.name, split_here, is_image))
            if not any(file.is_image for file in files[before:]):
                empty.append(_relative(Path(entry.path), root))


def _split_folders(data: Path, split: str | None) -> list[tuple[str | None, Path]]:
    folders = [entry.name for entry in _visible(data) if entry.is_dir()]
    splits = [name for name in folders if name.lower() in SPLIT_FOLDERS]
    if not splits:
        return [(split, data)]
    if len(splits) < len(folders):
        classes = [name for name in folders if name not in splits]
        raise DataError(
            f"{data} holds the split folders {', '.join(splits)} beside {', '.join(classes[:5])}. Needed: either "
            "only split folders (train, val, test) with class folders inside, or only class folders. "
            "Move the others away."
        )
    return [(SPLIT_FOLDERS[name.lower()], data / name) for name in splits]


def _check_classes(data: str, files: list[_File], empty: list[str], least: int) -> None:
    if not any(file.is_image for file in files):
        raise DataError(
            f"{data} holds no images in class folders. Needed: one folder per class with its images inside, "
            f"such as {Path(data).name}/cats/1.jpg; also below train, val and test folders."
        )
    if empty:
        raise DataError(
            f"no image in {', '.join(empty[:5])} of {data}. Put images of the class there, or remove the folder."
        )
    labels = sorted({file.label for file in files})
    if len(labels) < least:
        raise DataError(f"{data} holds only one class, {labels[0]}. Needed: a folder each for two or more classes.")


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not hidden(e.name)), key=lambda e: e.name)
    except PermissionError:
        raise DataError(f"{folder} may not be listed: permission denied.") from None


def _relative(path: Path, root: Path) -> str:
    # Both are spelt from the same folder; Path.relative_to takes ten times as long, file by file.
    return os.fspath(path).removeprefix(os.path.join(root, ""))  # noqa: PTH118
