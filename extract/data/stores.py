"""Where images lie by name: one small interface for folders, archives, tables and buckets."""

import os
import stat
from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True, eq=False)
class JoinedStore:
    """Several stores as one: the images of each are called by its name, `/`, and their own.

    Attributes:
        origin: What all lie below.
        parts: Name below it -> store.
    """

    origin: str
    parts: Mapping[str, Store]

    def __str__(self) -> str:
        return self.origin

    @property
    def readers(self) -> int | None:
        """How many images may be read at once, if that does not depend on the processor."""
        return max((getattr(store, "readers", None) or 0 for store in self.parts.values()), default=0) or None

    def names(self) -> Iterator[str]:
        return (f"{part}/{name}" for part, store in self.parts.items() for name in store.names())

    def file(self, name: str) -> ImageFile:
        store, inner = self._part(name)
        return store.file(inner)

    def stamp(self, name: str) -> Stamp:
        store, inner = self._part(name)
        return store.stamp(inner)

    def _part(self, name: str) -> tuple[Store, str]:
        require_inside(name, self)
        at = name.find("/")
        while at >= 0:
            if store := self.parts.get(name[:at]):
                return store, name[at + 1 :]
            at = name.find("/", at + 1)
        raise DataError(f"{name} lies in none of {', '.join(self.parts)}. Name all that were extracted.")


class Holder(Protocol):
    """A store that reads its images itself, because they have no files."""

    def read(self, name: str) -> bytes:
        """The bytes of an image; errors as `Stored.read`."""
        ...


@dataclass(frozen=True)
class HeldImage:
    """One image of a store that holds them in one file.

    Attributes:
        store: The store.
        name: Of the image in it.
    """

    store: Holder
    name: str

    def read(self) -> bytes:
        return self.store.read(self.name)

    def __str__(self) -> str:
        return f"{self.store}, {self.name}"


@dataclass(frozen=True)
class PartStore:
    """Parts of the images in a store, by names that tell the image and the part; subclasses say which.

    Attributes:
        wholes: Where the images lie.
    """

    wholes: Store

    @property
    def origin(self) -> str:
        return self.wholes.origin

    def __str__(self) -> str:
        return str(self.wholes)

    @property
    def readers(self) -> int | None:
        """As the store of the images has it."""
        return getattr(self.wholes, "readers", None)

    def names(self) -> Iterator[str]:
        """Of the images; any part of them may be asked for."""
        return self.wholes.names()


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
