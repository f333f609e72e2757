"""Finds the images of a folder: which class, which split, which content."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onepass.extract.data.class_folders import SPLIT_FOLDERS, ClassFolder, check_class_folders, doubtful
from onepass.extract.data.groups import GroupRule, Groups, keep_groups
from onepass.extract.data.hashing import hash_files
from onepass.extract.data.splits import draw_splits
from onepass.extract.data.watch import hidden, walk_files
from onepass.extract.pixels.formats import is_image_name, why_unreadable
from onepass.features import SPLITS, ImageTable
from onepass.features.errors import DataError

Folders = str | Path | Sequence[str | Path]
"""One image folder, or several that are put together."""


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

    def part(self, kept: np.ndarray) -> "FolderScan":
        """Some of the images alone, where (n,) bool is True, each on the side that it has."""
        return replace(self, table=self.table.part(kept), unread={}, other={}, drawn=False)

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
        DataError: No such folder, no images, an empty class, too few classes, classes that cannot be meant (see
            `check_class_folders`), an image without a group.
    """
    found = _checked_files(data, least_classes)
    files, root = found.files, found.root
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
    return FolderScan(root, table, unread, found.other, drawn, seed)


def check_folder(data: Folders, *, groups: Groups | None = None, group_pattern: str | None = None) -> None:
    """Looks, before anything slow is done, whether a folder can be extracted; decodes no image.

    Args:
        data: The image folder, or several.
        groups: As for the pass.
        group_pattern: As for the pass.

    Raises:
        DataError: As `scan_folder`; or no training image of a class can be opened.
        OptionError: The groups are given twice, or the pattern is none.
    """
    rule = GroupRule.of(groups, group_pattern)
    found = _checked_files(data, least_classes=2)
    _require_readable(found)
    doubtful(" and ".join(map(str, image_folders(data)[0])), found.classes, filter(_clearly_image, found.other))
    if rule:
        rule.assign(found.root, [file.path for file in found.files], [file.is_image for file in found.files])


def training_images(data: Folders) -> list[Path]:
    """Files that may be training images by their name and place; all, if there are no split folders."""
    return [
        folder.path / image
        for folder in _checked_files(data, least_classes=1).classes
        for image in folder.images
        if folder.trains
    ]


def _clearly_image(path: str) -> bool:
    return "." in Path(path).name and is_image_name(path)


def _checked_files(data: Folders, least_classes: int) -> "_Found":
    folders, root = image_folders(data)
    found = _Found(root)
    for folder in folders:
        _find_files(folder, SPLIT_FOLDERS.get(folder.name.lower()) if len(folders) > 1 else None, found)
    name = " and ".join(map(str, folders))
    _require_images(name, found)
    check_class_folders(name, found.classes, least=least_classes)
    found.files.sort()
    return found


@dataclass(frozen=True, order=True)
class _File:
    path: str
    label: str
    split: str | None
    is_image: bool


@dataclass
class _Found:
    """What lies in the image folders.

    Attributes:
        root: What paths are relative to.
        files: Of class folders.
        classes: The class folders.
        other: path -> reason, of files beside them.
    """

    root: Path
    files: list[_File] = field(default_factory=list)
    classes: list[ClassFolder] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)


def _find_files(data: Path, split: str | None, found: _Found) -> None:
    """Adds what lies in one image folder."""
    for split_here, folder in _split_folders(data, split):
        for entry in _visible(folder):
            path = Path(entry.path)
            if not entry.is_dir():
                found.other[_relative(path, found.root)] = "not in a class folder"
                continue
            inside = [(file, is_image_name(file)) for file in walk_files(path)]
            found.files += [_File(_relative(file, found.root), entry.name, split_here, image) for file, image in inside]
            images = tuple(_relative(file, path) for file, image in inside if image)
            found.classes.append(ClassFolder(path, split_here, images))


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
    meant: dict[str, str] = {}
    for name in splits:
        if (other := meant.setdefault(SPLIT_FOLDERS[name.lower()], name)) != name:
            raise DataError(
                f"{data} holds {other} and {name}, which both mean the split {SPLIT_FOLDERS[name.lower()]}. Put their "
                "images into one folder, or move one of them away."
            )
    return [(SPLIT_FOLDERS[name.lower()], data / name) for name in splits]


def _require_images(data: str, found: _Found) -> None:
    empty = [_relative(folder.path, found.root) for folder in found.classes if not folder.images]
    if len(empty) == len(found.classes):
        raise DataError(
            f"{data} holds no images in class folders. Needed: one folder per class with its images inside, "
            f"such as {Path(data).name}/cats/1.jpg; also below train, val and test folders."
        )
    if empty:
        raise DataError(
            f"no image in {', '.join(empty[:5])} of {data}. Put images of the class there, or remove the folder."
        )


def _require_readable(found: _Found) -> None:
    """Refuses a class none of whose training images is a file that can be opened as an image; looks at heads alone."""
    trains, said = any(folder.trains for folder in found.classes), any(folder.split for folder in found.classes)
    readable: dict[str, str] = {}
    for folder in found.classes:
        if readable.get(folder.label) == "" or (trains and not folder.trains):
            continue
        reasons = (why_unreadable(folder.path / image) for image in folder.images)
        readable[folder.label] = next(("" for reason in reasons if not reason), f"{folder.path / folder.images[0]}")
    for label, path in readable.items():
        if path:
            raise DataError(
                f"no {'training ' if said else ''}image of {label} can be read; {path}, for one, is "
                f"{why_unreadable(Path(path))}. Replace these files, or move their folder away.",
                classes=[label],
            )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not hidden(e.name)), key=lambda e: e.name)
    except PermissionError:
        raise DataError(f"{folder} may not be listed: permission denied.") from None


def _relative(path: Path, root: Path) -> str:
    # Both are spelt from the same folder; Path.relative_to takes ten times as long, file by file.
    return os.fspath(path).removeprefix(os.path.join(root, ""))  # noqa: PTH118
