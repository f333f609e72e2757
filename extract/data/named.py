"""Images as somebody names them: by their files, by folders, archives and addresses."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from onepass.extract.data.archive_source import are_archives, named_archive
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.data_sets import data_set_of
from onepass.extract.data.records import is_table_file
from onepass.extract.data.remote import RemoteFile, address_of, public, remote_store
from onepass.extract.data.source import Source
from onepass.extract.data.sources import open_source
from onepass.extract.data.stores import FolderStore, Store
from onepass.extract.pixels.formats import is_image_name, why_no_image_name
from onepass.extract.pixels.image_bytes import ImageFile
from onepass.features import SkippedImage
from onepass.features.errors import DataError, OnepassWarning


def named_images(
    paths: Iterable[Path], *, images: str | None = None, path: str | None = None
) -> Iterator[ImageFile | SkippedImage]:
    """Every image that is named, or lies in a folder or archive, or in a table; nothing is passed over in silence.

    Args:
        paths: Of images, folders, archives and tables, or addresses.
        images: Where the images lie that tables name; by default beside these.
        path: Column of tables that names them, or a pattern.

    Yields:
        What images are read from; what is none by its name, or a folder without any, as a `SkippedImage` with the
        reason.
    """
    options = SourceOptions(images=images, path=path, unlabelled=True)
    for named in paths:
        is_text = named.suffix.lower() == ".txt" and not (images or path)  # notes beside images, and no table
        if (address := address_of(named)) and Path(public(address)).suffix and not are_archives([named]):
            yield RemoteFile(address)
            continue
        try:
            source = open_source(named, options, least_classes=0) if is_table_file(named) and not is_text else None
            store = None if source else _store(named)
        except DataError as error:
            yield SkippedImage(str(named), str(error))
            continue
        if source:
            yield from _in_table(source)
        elif store is None:
            yield named
        else:
            yield from _within(store)


def _in_table(source: Source) -> Iterator[ImageFile | SkippedImage]:
    for note in source.notes:
        warnings.warn(note, OnepassWarning, stacklevel=2)
    for name, is_image in zip(source.table.paths, source.are_images.tolist(), strict=True):
        file = source.store.file(name)
        yield file if is_image else SkippedImage(str(file), why_no_image_name(Path(name)))


def _store(path: Path) -> Store | None:
    """What a path holds images in; None if it is to be one."""
    if data_set := data_set_of(path):
        return data_set.opened()[2]
    if os.path.isdir(path):  # noqa: PTH112 (which never raises)
        return FolderStore(path)
    if are_archives([path]):
        return named_archive(path)
    address = address_of(path)
    return remote_store(address) if address else None


def _within(store: Store) -> Iterator[ImageFile | SkippedImage]:
    found = False
    for name in store.names():
        is_image = is_image_name(name)
        found = found or is_image
        file = store.file(name)
        yield file if is_image else SkippedImage(str(file), why_no_image_name(Path(name)))
    if not found:
        yield SkippedImage(
            str(store), "no images in it" if not isinstance(store, FolderStore) else "a folder without images"
        )
