"""Where images lie by name: one small interface for folders, archives, tables and buckets."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from onepass.extract.data.watch import walk_files
from onepass.extract.pixels.crops import BoxOfImage
from onepass.extract.pixels.image_bytes import ImageFile
from onepass.features.errors import DataError, UnreadableImageError


class Stamp(NamedTuple):
    """What tells, without reading it, whether an image is still what it was.

    Attributes:
        size: Bytes.
        changed: Time of the last change, nanoseconds; or another number that a change changes.
    """

    size: int
    changed: int


class Store(Protocol):
    """Images by name; `/` stands between the parts of a name."""

    @property
    def origin(self) -> str:
        """What opens it again: an absolute path, or an address."""
        ...

    def __str__(self) -> str:
        """How the user calls it."""
        ...

    def names(self) -> Iterator[str]:
        """Names of all visible files in it, in order, whatever they are."""
        ...

    def file(self, name: str) -> ImageFile:
        """What an image is read from, be it there or not.

        Raises:
            DataError: The name leads out of the store.
        """
        ...

    def stamp(self, name: str) -> Stamp:
        """Of an image that is there.

        Raises:
            OSError, UnreadableImageError: It is not, or may not be looked at.
        """
        ...


@dataclass(frozen=True)
class FolderStore:
    """Files below a folder.

    Attributes:
        root: What names are relative to.
    """

    root: Path

    @property
    def origin(self) -> str:
        return str(self.root.resolve())

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> Iterator[str]:
        return (relative(file, self.root) for file in walk_files(self.root))

    def file(self, name: str) -> Path:
        require_inside(name, self)
        return self.root / name

    def stamp(self, name: str) -> Stamp:
        status = self.file(name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("not a regular file")
        return Stamp(status.st_size, status.st_mtime_ns)


def require_inside(name: str, store: Store) -> None:
    """Refuses a name that leads out of a store.

    Raises:
        DataError: It does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{name} does not lie below {store}; nothing there is opened. What names it is damaged or forged; correct "
            "it, or extract again."
        )


def relative(path: Path, root: Path) -> str:
    """A path below a folder as a name; both are spelt from the same folder."""
    # Path.relative_to takes ten times as long, file by file.
    return os.fspath(path).removeprefix(os.path.join(root, ""))  # noqa: PTH118


def is_there(file: ImageFile) -> bool:
    """True if an image has its file, or lies in something that has."""
    file = file.whole if isinstance(file, BoxOfImage) else file
    return file.is_file() if isinstance(file, Path) else True
