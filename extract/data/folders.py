"""Class folders as a source of images: which class, and which split, each file below them is in."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onepass.extract.data.class_folders import SPLIT_FOLDERS, ClassFolder, check_class_folders, doubtful
from onepass.extract.data.source import Source
from onepass.extract.data.stores import FolderStore, Store, relative
from onepass.extract.data.watch import hidden, walk_files
from onepass.extract.pixels.formats import is_image_name, why_no_image_name
from onepass.features import SPLITS, ImageTable
from onepass.features.errors import DataError
from onepass.features.tasks import NONE

Folders = str | Path | Sequence[str | Path]
"""One image folder, or several that are put together."""


class Tree(Protocol):
    """Folders with files in them, on a disk or in an archive."""

    def children(self, folder: Path) -> list[tuple[str, bool]]:
        """Visible names in a folder, in order, and whether they are folders themselves."""
        ...

    def files(self, folder: Path) -> Iterator[Path]:
        """All visible files below a folder, in order."""
        ...


class _Disk:
    """Folders as they lie on the disk."""

    def children(self, folder: Path) -> list[tuple[str, bool]]:
        try:
            with os.scandir(folder) as entries:
                return sorted((entry.name, entry.is_dir()) for entry in entries if not hidden(entry.name))
        except PermissionError:
            raise DataError(f"{folder} may not be listed: permission denied.") from None

    def files(self, folder: Path) -> Iterator[Path]:
        return walk_files(folder)


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


def folder_source(data: Folders, *, least_classes: int = 2) -> Source:
    """Class folders, optionally under train / val / test folders.

    Several folders are put together, class by class; then a folder whose own name is that of a split is that split.

    Args:
        data: The image folder, or several.
        least_classes: How many classes there must be.

    Raises:
        DataError: No such folder, no images, an empty class, too few classes, or classes that cannot be meant (see
            `check_class_folders`).
    """
    folders, root = image_folders(data)
    record: dict[str, Any] = {"data": str(root.resolve()), "folders": [str(folder.resolve()) for folder in folders]}
    stem = "+".join(folder.resolve().name or "images" for folder in folders)
    return class_folders(
        folders, FolderStore(root), _Disk(), root=root, stem=stem, record=record, least_classes=least_classes
    )


def class_folders(
    folders: Sequence[Path],
    store: Store,
    tree: Tree,
    *,
    root: Path,
    stem: str,
    record: dict[str, Any],
    splits: Sequence[str | None] | None = None,
    least_classes: int = 2,
) -> Source:
    """Images whose classes are the folders that they lie in.

    Args:
        folders: What holds class folders, or split folders with these inside.
        store: Of the images, by their path from `root` on.
        tree: What lies in the folders.
        root: What all folders have in common.
        stem: As for `Source`.
        record: As for `Source`.
        splits: Which split each of the folders is; by default as their own names say, if there are several.
        least_classes: How many classes there must be.

    Raises:
        DataError: As `folder_source`.
    """
    found, name = _Found(root), " and ".join(map(str, folders))
    if splits is None:
        splits = [SPLIT_FOLDERS.get(folder.name.lower()) if len(folders) > 1 else None for folder in folders]
    for folder, said in zip(folders, splits, strict=True):
        _find_files(folder, said, found, tree)
    _require_images(name, found)
    check_class_folders(name, found.classes, least=least_classes)
    found.files.sort()
    class_names = tuple(sorted({file.label for file in found.files}))
    number = {label: i for i, label in enumerate(class_names)}
    n = len(found.files)
    table = ImageTable(
        class_names,
        tuple(file.path for file in found.files),
        np.array([number[file.label] for file in found.files], np.int32),
        np.array([SPLITS.index(file.split or "train") for file in found.files], np.uint8),
        np.zeros((n, 32), np.uint8),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )
    return Source(
        name=name,
        stem=stem,
        store=store,
        table=table,
        are_images=np.array([file.is_image for file in found.files], bool),
        record=record,
        said=not all(file.split in (None, "train") for file in found.files),
        other=found.other,
        notes=tuple(doubtful(name, found.classes, filter(_clearly_image, found.other))),
    )


def _clearly_image(path: str) -> bool:
    return "." in Path(path).name and is_image_name(path)


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


def _find_files(data: Path, split: str | None, found: _Found, tree: Tree) -> None:
    """Adds what lies in one image folder."""
    for split_here, folder in _split_folders(data, split, tree):
        for name, is_folder in tree.children(folder):
            path = folder / name
            if not is_folder:
                found.other[relative(path, found.root)] = "not in a class folder"
                continue
            inside = [(file, is_image_name(file)) for file in tree.files(path)]
            found.files += [_File(relative(file, found.root), name, split_here, image) for file, image in inside]
            images = tuple(relative(file, path) for file, image in inside if image)
            found.classes.append(ClassFolder(path, split_here, images))


def _split_folders(data: Path, split: str | None, tree: Tree) -> list[tuple[str | None, Path]]:
    folders = [name for name, is_folder in tree.children(data) if is_folder]
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
    empty = [relative(folder.path, found.root) for folder in found.classes if not folder.images]
    if len(empty) == len(found.classes):
        raise DataError(
            f"{data} holds no images in class folders. Needed: one folder per class with its images inside, "
            f"such as {Path(data).name}/cats/1.jpg; also below train, val and test folders."
        )
    if empty:
        raise DataError(
            f"no image in {', '.join(empty[:5])} of {data}. Put images of the class there, or remove the folder."
        )


def unlabelled_folders(data: Folders) -> Source:
    """All images below folders, whatever their folders are called.

    Args:
        data: The image folder, or several.

    Raises:
        DataError: No such folder, or no images.
    """
    folders, root = image_folders(data)
    return unlabelled_images(
        FolderStore(root),
        sorted(relative(file, root) for folder in folders for file in walk_files(folder)),
        name=" and ".join(map(str, folders)),
        stem="+".join(folder.resolve().name or "images" for folder in folders),
        record={"data": str(root.resolve()), "folders": [str(folder.resolve()) for folder in folders]},
    )


def unlabelled_images(store: Store, names: Sequence[str], *, name: str, stem: str, record: dict[str, Any]) -> Source:
    """Images of a store that have no labels, or none that count.

    Args:
        store: Where they lie.
        names: Of the files in it, in order.
        name: As for `Source`.
        stem: As for `Source`.
        record: As for `Source`, without what says that there are no labels.

    Raises:
        DataError: None of the files is an image by its name.
    """
    images = [file for file in names if is_image_name(file)]
    if not images:
        raise DataError(f"{name} holds no images.")
    n = len(images)
    table = ImageTable(
        (),
        tuple(images),
        np.full(n, -1, np.int32),
        np.zeros(n, np.uint8),
        np.zeros((n, 32), np.uint8),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        task=NONE,
    )
    return Source(
        name=name,
        stem=stem,
        store=store,
        table=table,
        are_images=np.ones(n, bool),
        record={**record, "source": {"unlabelled": True}},
        said=True,
        other={file: why_no_image_name(Path(file)) for file in names if not is_image_name(file)},
    )
