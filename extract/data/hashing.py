"""The content of image files: SHA-256 of each, read again only where it may have changed."""

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onepass.extract.pixels.formats import why_no_image_name
from onepass.features import ImageTable


class Hashes(NamedTuple):
    """What is known of the content of n files.

    Attributes:
        contents: (n, 32) uint8, SHA-256; zeros for what was not read.
        sizes: (n,) int64, bytes.
        mtimes: (n,) int64, nanoseconds.
        unread: path -> reason, of files that were not read.
    """

    contents: np.ndarray
    sizes: np.ndarray
    mtimes: np.ndarray
    unread: dict[str, str]


def hash_files(
    root: Path, paths: Sequence[str], are_images: Sequence[bool], known: ImageTable | None, *, rehash: bool
) -> Hashes:
    """Hashes image files in threads.

    Args:
        root: The folder that paths are relative to.
        paths: n of them.
        are_images: n, False for files that are no images by their name and are not read.
        known: Table of an earlier scan; a file of the same path, size and time is not read again.
        rehash: Read every file, whatever its size and time say.
    """
    hashes = np.zeros((len(paths), 32), np.uint8)
    sizes, mtimes = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64)
    unread: dict[str, str] = {}
    earlier = {path: i for i, path in enumerate(known.paths)} if known else {}

    def fill(position: int) -> None:
        name = paths[position]
        path = root / name
        if not are_images[position]:
            unread[name] = why_no_image_name(path)
            return
        before = earlier.get(name)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                unread[name] = "not a regular file"
                return
            sizes[position], mtimes[position] = status.st_size, status.st_mtime_ns
            if known and before is not None and not rehash and _unchanged(known, before, status):
                hashes[position] = known.content_hashes[before]
                return
            with open(path, "rb") as raw:
                digest = hashlib.file_digest(raw, "sha256").digest()
            hashes[position] = np.frombuffer(digest, np.uint8)
        except OSError as error:
            if known and before is not None and not rehash and known.content_hashes[before].any():
                # It could be read once; a disk that hiccups is no reason to lose its row.
                hashes[position] = known.content_hashes[before]
                sizes[position], mtimes[position] = known.file_sizes[before], known.file_mtimes[before]
                return
            unread[name] = (error.strerror or type(error).__name__).lower()

    def fill_some(start: int) -> None:
        for position in range(start, min(start + 100, len(paths))):
            fill(position)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill_some, range(0, len(paths), 100)):
            pass
    return Hashes(hashes, sizes, mtimes, unread)


def _unchanged(known: ImageTable, position: int, status: os.stat_result) -> bool:
    return bool(
        known.file_sizes[position] == status.st_size
        and known.file_mtimes[position] == status.st_mtime_ns
        and known.content_hashes[position].any()
    )
