"""Images in buckets and on the web, by the libraries of fsspec; each is downloaded once."""

import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from onepass.extract.data.downloads import Downloads
from onepass.extract.data.folders import class_folders, unlabelled_images
from onepass.extract.data.listing import Listing, folder_tree, is_visible
from onepass.extract.data.source import Source
from onepass.extract.data.stores import JoinedStore, Stamp, Store, require_inside
from onepass.extract.pixels.image_bytes import UNREACHED
from onepass.features.errors import DataError, UnreachableImageError, UnreadableImageError, reason_of

T = TypeVar("T")

_ADDRESS = re.compile(r"(s3|gs|gcs|https?|memory):/+([^/].*)", re.IGNORECASE | re.DOTALL)
_VERSION = ("ETag", "etag", "md5Hash", "generation", "LastModified", "Last-Modified", "mtime", "created")
"""What different servers say that changes with a file; the first that is there counts."""
_TRIES = 3
_READERS = 16
"""Files that are fetched at once: a server is waited for, not a processor."""
_SECRETS = re.compile(r"\?\S+")


def address_of(named: str | Path) -> str | None:
    """The address that somebody named; None for what lies on this machine.

    >>> address_of(Path("s3://photos/train")), address_of("photos")
    ('s3://photos/train', None)
    """
    found = _ADDRESS.fullmatch(str(named))  # a Path has only one slash left
    if not found:
        return None
    address = f"{found[1].lower()}://{found[2].rstrip('/')}"
    if "@" in found[2].split("/")[0]:
        raise DataError(
            f"an address with a name or key in it is not taken ({found[1]}://...@...): it would be written into files. "
            "Give these to the environment, as the AWS and Google tools take them."
        )
    return address


def public(address: str) -> str:
    """An address without what a signed one has behind its question mark.

    >>> public("https://host/a.zip?signature=1")
    'https://host/a.zip'
    """
    return address.partition("?")[0]


@dataclass(frozen=True)
class RemoteImage:
    """An image in a bucket.

    Attributes:
        store: The bucket.
        name: Of the image.
    """

    store: "RemoteStore"
    name: str

    def read(self) -> bytes:
        return self.store.read(self.name)

    def __str__(self) -> str:
        return f"{self.store.origin}/{self.name}"


@dataclass(frozen=True, eq=False)
class RemoteStore:
    """What lies below an address, listed once.

    Attributes:
        origin: The address.
        files: The file system.
        stamps: Name -> what tells that the file is the same.
        places: Name -> path in the file system.
    """

    origin: str
    files: Any
    stamps: dict[str, Stamp]
    places: dict[str, str]
    downloads: Downloads = field(default_factory=Downloads)
    readers: int = _READERS

    def __str__(self) -> str:
        return self.origin

    def names(self) -> Iterator[str]:
        return iter(self.stamps)

    def file(self, name: str) -> RemoteImage:
        require_inside(name, self)
        return RemoteImage(self, name)

    def stamp(self, name: str) -> Stamp:
        if (stamp := self.stamps.get(name)) is None:
            raise UnreadableImageError(f"not in {self.origin}"[:100])
        return stamp

    def read(self, name: str) -> bytes:
        """The bytes of an image, of the disk if it was fetched before; any thread may ask.

        Raises:
            UnreachableImageError: The server does not give it.
        """
        stamp = self.stamp(name)
        return self.downloads.data(f"{self.origin}/{name} {stamp}", stamp.size, lambda: self._fetched(name, stamp))

    def _fetched(self, name: str, stamp: Stamp) -> bytes:
        try:
            data = _tried(lambda: self.files.cat_file(self.places[name]))
        except Exception as error:  # of any of the libraries behind fsspec
            raise UnreachableImageError(f"{UNREACHED}: {_reason(error)}"[:110]) from None
        if len(data) != stamp.size:
            raise UnreachableImageError(f"{UNREACHED}: {len(data)} bytes came, and it has {stamp.size}")
        return bytes(data)


@dataclass(frozen=True)
class RemoteFile:
    """An image that is named by its own address.

    Attributes:
        address: With all that the server wants to see.
    """

    address: str

    def read(self) -> bytes:
        try:
            return fetched_file(self.address).read_bytes()
        except (DataError, OSError) as error:
            text = error.message if isinstance(error, DataError) else f"{UNREACHED}: {reason_of(error)}"
            raise UnreachableImageError(text[text.find(UNREACHED) :][:110]) from None

    def __str__(self) -> str:
        return public(self.address)


def remote_store(address: str) -> RemoteStore:
    """What lies below an address.

    Raises:
        DataError: It cannot be listed, or there is nothing.
    """
    if address.startswith("http"):
        raise DataError(f"{public(address)} is on the web, where no folder is listed. Name an archive there.")
    files, root = _file_system(address)

    def listed() -> dict[str, Any]:
        files.invalidate_cache()
        return dict(files.find(root, detail=True))

    try:
        found = _tried(listed)
    except Exception as error:
        raise DataError(_unreached(address, error)) from None
    stamps, places = {}, {}
    for path, facts in sorted(found.items()):
        name = path.removeprefix(root).lstrip("/")
        if name and is_visible(name):
            stamps[name], places[name] = Stamp(int(facts.get("size") or 0), _version(facts)), path
    if not stamps:
        raise DataError(f"there is nothing in {address}. Check the address.")
    return RemoteStore(address, files, stamps, places)


def remote_stores(addresses: Sequence[str]) -> Store:
    """What lies below one address or several.

    Raises:
        DataError: As `remote_store`; or one lies below another, or they are of different kinds.
    """
    if len(addresses) == 1:
        return remote_store(addresses[0])
    for one, other in itertools.permutations(addresses, 2):
        if f"{one}/".startswith(f"{other}/"):
            raise DataError(f"{one} lies in {other}, so its images would count twice. Name only one of them.")
    kinds = {address.partition(":")[0] for address in addresses}
    if len(kinds) > 1:
        raise DataError(f"{' and '.join(addresses)} are addresses of different kinds. Name those of one kind together.")
    root = _common(addresses)
    return JoinedStore(root, {address.removeprefix(root).lstrip("/"): remote_store(address) for address in addresses})


def _common(addresses: Sequence[str]) -> str:
    """What several addresses of one kind have in common, down to a slash; at least s3://."""
    common = os.path.commonpath([Path(address).parent for address in addresses])
    return address_of(common) or f"{common}//"


def remote_source(addresses: Sequence[str], *, least_classes: int = 2, unlabelled: bool = False) -> Source:
    """Images in class folders below an address, or below several that are put together as folders are.

    Args:
        addresses: Of what holds class folders, or split folders with these inside.
        least_classes: How many classes there must be.
        unlabelled: Take all images, whatever folders they lie in.

    Raises:
        DataError: As `remote_stores` and `class_folders`.
    """
    store = remote_stores(addresses)
    record: dict[str, Any] = {"data": store.origin, "folders": list(addresses)}
    stem = "+".join(Path(address).name for address in addresses)
    if unlabelled:
        name = " and ".join(addresses)
        return unlabelled_images(store, sorted(store.names()), name=name, stem=stem, record=record)
    parts = list(store.parts.values()) if isinstance(store, JoinedStore) else [store]
    roots = [Path(address) for address in addresses]
    try:
        source = class_folders(
            roots,
            store,
            Listing({root: folder_tree(part.names()) for root, part in zip(roots, parts, strict=True)}),
            root=Path(store.origin),
            stem=stem,
            record=record,
            least_classes=least_classes,
        )
    except DataError as error:
        raise DataError(_spelled(error.message, addresses), **error.facts) from None
    notes = tuple(_spelled(note, addresses) for note in source.notes)
    return replace(source, name=_spelled(source.name, addresses), notes=notes)


def _spelled(text: str, addresses: Sequence[str]) -> str:
    """A message with the addresses that it names; a path has only one slash left of them."""
    for address in addresses:
        text = text.replace(str(Path(address)), address)
    return text


def fetched_file(address: str) -> Path:
    """A single file, such as an archive, on the disk.

    Raises:
        DataError: It cannot be fetched or kept.
    """
    files, path = _file_system(address)
    downloads = Downloads()
    try:
        facts = _tried(lambda: files.info(path))
        changed = _version(facts)
        size = facts.get("size")
        key = f"{public(address)} {size} {changed}"
        return downloads.file(key, size, changed, lambda to: _tried(lambda: files.get_file(path, str(to))))
    except Exception as error:
        raise DataError(_unreached(address, error)) from None


def _file_system(address: str) -> tuple[Any, str]:
    """What reads there, and the path that it knows.

    Raises:
        DataError: The library for it is not installed.
    """
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise DataError(
            f"{public(address)} needs libraries that are not installed ({error}). Install onepass[remote]."
        ) from None
    except Exception as error:
        raise DataError(_unreached(address, error)) from None
    return files, path


def _tried(ask: Callable[[], T]) -> T:
    """What a server answers, asked again where it may be busy."""
    for left in reversed(range(_TRIES)):
        try:
            return ask()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception:
            if not left:
                raise
            time.sleep(0.5 * (_TRIES - left))
    raise AssertionError("unreachable")


def _version(facts: dict[str, Any]) -> int:
    said = next((str(facts[name]) for name in _VERSION if facts.get(name)), "")
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest()) >> 1


def _reason(error: Exception) -> str:
    """Why a server gave nothing, in one line and without the signature of an address."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, PermissionError):
        return "permission denied"
    return _SECRETS.sub("", reason_of(error))


def _unreached(address: str, error: Exception) -> str:
    return (
        f"{public(address)} {UNREACHED}: {_reason(error)}. Check the address, the network and the credentials in the "
        "environment, and run the same command again."
    )
