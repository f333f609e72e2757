"""Archives as a source of images: class folders inside, or shards whose images lie beside their labels."""

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onepass.extract.data.archives import Archive, bare_name, is_archive_name, is_tar_name, open_archive
from onepass.extract.data.class_folders import SPLIT_FOLDERS
from onepass.extract.data.folders import class_folders, unlabelled_images
from onepass.extract.data.listing import Listing
from onepass.extract.data.remote import address_of, fetched_file, public
from onepass.extract.data.shards import are_shards, expanded, shard_source
from onepass.extract.data.source import Source
from onepass.extract.data.stores import JoinedStore, Store
from onepass.extract.pixels.formats import is_image_name
from onepass.features.errors import DataError


def are_archives(named: Sequence[Path]) -> bool:
    """True if what a user named are archives.

    Raises:
        DataError: Some are, and others are not.
    """
    archives = [path for path in named if is_archive_name(public(str(path))) and not path.is_dir()]
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


def archive_source(named: Sequence[Path], *, least_classes: int = 2, unlabelled: bool = False) -> Source:
    """Images in archives: in class folders, also below train, val and test; or in shards of key.jpg with key.cls.

    Several archives are put together, class by class; then an archive whose own name is that of a split is that split.
    One folder on top of all class folders counts for nothing.

    Args:
        named: The archives; shards may be named as in train-{000..009}.tar.
        least_classes: How many classes there must be.
        unlabelled: Take all images, whatever the archives say of them.

    Raises:
        DataError: An archive is not there, damaged or declares too much, or as `class_folders`.
    """
    store, archives = _opened(named)
    record: dict[str, Any] = {"data": store.origin, "folders": [archive.origin for archive in archives.values()]}
    stem = "+".join(map(bare_name, archives))
    if unlabelled:
        name = " and ".join(str(archive) for archive in archives.values())
        source = unlabelled_images(store, sorted(store.names()), name=name, stem=stem, record=record)
    elif all(map(is_tar_name, archives)) and are_shards(archives.values()):
        source = shard_source(archives, store, record=record, least_classes=least_classes)
    else:
        root = _root(archives)
        splits = [SPLIT_FOLDERS.get(bare_name(path).lower()) if len(archives) > 1 else None for path in archives]
        tops = [_top(path, archive) for path, archive in archives.items()]
        source = class_folders(
            tops,
            store,
            Listing({path: archive.tree for path, archive in archives.items()}),
            root=root,
            stem=stem,
            record=record,
            splits=splits,
            least_classes=least_classes,
        )
    root = _root(archives)
    parts = [(path.relative_to(root).as_posix() if path != root else "", one) for path, one in archives.items()]
    left_out = {
        f"{part}/{name}".lstrip("/"): reason for part, archive in parts for name, reason in archive.left_out.items()
    }
    notes = tuple(archive.note for archive in archives.values() if archive.note)
    return replace(source, other={**source.other, **left_out}, notes=(*notes, *source.notes))


def named_archive(path: Path) -> Archive:
    """An archive that a user named by its path or its address; of an address the file is fetched.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    if address := address_of(path):
        return open_archive(fetched_file(address), label=public(address), origin=public(address))
    return open_archive(path)


def _root(archives: Iterable[Path]) -> Path:
    """What the paths of images begin below: the one archive, or the folder that all have in common."""
    paths = list(archives)
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))


def _opened(named: Sequence[Path]) -> tuple[Store, dict[Path, Archive]]:
    """The store, and path -> archive; an address counts as a path."""
    paths = list(itertools.chain.from_iterable(map(expanded, named)))
    if len(paths) == 1:
        archive = named_archive(paths[0])
        return archive, {Path(public(str(paths[0]))): archive}
    # A link's own name may be that of a split.
    paths = [path if address_of(path) else Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    if twice := next((path for i, path in enumerate(paths) if path in paths[:i]), None):
        raise DataError(f"{twice} is named twice, so its images would count twice. Name it once.")
    if len({path.is_absolute() for path in paths}) > 1:
        raise DataError(f"{' and '.join(map(str, named[:2]))}: some lie here and others do not. Name one kind of them.")
    archives = {Path(public(str(path))): named_archive(path) for path in paths}
    root = _root(archives)
    origin = address_of(root) or str(root.resolve())
    return JoinedStore(origin, {path.relative_to(root).as_posix(): one for path, one in archives.items()}), archives


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
