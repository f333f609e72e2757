"""Rows in chunks, to train heads on more of them than fit into memory."""

import errno
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, OptionError

Chunk = tuple[np.ndarray, np.ndarray]
"""(m,) int64 positions of images in their source, and their (m, v, d) float32 rows."""

_BLOCK = 2**18
"""Bytes of neighbouring rows that stay together when a file is shuffled: enough to read a disk at its pace."""

_ALIVE = 3
"""Chunks that exist at once: one is read or standardised while the last is still in use."""


class RowSource(Protocol):
    """n images with v rows of width d each, the plain view first."""

    @property
    def n(self) -> int: ...

    @property
    def views(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def y(self) -> np.ndarray:
        """(n,) labels."""

    @property
    def groups(self) -> np.ndarray | None:
        """(n,) equal for images that must be held out together, or None."""

    @property
    def weights(self) -> np.ndarray | None:
        """(n,) how much each image counts, or None."""

    def orders(self, seed: int | None) -> Iterator[np.ndarray]:
        """Positions of each image once, (m,) int64 a chunk, in an order that depends on the seed; None: as they lie."""

    def chunks(self, seed: int | None) -> Iterator[Chunk]:
        """The images of these positions with their rows."""


@dataclass(frozen=True)
class ResidentRows:
    """All rows as a single chunk.

    Attributes:
        x: (n, v, d) float32.
        y: (n,) labels.
        groups, weights: As for `RowSource`.
    """

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def n(self) -> int:
        return int(self.x.shape[0])

    @property
    def views(self) -> int:
        return int(self.x.shape[1])

    @property
    def width(self) -> int:
        return int(self.x.shape[2])

    def orders(self, seed: int | None) -> Iterator[np.ndarray]:  # noqa: ARG002 (who trains shuffles within chunks)
        yield np.arange(self.n)

    def chunks(self, seed: int | None) -> Iterator[Chunk]:  # noqa: ARG002
        yield np.arange(self.n), self.x


class _Derived:
    """Rows made of those of another source, which has all else that is known of the images.

    Attributes:
        source: The other one.
    """

    source: RowSource

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def views(self) -> int:
        return self.source.views

    @property
    def y(self) -> np.ndarray:
        return self.source.y

    @property
    def groups(self) -> np.ndarray | None:
        return self.source.groups

    @property
    def weights(self) -> np.ndarray | None:
        return self.source.weights

    def orders(self, seed: int | None) -> Iterator[np.ndarray]:
        return self.source.orders(seed)


@dataclass(frozen=True)
class ChangedRows(_Derived):
    """A source with all its rows put through a function.

    Attributes:
        source: Where they come from.
        change: (m, v, d) float32 -> (m, v, width) float32.
        width: Of the changed rows.
    """

    source: RowSource
    change: Callable[[np.ndarray], np.ndarray]
    width: int

    def chunks(self, seed: int | None) -> Iterator[Chunk]:
        return ((positions, self.change(rows)) for positions, rows in self.source.chunks(seed))


class StoredRows(_Derived):
    """Rows kept in a file of no name, which is gone with the process however that ends.

    Training reads its rows twice an epoch; projecting them anew each time takes a matrix product of all rows.

    Args:
        source: The rows, read once for this.

    Raises:
        OSError: There is no room.
    """

    def __init__(self, source: RowSource) -> None:
        self.source, self.width = source, source.width
        if 2 * 4 * source.n * source.views * source.width > shutil.disk_usage(tempfile.gettempdir()).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file = tempfile.TemporaryFile(buffering=0)
        weakref.finalize(self, self._file.close)
        for _, rows in source.chunks(None):
            np.ascontiguousarray(rows, np.float32).tofile(self._file)

    def chunks(self, seed: int | None) -> Iterator[Chunk]:
        return ((positions, self._read(positions)) for positions in self.orders(seed))

    def _read(self, positions: np.ndarray) -> np.ndarray:
        """Rows by runs of neighbours. They are read, not mapped: pages of a map count as memory of the process."""
        rows = np.empty((len(positions), self.views, self.width), np.float32)
        starts = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)]
        for start, end in itertools.pairwise(starts):
            part = rows[start:end]
            self._file.seek(int(positions[start]) * rows[0].nbytes)
            if self._file.readinto(part.data) != part.nbytes:
                raise OSError(errno.EIO, "rows that were kept cannot be read back")
        return rows


class FileRows:
    """Images of a feature file, read as they are needed and checked against their checksums.

    Args:
        file: Open as long as this is used.
        positions: (n,) positions of committed images in it.
        memory: Bytes that rows may take at any time.

    Raises:
        OptionError: There is not memory enough for a single image.
        FeatureFileError: An image has no row.
    """

    def __init__(self, file: FeatureFile, positions: np.ndarray, *, memory: int) -> None:
        self._file = file
        self._positions = np.asarray(positions, np.int64)
        _, self.views, self.width = file.shape
        image = 4 * self.views * self.width
        self._per_chunk = memory // (_ALIVE * image)
        self._per_block = min(max(_BLOCK // image, 1), self._per_chunk)
        if self._per_chunk < 1:
            raise OptionError(
                f"{memory} bytes are not enough to train in pieces; needed: {_ALIVE * image} or more.",
                memory=memory,
                needed=_ALIVE * image,
            )
        if not file.committed[self._positions].all():
            missing = file.table.paths[self._positions[~file.committed[self._positions]][0]]
            raise FeatureFileError(
                f"{file.path} holds no row for {missing}. Run the same extract command again to complete it.",
                path=file.path,
                image=missing,
            )

    @property
    def n(self) -> int:
        return len(self._positions)

    @property
    def y(self) -> np.ndarray:
        """(n,) int64, positions in the file's class names; or (n,) numbers, or (n, k) labels."""
        return self._file.wanted(self._positions)

    @property
    def weights(self) -> np.ndarray:
        return self._file.weights(self._positions)

    @property
    def groups(self) -> np.ndarray:
        return np.asarray(self._file.group_ids()[self._positions])

    def orders(self, seed: int | None) -> Iterator[np.ndarray]:
        """See `RowSource`. Blocks of neighbouring rows are shuffled; rows within a chunk are not."""
        blocks = np.split(np.arange(self.n), range(self._per_block, self.n, self._per_block))
        if seed is not None:
            np.random.default_rng(seed).shuffle(blocks)
        order = np.concatenate(blocks)
        for start in range(0, self.n, self._per_chunk):
            yield order[start : start + self._per_chunk]

    def chunks(self, seed: int | None) -> Iterator[Chunk]:
        """See `RowSource`.

        Raises:
            FeatureFileError: The bytes of a row have changed.
        """
        for chosen in self.orders(seed):
            yield chosen, self._file.read_views(self._positions[chosen])[0]
