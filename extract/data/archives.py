"""Archives that are read without being unpacked: their members by name, from any thread."""

import bz2
import contextlib
import functools
import gzip
import hashlib
import io
import lzma
import os
import posixpath
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from onepass.extract.data.listing import FolderTree, folder_tree, is_visible
from onepass.extract.data.stores import Stamp, require_inside
from onepass.features.errors import DataError, UnreadableImageError, cannot_write, reason_of
from onepass.features.limits import RATIO, require_declared, told

_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LARGEST = 100 * 10**6
"""Bytes of a member, unless it takes a twentieth of them in the archive."""
_LINKS = 8
"""Links that lead to links, at most."""
_DAMAGES = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
_DAMAGES += (NotImplementedError, RuntimeError, LookupError, OverflowError, MemoryError)  # type: ignore[assignment]
_TWICE = "occurs more than once in the archive"


def is_archive_name(path: str | Path) -> bool:
    """True if a file is an archive by its name.

    >>> is_archive_name("photos.tar.gz"), is_archive_name("photos.gz")
    (True, False)
    """
    return str(path).lower().endswith(_ENDINGS)


def is_tar_name(path: str | Path) -> bool:
    """True if a file is a tar archive by its name, compressed or not."""
    return is_archive_name(path) and not str(path).lower().endswith(".zip")


def bare_name(path: Path) -> str:
    """The name of an archive without its ending.

    >>> bare_name(Path("photos.v2.tar.gz"))
    'photos.v2'
    """
    ending = next((end for end in _ENDINGS if path.name.lower().endswith(end)), "")
    return path.name[: len(path.name) - len(ending)]


class _Entry(NamedTuple):
    """A member: what tells that it is the same, how to get its bytes, or why there are none."""

    stamp: Stamp
    read: Callable[[], bytes]
    problem: str = ""


@dataclass(frozen=True)
class Member:
    """An image in an archive.

    Attributes:
        archive: The archive.
        name: Of the member.
    """

    archive: "Archive"
    name: str

    def read(self) -> bytes:
        return self.archive.read(self.name)

    def __str__(self) -> str:
        return f"{self.archive.label}/{self.name}"


@dataclass(eq=False)
class Archive:
    """Members of an archive; a store.

    Attributes:
        path: The file.
        label: How the user calls it.
        origin: What opens it again.
        entries: Name -> visible member that is a file, or a link to one; in order.
        folders: Names of folders that the archive says itself.
        left_out: Name -> reason, of members whose names cannot be meant.
        note: What to tell of it once.
    """

    path: Path
    label: str
    origin: str
    entries: dict[str, _Entry] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        return self.label

    def names(self) -> Iterator[str]:
        return iter(self.entries)

    def file(self, name: str) -> Member:
        require_inside(name, self)
        return Member(self, name)

    def stamp(self, name: str) -> Stamp:
        return self._entry(name).stamp

    def read(self, name: str) -> bytes:
        """The bytes of a member; any thread may ask.

        Raises:
            UnreadableImageError: With the reason.
        """
        entry = self._entry(name)
        try:
            data = entry.read()
        except _DAMAGES as error:
            raise UnreadableImageError(f"damaged in the archive: {reason_of(error)}"[:110]) from None
        if len(data) != entry.stamp.size:
            raise UnreadableImageError("damaged in the archive: it ends too early")
        return data

    @functools.cached_property
    def tree(self) -> FolderTree:
        """Its folders."""
        return folder_tree(self.entries, self.folders)

    def _entry(self, name: str) -> _Entry:
        if (entry := self.entries.get(name)) is None:
            raise UnreadableImageError("not in the archive")
        if entry.problem:
            raise UnreadableImageError(entry.problem)
        return entry


_opened: "weakref.WeakValueDictionary[tuple[str, int, int], Archive]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


def open_archive(path: Path, *, label: str = "", origin: str = "") -> Archive:
    """An archive with the list of its members; one that is open already is not looked through again.

    Args:
        path: The file.
        label: How messages call it, if not by its path.
        origin: What opens it again, if not its path.

    Raises:
        DataError: It is not there, damaged, or declares more than it may.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no file; needed: an archive, or a folder of images.")
        key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
        with _opening:
            if (archive := _opened.get(key)) is None:
                archive = _opened[key] = _listed(
                    Archive(path.resolve(), label or str(path), origin or str(path.resolve())), status
                )
        return archive
    except FileNotFoundError:
        raise DataError(f"{path} is not there; needed: an archive of images.") from None
    except (*_DAMAGES, RecursionError) as error:
        raise DataError(
            f"{label or path} cannot be read as an archive: {reason_of(error)}. Copy or download it again, or "
            "unpack it and name the folder."
        ) from None


def _listed(archive: Archive, status: os.stat_result) -> Archive:
    path = archive.path
    with open(path, "rb") as opened:
        start = opened.read(6)
    if start[:2] == b"PK":
        _list_zip(archive, status.st_size)
        return archive
    unpack = next((reads for mark, reads in _COMPRESSED.items() if start.startswith(mark)), None)
    file: IO[bytes]
    if unpack is None:
        file = open(path, "rb")
    else:
        file = _inflated(path, unpack, status.st_size)
        archive.note = (
            f"{archive.label} is compressed, so it is unpacked once a run, into a temporary file of "
            f"{told(file.tell())}; a .tar or .zip is read in place."
        )
    weakref.finalize(archive, file.close)
    _list_tar(archive, file, status)
    return archive


def _add(archive: Archive, name: str, entry: _Entry) -> None:
    """Adds a member by its name, unless it is hidden or leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        archive.left_out[name] = "its name leads out of the archive"
    elif is_visible(name) and path.parts:
        plain = str(path)
        archive.entries[plain] = entry._replace(problem=_TWICE) if plain in archive.entries else entry


def _add_folder(archive: Archive, name: str) -> None:
    path = PurePosixPath(name)
    if path.parts and not (path.is_absolute() or ".." in path.parts) and is_visible(name):
        archive.folders.add(str(path))


def _add_links(archive: Archive, links: dict[str, str], all_names: dict[str, _Entry]) -> None:
    """Gives links the member that they lead to."""
    for name, target in links.items():
        seen = 0
        while target in links and seen < _LINKS:
            target, seen = links[target], seen + 1
        entry = all_names.get(target)
        problem = "" if entry else "a link to what is not in the archive"
        _add(archive, name, entry or _Entry(Stamp(0, 0), bytes, problem))


def _target(name: str, target: str) -> str:
    """Where a symbolic link in an archive leads, as a member's name."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(posixpath.normpath(name)), target))


def _list_zip(archive: Archive, size: int) -> None:
    opened = zipfile.ZipFile(archive.path)
    weakref.finalize(archive, opened.close)
    members = opened.infolist()
    require_declared(sum(member.file_size for member in members), size)
    links: dict[str, str] = {}
    plain: dict[str, _Entry] = {}
    for member in members:
        name = _zip_name(member)
        entry = _Entry(
            Stamp(member.file_size, member.CRC),
            functools.partial(opened.read, member),
            _why_not(member.file_size, member.compress_size)
            or ("encrypted; unpack the archive with its password" if member.flag_bits & 1 else ""),
        )
        if name.endswith("/"):
            _add_folder(archive, name)
        elif stat.S_ISLNK(member.external_attr >> 16) and member.file_size < 4096 and not entry.problem:
            links[name] = _target(name, opened.read(member).decode(errors="surrogateescape"))
        else:
            plain[name] = entry
            _add(archive, name, entry)
    _add_links(archive, links, plain)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name: what does not say that it is UTF-8 often is, and old Windows programs write backslashes."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if member.create_system == 0 else name


def _why_not(size: int, stored: int) -> str:
    """Why a member of so many bytes is not read; empty if it is."""
    limit = max(_LARGEST, RATIO * stored)
    return f"{told(stored)} in the archive that declare {told(size)}" if size > limit else ""


_COMPRESSED: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda path: gzip.open(path, "rb"),
    b"BZh": lambda path: bz2.open(path, "rb"),
    b"\xfd7zXZ\x00": lambda path: lzma.open(path, "rb"),
}


def _inflated(path: Path, unpack: Callable[[Path], io.BufferedIOBase], size: int) -> IO[bytes]:
    """A file without a name that holds what a compressed one does.

    Raises:
        ValueError: It holds far more than it is.
        DataError: There is no room.
    """
    file = tempfile.TemporaryFile(prefix="onepass-")
    try:
        with unpack(path) as packed:
            while piece := packed.read(2**20):
                try:
                    file.write(piece)
                except OSError as error:
                    raise DataError(cannot_write(f"{path} unpacked into {tempfile.gettempdir()}", error)) from None
                require_declared(file.tell(), size)
    except BaseException:
        file.close()
        raise
    return file


def _list_tar(archive: Archive, file: IO[bytes], status: os.stat_result) -> None:
    all_names: dict[str, _Entry] = {}
    links: dict[str, str] = {}
    read = _reader(file)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as opened:
        end = -1
        while (member := opened.next()) is not None:
            if opened.offset <= end:
                raise ValueError(f"it goes back to its beginning after {member.name}")
            end = opened.offset
            opened.members.clear()  # type: ignore[attr-defined]  # or all that is known of them would be kept twice
            _take(archive, member, read, status, all_names, links)
        _require_end(file, opened.offset)
    _add_links(archive, links, all_names)


def _reader(file: IO[bytes]) -> Callable[[int, int], bytes]:
    """Reads so many bytes from an offset on, one thread at a time."""
    lock = threading.Lock()

    def read(size: int, offset: int) -> bytes:
        with lock:
            file.seek(offset)
            return file.read(size)

    return read


def _take(
    archive: Archive,
    member: tarfile.TarInfo,
    read: Callable[[int, int], bytes],
    status: os.stat_result,
    all_names: dict[str, _Entry],
    links: dict[str, str],
) -> None:
    name = member.name
    if member.isdir():
        _add_folder(archive, name)
    elif member.issym():
        links[posixpath.normpath(name)] = _target(name, member.linkname)
    elif member.islnk():
        links[posixpath.normpath(name)] = posixpath.normpath(member.linkname)
    else:
        problem = "" if member.isreg() and not member.issparse() else "not a regular file"
        told_by = f"{status.st_mtime_ns} {member.mtime} {member.offset_data}".encode()
        changed = int.from_bytes(hashlib.blake2b(told_by, digest_size=8).digest()) >> 1
        entry = _Entry(Stamp(member.size, changed), functools.partial(read, member.size, member.offset_data), problem)
        all_names[posixpath.normpath(name)] = entry
        _add(archive, name, entry)


def _require_end(file: IO[bytes], offset: int) -> None:
    """Refuses a tar archive that is cut off: tarfile takes any block that it does not know for its end.

    Raises:
        ValueError: It is.
    """
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"it is damaged or cut off at {told(offset)}")
