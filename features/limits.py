"""How much a file may declare: sizes that stand in a container are added up before anything is read by them."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py

FLOOR = 16 * 2**20
"""Bytes that any file may declare."""

RATIO = 20
"""So many times its size on disk may a larger file declare. Weights compress to nine tenths, and JSON to a tenth."""

_MOST_MEMBERS = 10_000


def require_bounded(path: Path) -> None:
    """Refuses a zip archive or an HDF5 file that unpacks to far more than it is; one within an archive too.

    What is neither is left to whoever reads it.

    Raises:
        ValueError: It declares too much, parts of it lie in other files, or it is damaged.
        OSError: It cannot be opened.
    """
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                _require_bounded_archive(file, size)
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as opened:
                require_bounded_hdf5(opened, size)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, LookupError) as error:
        raise ValueError(f"it is damaged: {error}") from None


def read_member(path: Path, name: str) -> bytes:
    """One file of a zip archive that declares no more than it may.

    Raises:
        ValueError: It declares too much.
        OSError, KeyError, zipfile.BadZipFile, ...: It cannot be read, or has no such file.
    """
    with zipfile.ZipFile(path) as archive:
        _require_bounded_members(archive, path.stat().st_size)
        return archive.read(name)


def _require_bounded_archive(file: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        _require_bounded_members(archive, size)
        for member in archive.infolist():
            if member.filename.endswith(".npz"):
                _require_bounded_archive(io.BytesIO(archive.read(member)), size)
            if member.filename.endswith(".h5"):
                with h5py.File(io.BytesIO(archive.read(member)), "r") as within:
                    require_bounded_hdf5(within, size)


def _require_bounded_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise ValueError(f"it is an archive of {len(members)} files; {_MOST_MEMBERS} are read at most")
    require_declared(sum(member.file_size for member in members), size)


def require_bounded_hdf5(file: h5py.File, size: int) -> None:
    """Refuses an HDF5 file whose datasets and attributes declare far more than its `size` bytes.

    Raises:
        ValueError: They do, or lie in other files.
    """
    declared, stored, texts = 0, 0, [0]
    for item in _objects(file):
        attributes = [item.attrs.get_id(name) for name in item.attrs]
        texts += [math.prod(one.shape) for one in attributes if one.dtype.hasobject and one.shape]
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise ValueError(f"its {item.name} lies in another file")
            texts += [item.size or 0] if item.dtype.hasobject else []
            declared += max(item.size or 0, math.prod(item.chunks or ())) * item.dtype.itemsize
            stored += item.id.get_storage_size()
    require_declared(declared, size)
    # All texts of a list may be one and the same place in the file, which is no part of an array.
    require_declared(max(texts) * max(size - stored, 0), size)


def scalar_attribute(holder: h5py.HLObject, name: str) -> Any:
    """An attribute that is one number or text, texts as str; None if it is not there, or is many.

    Bytes that are no UTF-8 are kept by surrogates.
    """
    if name not in holder.attrs or holder.attrs.get_id(name).shape != ():
        return None
    value = holder.attrs[name]
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _objects(file: h5py.File) -> Iterator[h5py.Group | h5py.Dataset]:
    """Every group and dataset once, whatever leads to it.

    Raises:
        ValueError: One lies in another file.
    """
    left: list[Any] = [file]
    seen: set[Any] = set()
    while left:
        item = left.pop()
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            continue
        seen.add(place)
        yield item
        if isinstance(item, h5py.Group):
            for name in item:
                link = item.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise ValueError(f"its {name} lies in another file")
                if isinstance(link, h5py.HardLink):
                    left.append(item[name])


def require_declared(declared: int, size: int) -> None:
    """Refuses what a file of `size` bytes cannot hold.

    Raises:
        ValueError: It declares more bytes than `FLOOR` and than `RATIO` times its own.
    """
    limit = max(FLOOR, RATIO * size)
    if declared > limit:
        raise ValueError(f"its {told(size)} declare {told(declared)}; {told(limit)} are read of such a file at most")


def told(size: float) -> str:
    """Bytes in words.

    >>> told(16 * 2**20), told(4e12)
    ('16.8 MB', '4 TB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
