"""What was fetched from elsewhere, kept on the disk as long as there is room for it."""

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from onepass.extract.machine import cache_folder

MOST = 10 * 10**9
"""Bytes that are kept, unless $ONEPASS_DOWNLOADS says how many gigabytes; what was not used for longest goes."""

_KEPT = 0.9
"""Share of them that is kept where some has to go."""


def downloads_folder() -> Path:
    """Where it is kept."""
    return cache_folder() / "downloads"


class Downloads:
    """Files by what they are fetched by."""

    def __init__(self) -> None:
        self.folder = downloads_folder()
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def data(self, key: str, size: int, fetch: Callable[[], bytes]) -> bytes:
        """Bytes that are kept, or are fetched now; where they cannot be kept they are only fetched.

        Args:
            key: What they are known by, such as address and version.
            size: How many there must be.
            fetch: Fetches them.
        """
        path = self._path(key)
        with contextlib.suppress(OSError):
            if len(data := path.read_bytes()) == size:
                _used(path)
                return data
        data = fetch()
        with contextlib.suppress(OSError):
            self._put(path, lambda beside: beside.write_bytes(data))
        return data

    def file(self, key: str, size: int | None, changed: int, fetch: Callable[[Path], object]) -> Path:
        """A file that is kept, or is fetched now.

        Args:
            key: What it is known by.
            size: How many bytes it must have, if that is known.
            changed: What tells that it is the same; it becomes its time.
            fetch: Writes it to a path.

        Raises:
            OSError: It cannot be kept.
        """
        path = self._path(key)
        if path.is_file() and size in (None, path.stat().st_size):
            _used(path)
            return path
        self._put(path, fetch)
        os.utime(path, ns=(time.time_ns(), changed % 10**18))
        return path

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
        return self.folder / name[:2] / name

    def _put(self, path: Path, write: Callable[[Path], object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"part-{secrets.token_hex(8)}")
        try:
            write(beside)
            size = beside.stat().st_size
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        with self._lock:
            self._bytes = sum(one.stat().st_size for one in _files(self.folder)) if self._bytes is None else self._bytes
            self._bytes += size
            if self._bytes > _most():
                self._bytes = self._make_room(path)

    def _make_room(self, needed: Path) -> int:
        """Removes what was not used for longest; the bytes that are left."""
        kept = []
        for file in _files(self.folder):
            with contextlib.suppress(OSError):
                status = file.stat()
                kept.append((status.st_atime_ns, status.st_size, file))
        total = sum(size for _, size, _ in kept)
        for _, size, file in sorted(kept):
            if total <= _KEPT * _most():
                break
            if file != needed:
                with contextlib.suppress(OSError):
                    file.unlink()
                    total -= size
        return total


def _used(path: Path) -> None:
    """Notes that a file was used, whatever the file system notes by itself."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if path.is_file()]


def _most() -> float:
    try:
        return float(os.environ["ONEPASS_DOWNLOADS"]) * 1e9
    except (KeyError, ValueError):
        return MOST
