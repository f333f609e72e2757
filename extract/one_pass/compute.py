"""Computes the rows that a feature file is missing: each content once, committed as it comes."""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone
from onepass.extract.pixels.decode import decode, depth_of, read_bytes
from onepass.extract.pixels.views import Augmentation
from onepass.features import FeatureFile, SkippedImage
from onepass.features.errors import UnreadableImageError
from onepass.features.writer import RowWriter

Progress = Callable[[int, int], None]
"""Called with (images done, images to do)."""

RowPosition = tuple[int, int]
"""Position of an image, and view."""


@dataclass
class Missing:
    """What is still to be computed for a feature file.

    Attributes:
        contents: Views that are missing -> content hash -> positions of the images that miss them.
        unread: Positions of images that had no content to hash.
        damaged: Places whose row does not match its checksum.
        bare: Content hash -> positions of images that have their rows, but no thumbnail.
    """

    contents: dict[tuple[int, ...], dict[bytes, list[int]]] = field(default_factory=lambda: defaultdict(dict))
    unread: list[int] = field(default_factory=list)
    damaged: list[RowPosition] = field(default_factory=list)
    bare: dict[bytes, list[int]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Contents to run through the backbone."""
        return sum(map(len, self.contents.values()))

    @property
    def positions(self) -> list[int]:
        """Images that a content to be computed belongs to."""
        return [position for contents in self.contents.values() for where in contents.values() for position in where]

    @classmethod
    def of(cls, path: Path, *, retry: bool = False) -> "Missing":
        """Looks through the flags and, for committed rows, the checksums of a feature file.

        Args:
            path: The file.
            retry: Count images that were skipped for what is in them as well.
        """
        found = cls()
        with FeatureFile(path) as file:
            damaged = file.damaged(np.arange(len(file)))
            missing, hashes = ~file.flags | damaged, file.stored("content_hashes")
            bare = file.flags[:, 0] & ~file.thumbnailed()
            given_up = set() if retry else file.given_up()
        found.damaged = [(i, view) for i, view in np.argwhere(damaged).tolist()]
        places: dict[bytes, list[int]] = defaultdict(list)
        for position in np.flatnonzero(missing.any(axis=1)).tolist():
            if (content := hashes[position].tobytes()) not in given_up:
                places[content].append(position)
        found.unread = places.pop(bytes(32), [])
        for content, positions in places.items():
            views = tuple(np.flatnonzero(missing[positions].any(axis=0)).tolist())
            found.contents[views][content] = positions
        for position in np.flatnonzero(bare & ~missing.any(axis=1)).tolist():
            found.bare.setdefault(hashes[position].tobytes(), []).append(position)
        return found


def share_rows(path: Path, missing: Missing) -> None:
    """Takes the flags of damaged rows back, and gives each image the intact rows that a copy of it has."""
    with FeatureFile(path) as file, RowWriter(path) as writer:
        writer.withdraw(missing.damaged)
        writer.copy_rows(file)


@dataclass
class Computed:
    """What was computed.

    Attributes:
        computed: Images that went through the backbone.
        rows: Rows that came out of it, views and copies included.
        thumbnails: Images that had their rows already and got the thumbnail that they lacked.
        highest: Largest value of each image with 16 bits per value.
        left: Images that still miss rows: their files are gone, have changed, or cannot be opened now.
    """

    computed: int = 0
    rows: int = 0
    thumbnails: int = 0
    highest: list[int] = field(default_factory=list)
    left: list[SkippedImage] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A feature file whose rows are to be computed, and where from.

    Attributes:
        path: The file, locked by the caller.
        backbone: Of the file's spec.
        root: Folder that `paths` are relative to.
        paths: Of the file's images.
        unread: path -> reason, of files that could not be hashed; others keep the reason they have.
        augmentation: Recipe of the views beyond the first.
        batch_size: Rows committed together.
        workers: Decoding threads.
    """

    path: Path
    backbone: Backbone
    root: Path
    paths: Sequence[str]
    unread: Mapping[str, str] = field(default_factory=dict)
    augmentation: Augmentation | None = None
    batch_size: int = BATCH_SIZE
    workers: int | None = None


def compute_missing(target: Target, missing: Missing, *, progress: Progress | None = None) -> Computed:
    """Computes and commits what a feature file is missing.

    Args:
        target: The file.
        missing: From `Missing.of(target.path)`.
        progress: Called as images are done.
    """
    path, root, paths = target.path, target.root, target.paths
    done = Computed()
    finished, all_images = 0, missing.images + len(missing.bare)
    with FeatureFile(path) as file:
        plain = file.flags[:, 0]
    with RowWriter(path) as writer, _Committer(writer, target.batch_size) as committer:
        for position in missing.unread:
            if reason := target.unread.get(paths[position]):
                writer.skip(position, reason)
        for views, contents in missing.contents.items():
            files = {content: root / paths[_readable(root, paths, where)] for content, where in contents.items()}

            def skip(
                content: bytes, reason: str, contents: dict[bytes, list[int]] = contents, files: dict = files
            ) -> None:
                nonlocal finished
                finished += 1
                for position in contents[content]:
                    if plain[position] or not _holds(files[content], content):
                        done.left.append(SkippedImage(paths[position], reason))
                    else:
                        writer.skip(position, reason)

            def put_thumbnail(
                content: bytes, thumbnail: np.ndarray, contents: dict[bytes, list[int]] = contents
            ) -> None:
                for position in contents[content]:
                    writer.put_thumbnail(position, thumbnail)

            stream = target.backbone.stream(
                files.items(),
                on_skip=skip,
                on_thumbnail=put_thumbnail,
                on_deep=lambda _, highest: done.highest.append(highest),
                workers=target.workers,
                verify=True,
                views=views,
                augmentation=target.augmentation,
            )
            with contextlib.closing(stream):
                for content, rows in stream:
                    for position in contents[content]:
                        for view, row in zip(views, rows, strict=True):
                            committer.add((position, view), row)
                        done.rows += len(views)
                    done.computed += 1
                    finished += 1
                    if progress:
                        progress(finished, all_images)
        for positions in _with_thumbnails(target, missing.bare, writer):
            finished += 1
            done.thumbnails += positions
            if progress:
                progress(finished, all_images)
    return done


def _with_thumbnails(target: Target, bare: dict[bytes, list[int]], writer: RowWriter) -> Iterator[int]:
    """Reads images that lack a thumbnail alone; yields how many got theirs, content by content."""
    spec = target.backbone.spec

    def thumbnail(content: bytes) -> np.ndarray | None:
        file = target.root / target.paths[_readable(target.root, target.paths, bare[content])]
        try:
            data = _unchanged(file, content)
            depth = depth_of(spec.decode)
            return decode(data, image_size=spec.image_size, resize=spec.resize, views=(), depth=depth).thumbnail
        except UnreadableImageError:
            return None

    remaining = iter(bare)
    with ThreadPoolExecutor(target.workers or os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        while contents := list(islice(remaining, 256)):
            for content, found in zip(contents, pool.map(thumbnail, contents), strict=True):
                if found is not None:
                    for position in bare[content]:
                        writer.put_thumbnail(position, found)
                yield len(bare[content]) if found is not None else 0


def _readable(root: Path, paths: Sequence[str], where: list[int]) -> int:
    """Of exact copies the first whose file is there."""
    if len(where) == 1:
        return where[0]
    return next((position for position in where if (root / paths[position]).is_file()), where[0])


def _holds(path: Path, content: bytes) -> bool:
    """True if a file can be read and is what it was, so that a failure to decode it is final."""
    try:
        _unchanged(path, content)
        return True
    except UnreadableImageError:
        return False


def _unchanged(path: Path, content: bytes) -> bytes:
    """The bytes of a file that is what it was.

    Raises:
        UnreadableImageError: It cannot be read, or is another one now.
    """
    data = read_bytes(path)
    if hashlib.sha256(data).digest() != content:
        raise UnreadableImageError("no longer the file whose content was recorded")
    return data


class _Committer:
    """Commits rows in batches in a thread of its own, so that the disk never holds up the engine.

    What was added is committed even if the block is left by an exception or Ctrl-C.
    """

    def __init__(self, writer: RowWriter, batch_size: int) -> None:
        self._writer = writer
        self._batch_size = batch_size
        self._batch: list[tuple[RowPosition, np.ndarray]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> "_Committer":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._commit()
            self._wait()
        finally:
            self._thread.shutdown()

    def add(self, place: RowPosition, row: np.ndarray) -> None:
        self._batch.append((place, row))
        if len(self._batch) >= self._batch_size:
            self._commit()

    def _commit(self) -> None:
        self._wait()
        if self._batch:
            places, rows = zip(*self._batch, strict=True)
            self._under_way = self._thread.submit(self._writer.commit, places, rows)
            self._batch = []

    def _wait(self) -> None:
        if self._under_way:
            self._under_way.result()
            self._under_way = None
