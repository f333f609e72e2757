"""Looks at the names and places of class folders: what in them cannot be meant is refused before the pass."""

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from onepass.features.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of split folders, in small letters -> the split."""

_Key = Callable[[str], str]
_CASE = "upper and lower case"
_SAME_BUT_FOR: tuple[tuple[str, _Key], ...] = (
    ("Unicode form", lambda name: unicodedata.normalize("NFKC", name)),
    ("spaces", lambda name: "".join(name.split())),
    (_CASE, str.casefold),
)


@dataclass(frozen=True, order=True)
class ClassFolder:
    """A folder whose name is a class.

    Attributes:
        path: Where it lies.
        split: The split that its folder says; None if there are no split folders.
        images: Its images, relative to it, `/` between parts.
    """

    path: Path
    split: str | None
    images: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.path.name

    @property
    def inner(self) -> set[str]:
        """Names of its sub-folders that hold images; empty if images lie directly in it."""
        parts = [image.partition("/") for image in self.images]
        return {folder for folder, _, _ in parts} if all(deeper for _, deeper, _ in parts) else set()

    @property
    def trains(self) -> bool:
        return self.split in (None, "train")


def check_class_folders(data: str, folders: Sequence[ClassFolder], *, least: int) -> None:
    """Refuses folders that cannot be meant as they are.

    Names that differ only by Unicode form or spaces are never two classes. Names that differ only by case are, if they
    stand side by side (letters have folders A and a; see `doubtful`), and are not, if they stand in different folders.

    Args:
        data: The image folders, for messages.
        folders: All class folders.
        least: How many classes there must be; 1 where images are only scored.

    Raises:
        DataError: With what is to be done.
    """
    _require_splits_outside(folders)
    _require_classes_on_top(data, folders, least)
    _require_different_names(folders)
    _require_different_places(folders)
    labels = sorted({folder.label for folder in folders})
    if len(labels) < least:
        raise DataError(f"{data} holds only one class, {labels[0]}. Needed: a folder each for two or more classes.")
    if least > 1:
        _require_training_images(data, folders)


def doubtful(data: str, folders: Sequence[ClassFolder], outside: Iterable[str]) -> Iterator[str]:
    """What to tell of what may be meant, and rarely is.

    Args:
        data: The image folders, for messages.
        folders: All class folders.
        outside: Images outside class folders.
    """
    if names := sorted(outside):
        one = len(names) == 1
        yield (
            f"{len(names)} image{' lies' if one else 's lie'} outside the class folders and "
            f"{'is' if one else 'are'} left out, {names[0]} for one."
        )
    labels = sorted({folder.label for folder in folders})
    for name, other in _alike(labels, str.casefold):
        if len(name) > 1:
            yield (
                f"{data} has the classes {name} and {other}, which differ only by upper and lower case. If they are "
                "one class, put their images into one folder."
            )
    if inner := _same_inside(folders):
        yield (
            f"the classes are {_listed(labels)}, and each of their folders holds {_listed(inner)}. If these are the "
            f"classes, name the folders above them instead: {' '.join(str(folder.path) for folder in folders[:5])}."
        )


def _require_splits_outside(folders: Sequence[ClassFolder]) -> None:
    for folder in folders:
        splits = sorted(name for name in folder.inner if name.lower() in SPLIT_FOLDERS)
        if len({SPLIT_FOLDERS[name.lower()] for name in splits}) > 1:
            raise DataError(
                f"{folder.path} holds the split folders {_listed(splits)}, so {folder.label} would be a class. Name "
                f"{folder.path} itself if it holds the images; or put classes into splits, as in "
                f"{folder.path.parent / splits[0] / folder.label}."
            )


def _require_classes_on_top(data: str, folders: Sequence[ClassFolder], least: int) -> None:
    """Refuses years and the like as classes: folders that are numbered and hold the same folders."""
    labels = {folder.label for folder in folders}
    if len(labels) < least and len(folders) == 1 and len(folders[0].inner) > 1:
        inner = sorted(folders[0].inner)
        raise DataError(
            f"{data} holds only one class, {folders[0].label}, whose folder holds {_listed(inner)}. If these are the "
            f"classes, name {folders[0].path} instead. Needed: a folder each for two or more classes."
        )
    if (inner := _same_inside(folders)) and _numbered(labels) and not _numbered(inner):
        named = sorted(labels)
        where = " ".join(str(folder.path) for folder in folders[:5])
        raise DataError(
            f"{data} has the folders {_listed(named)}, each with {_listed(inner)} inside, so {named[0]} would be a "
            f"class. Name these folders instead, and they are put together class by class: {where}"
            + (" and so on." if len(folders) > 5 else ".")
        )


def _same_inside(folders: Sequence[ClassFolder]) -> list[str]:
    """Names of the sub-folders that all class folders hold, if these are two or more and the same in all."""
    inner = [folder.inner for folder in folders]
    same = len(folders) > 1 and all(names == inner[0] for names in inner) and len(inner[0]) > 1
    return sorted(inner[0]) if same and len({folder.label for folder in folders}) > 1 else []


def _numbered(names: Iterable[str]) -> bool:
    """True for names that are dates or numbers, or differ by a last number or letter alone: 2023, day 1, site_B."""
    names = list(names)
    if all(re.fullmatch(r"[\d\W_]+", name) for name in names):
        return True
    stems = {re.sub(r"(\d+|(?<=[\W_])[a-z]|(?<=[a-z])[A-Z])$", "", name) for name in names}
    return len(stems) == 1 and stems.isdisjoint(names)


def _require_different_names(folders: Sequence[ClassFolder]) -> None:
    where: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        where[folder.label].append(folder.path)
    for name, other, by in names_alike(where, case=True):
        beside = {path.parent for path in where[name]} & {path.parent for path in where[other]}
        if by == _CASE and beside:
            continue
        first, second = (ascii(str(where[one][0])) for one in (name, other))
        raise DataError(
            f"two classes have names that differ only by {by}: {first} and {second}. Give both folders one name, or "
            "names that differ."
        )


def names_alike(names: Iterable[str], *, case: bool = False) -> Iterator[tuple[str, str, str]]:
    """Pairs of names that can hardly be meant as two, and what alone they differ by.

    Args:
        names: Of classes.
        case: Whether upper and lower case alone is told too.

    >>> list(names_alike(["cats", "dogs", "cats "]))
    [('cats', 'cats ', 'spaces')]
    """
    for name, other in _alike(names, _plain):
        by = next((words for words, key in _SAME_BUT_FOR if key(name) == key(other)), "spaces, case or Unicode form")
        if case or by != _CASE:
            yield name, other, by


def _plain(name: str) -> str:
    for _, key in _SAME_BUT_FOR:
        name = key(name)
    return name


def _alike(names: Iterable[str], key: _Key) -> Iterator[tuple[str, str]]:
    """Pairs of different names that a key makes equal."""
    together: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        together[key(name)].append(name)
    for alike in together.values():
        yield from combinations(alike, 2)


def _require_different_places(folders: Sequence[ClassFolder]) -> None:
    """Refuses links by which an image is of two classes."""
    real = [(folder, os.path.realpath(folder.path)) for folder in folders]
    linked = [one for one in real if one[0].path.is_symlink()]
    for folder, place in linked:
        for other, there in real:
            if other.label != folder.label and Path(there).is_relative_to(place):
                raise DataError(
                    f"{folder.path} is a link to {place}, and so its images are those of {other.path} as well. Remove "
                    "the link."
                )


def _require_training_images(data: str, folders: Sequence[ClassFolder]) -> None:
    """Refuses classes that are only tested; where there is no training image at all, everything is to be scored."""
    trained = sorted({folder.label for folder in folders if folder.trains})
    untrained = [folder for folder in folders if folder.label not in trained]
    if not trained or not untrained:
        return
    first = untrained[0]
    close = difflib.get_close_matches(first.label.casefold(), [name.casefold() for name in trained], n=1)
    meant = next((name for name in trained if close and name.casefold() == close[0]), "")
    raise DataError(
        f"{data} has no training image of {_listed(sorted({folder.label for folder in untrained}))}, which "
        f"{first.path} is for; its training images are of {_listed(trained)}. "
        + (f"Is {first.label} the class {meant}? " if meant else "")
        + "Name the folders of a class alike in all splits, and put images of every class into train."
    )


def _listed(names: Sequence[str]) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
