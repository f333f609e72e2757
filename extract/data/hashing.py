"""The content of images: SHA-256 of each, read again only where it may have changed."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onepass.extract.data.stores import Stamp, Store
from onepass.extract.pixels.formats import why_no_image_name
from onepass.extract.pixels.image_bytes import content_of, reason_of_os
from onepass.features import ImageTable
from onepass.features.errors import UnreachableImageError, UnreadableImageError


class Hashes(NamedTuple):
    """What is known of the content of n images.

    Attributes:
        contents: (n, 32) uint8, SHA-256; zeros for what was not read.
        sizes: (n,) int64, bytes.
        changed: (n,) int64, see `Stamp`.
        unread: name -> reason, of images that were not read.
    """

    contents: np.ndarray
    sizes: np.ndarray
    changed: np.ndarray
    unread: dict[str, str]


def hash_images(
    store: Store, names: Sequence[str], are_images: np.ndarray, known: ImageTable | None, *, rehash: bool
) -> Hashes:
    """Hashes images in threads.

    Args:
        store: Where they lie.
        names: n of them.
        are_images: (n,) bool, False for files that are no images by their name and are not read.
        known: Table of an earlier scan; an image of the same name, size and time is not read again.
        rehash: Read every image, whatever its size and time say.
    """
    hashes = np.zeros((len(names), 32), np.uint8)
    sizes, changed = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    unread: dict[str, str] = {}
    earlier = {path: i for i, path in enumerate(known.paths)} if known else {}

    def fill(position: int) -> None:
        name = names[position]
        if not are_images[position]:
            unread[name] = why_no_image_name(Path(name))
            return
        before = earlier.get(name)
        try:
            stamp = store.stamp(name)
            sizes[position], changed[position] = stamp
            if known and before is not None and not rehash and _unchanged(known, before, stamp):
                hashes[position] = known.content_hashes[before]
                return
            hashes[position] = np.frombuffer(content_of(store.file(name)), np.uint8)
        except (OSError, UnreadableImageError) as error:
            lost = isinstance(error, OSError | UnreachableImageError)
            if lost and known and before is not None and not rehash and known.content_hashes[before].any():
                # It could be read once; a disk that hiccups is no reason to lose its row.
                hashes[position] = known.content_hashes[before]
                sizes[position], changed[position] = known.file_sizes[before], known.file_mtimes[before]
                return
            unread[name] = reason_of_os(error) if isinstance(error, OSError) else str(error)

    readers = getattr(store, "readers", None)
    at_once = 1 if readers else 100

    def fill_some(start: int) -> None:
        for position in range(start, min(start + at_once, len(names))):
            fill(position)

    with ThreadPoolExecutor(readers or os.cpu_count()) as pool:
        for _ in pool.map(fill_some, range(0, len(names), at_once)):
            pass
    return Hashes(hashes, sizes, changed, unread)


def _unchanged(known: ImageTable, position: int, stamp: Stamp) -> bool:
    return bool(
        known.file_sizes[position] == stamp.size
        and known.file_mtimes[position] == stamp.changed
        and known.content_hashes[position].any()
    )
