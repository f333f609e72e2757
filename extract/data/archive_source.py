"""Archives as a source of images: class folders inside, or shards whose images lie beside their labels."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onepass.extract.data.archives import Archive, Member, bare_name, is_archive_name, is_tar_name, open_archive
from onepass.extract.data.class_folders import SPLIT_FOLDERS
from onepass.extract.data.folders import class_folders
from onepass.extract.data.shards import are_shards, expanded, shard_source
from onepass.extract.data.source import Source
from onepass.extract.data.stores import Stamp, Store, require_inside
from onepass.extract.pixels.formats import is_image_name
from onepass.features.errors import DataError


@dataclass(frozen=True, eq=False)
class Archives:
    """Several archives as one store: the members of each are called by its name, `/`, and their own.

    Attributes:
        root: The folder that all lie below.
        parts: Name below it -> archive.
    """

    root: Path
    parts: Mapping[str, Archive]

    @property
    def origin(self) -> str:
        return str(self.root.resolve())

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> Iterator[str]:
        return (f"{part}/{name}" for part, archive in self.parts.items() for name in archive.names())

    def file(self, name: str) -> Member:
        archive, inner = self._part(name)
        return archive.file(inner)

    def stamp(self, name: str) -> Stamp:
        archive, inner = self._part(name)
        return archive.stamp(inner)

    def _part(self, name: str) -> tuple[Archive, str]:
        require_inside(name, self)
        at = name.find("/")
        while at >= 0:
            if archive := self.parts.get(name[:at]):
                return archive, name[at + 1 :]
            at = name.find("/", at + 1)
        raise DataError(f"{name} lies in none of the archives {', '.join(self.parts)}. Name all that were extracted.")


class _Inside:
    """Folders in archives, each archive as if it were a folder."""

    def __init__(self, archives: Mapping[Path, Archive]) -> None:
        self._archives = archives

    def children(self, folder: Path) -> list[tuple[str, bool]]:
        archive, inner = self._place(folder)
        return list(archive.tree[inner].items())

    def files(self, folder: Path) -> Iterator[Path]:
        archive, inner = self._place(folder)
        below = [folder]
        while below:
            here = below.pop()
            within = archive.tree["" if here == folder and not inner else _inner(here, folder, inner)]
            yield from (here / name for name, is_folder in within.items() if not is_folder)
            below += [here / name for name, is_folder in within.items() if is_folder]

    def _place(self, folder: Path) -> tuple[Archive, str]:
        for root, archive in self._archives.items():
            if folder.is_relative_to(root):
                inner = folder.relative_to(root).as_posix()
                return archive, "" if inner == "." else inner
        raise KeyError(folder)


def _inner(here: Path, folder: Path, inner: str) -> str:
    below = here.relative_to(folder).as_posix()
    return "/".join(part for part in (inner, "" if below == "." else below) if part)


def are_archives(named: Sequence[Path]) -> bool:
    """True if what a user named are archives.

    Raises:
        DataError: Some are, and others are not.
    """
    archives = [path for path in named if is_archive_name(path) and not path.is_dir()]
    if archives and len(archives) < len(named):
        other = next(path for path in named if path not in archives)
        raise DataError(f"{archives[0]} is an archive and {other} is none. Name either archives or folders.")
    return bool(archives)


def archive_store(named: Sequence[Path]) -> Store:
    """Where images in archives lie.

    Raises:
        DataError: An archive is not there, named twice, or cannot be read.
    """
    return _opened(named)[0]


def archive_source(named: Sequence[Path], *, least_classes: int = 2) -> Source:
    """Images in archives: in class folders, also below train, val and test; or in shards of key.jpg with key.cls.

    Several archives are put together, class by class; then an archive whose own name is that of a split is that split.
    One folder on top of all class folders counts for nothing.

    Args:
        named: The archives; shards may be named as in train-{000..009}.tar.
        least_classes: How many classes there must be.

    Raises:
        DataError: An archive is not there, damaged or declares too much, or as `class_folders`.
    """
    store, archives = _opened(named)
    record: dict[str, Any] = {
        "data": store.origin,
        "folders": [str(archive.path.resolve()) for archive in archives.values()],
    }
    stem = "+".join(map(bare_name, archives))
    if all(map(is_tar_name, archives)) and are_shards(archives.values()):
        source = shard_source(archives, store, record=record, least_classes=least_classes)
    else:
        root = store.root if isinstance(store, Archives) else next(iter(archives))
        splits = [SPLIT_FOLDERS.get(bare_name(path).lower()) if len(archives) > 1 else None for path in archives]
        tops = [_top(path, archive) for path, archive in archives.items()]
        source = class_folders(
            tops,
            store,
            _Inside(archives),
            root=root,
            stem=stem,
            record=record,
            splits=splits,
            least_classes=least_classes,
        )
    parts = store.parts.items() if isinstance(store, Archives) else [("", store)]
    left_out = {
        f"{part}/{name}".lstrip("/"): reason for part, archive in parts for name, reason in archive.left_out.items()
    }
    notes = tuple(archive.note for archive in archives.values() if archive.note)
    return replace(source, other={**source.other, **left_out}, notes=(*notes, *source.notes))


def _opened(named: Sequence[Path]) -> tuple[Archive | Archives, dict[Path, Archive]]:
    """The store, and path -> archive."""
    paths = list(itertools.chain.from_iterable(map(expanded, named)))
    if len(paths) == 1:
        archive = open_archive(paths[0])
        return archive, {paths[0]: archive}
    paths = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (a link's own name may be that of a split)
    if twice := next((path for i, path in enumerate(paths) if path in paths[:i]), None):
        raise DataError(f"{twice} is named twice, so its images would count twice. Name it once.")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    archives = {path: open_archive(path) for path in paths}
    return Archives(root, {path.relative_to(root).as_posix(): one for path, one in archives.items()}), archives


def _top(path: Path, archive: Archive) -> Path:
    """Where class folders or split folders begin in an archive: below a folder that holds all others."""
    inner = ""
    while True:
        folders = [name for name, is_folder in archive.tree[inner].items() if is_folder]
        if len(folders) != 1 or folders[0].lower() in SPLIT_FOLDERS:
            return path / inner
        below = f"{inner}/{folders[0]}" if inner else folders[0]
        inside = archive.tree[below].items()
        if not any(is_folder for _, is_folder in inside) or any(
            _clearly_image(name) for name, deeper in inside if not deeper
        ):
            return path / inner
        inner = below


def _clearly_image(name: str) -> bool:
    return "." in name and is_image_name(name)
