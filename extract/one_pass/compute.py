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
from typing import Any

import numpy as np

from onepass.extract.backbones.backbone import BATCH_SIZE, Backbone
from onepass.extract.data.stores import Store, is_there
from onepass.extract.pixels.decode import decode, depth_of
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
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
        backbone: Of the file's spec, or one whose rows hold those of the file.
        columns: Of the backbone's rows, those that the file keeps.
        store: Where the images lie.
        paths: Of the file's images.
        unread: path -> reason, of files that could not be hashed; others keep the reason they have.
        augmentation: Recipe of the views beyond the first.
        batch_size: Rows committed together.
        workers: Decoding threads.
    """

    path: Path
    backbone: Backbone
    columns: slice = field(default_factory=lambda: slice(None))
    store: Store
    paths: Sequence[str]
    unread: Mapping[str, str] = field(default_factory=dict)
    augmentation: Augmentation | None = None
    batch_size: int = BATCH_SIZE
    workers: int | None = None


def compute_missing(
    targets: Sequence[Target], missing: Sequence[Missing], *, progress: Progress | None = None
) -> list[Computed]:
    """Computes and commits what feature files are missing, each image once for all of them.

    Args:
        targets: The files; they share a backbone, image folders, and the recipe of views.
        missing: From `Missing.of(target.path)`, for each.
        progress: Called as images are done.

    Returns:
        What was computed for each file.
    """
    first = targets[0]
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(_Sink(*pair)) for pair in zip(targets, missing, strict=True)]
        groups = _by_views(sinks)
        finished, all_images = 0, sum(map(len, groups.values())) + sum(len(sink.missing.bare) for sink in sinks)
        for views, files in groups.items():

            def skip(content: bytes, reason: str, files: dict[bytes, ImageFile] = files) -> None:
                nonlocal finished
                finished += 1
                final = _holds(files[content], content)
                for sink in sinks:
                    sink.skip(content, reason, final=final)

            def put_thumbnail(content: bytes, thumbnail: np.ndarray) -> None:
                for sink in sinks:
                    sink.put_thumbnail(content, thumbnail)

            def note_deep(content: bytes, highest: int) -> None:
                for sink in sinks:
                    if content in sink.places:
                        sink.done.highest.append(highest)

            stream = first.backbone.stream(
                files.items(),
                on_skip=skip,
                on_thumbnail=put_thumbnail,
                on_deep=note_deep,
                workers=first.workers,
                verify=True,
                views=views,
                augmentation=first.augmentation,
            )
            with contextlib.closing(stream):
                for content, rows in stream:
                    for sink in sinks:
                        sink.add(content, views, rows)
                    finished += 1
                    if progress:
                        progress(finished, all_images)
        for sink in sinks:
            for positions in _with_thumbnails(sink.target, sink.missing.bare, sink.writer):
                finished += 1
                sink.done.thumbnails += positions
                if progress:
                    progress(finished, all_images)
    return [sink.done for sink in sinks]


@dataclass(frozen=True)
class _Place:
    """Where the rows of a content go: positions of images, and the views that they miss."""

    positions: list[int]
    views: tuple[int, ...]


class _Sink:
    """A feature file that takes what it misses of what the pass computes."""

    def __init__(self, target: Target, missing: Missing) -> None:
        self.target, self.missing, self.done = target, missing, Computed()
        self.places = {
            content: _Place(positions, views)
            for views, contents in missing.contents.items()
            for content, positions in contents.items()
        }
        with FeatureFile(target.path) as file:
            self._plain = file.flags[:, 0]

    def __enter__(self) -> "_Sink":
        with contextlib.ExitStack() as stack:
            self.writer = stack.enter_context(RowWriter(self.target.path))
            self._committer = stack.enter_context(_Committer(self.writer, self.target.batch_size))
            for position in self.missing.unread:
                if reason := self.target.unread.get(self.target.paths[position]):
                    self.writer.skip(position, reason)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def file_of(self, content: bytes) -> ImageFile:
        return _readable(self.target, self.places[content].positions)

    def skip(self, content: bytes, reason: str, *, final: bool) -> None:
        """Notes that an image cannot be read; it is tried again unless its file is what it was."""
        if place := self.places.get(content):
            for position in place.positions:
                if self._plain[position] or not final:
                    self.done.left.append(SkippedImage(self.target.paths[position], reason))
                else:
                    self.writer.skip(position, reason)

    def put_thumbnail(self, content: bytes, thumbnail: np.ndarray) -> None:
        if place := self.places.get(content):
            for position in place.positions:
                self.writer.put_thumbnail(position, thumbnail)

    def add(self, content: bytes, views: tuple[int, ...], rows: np.ndarray) -> None:
        """Takes the rows, (len(views), d), of an image."""
        place = self.places.get(content)
        if place is None:
            return
        for view, row in zip(views, rows[:, self.target.columns], strict=True):
            if view in place.views:
                for position in place.positions:
                    self._committer.add((position, view), row)
        self.done.rows += len(place.views)
        self.done.computed += 1


def _by_views(sinks: Sequence[_Sink]) -> dict[tuple[int, ...], dict[bytes, ImageFile]]:
    """Views -> content -> file, of all that any of the files misses."""
    wanted: dict[bytes, set[int]] = {}
    holders: dict[bytes, _Sink] = {}
    for sink in sinks:
        for content, place in sink.places.items():
            wanted.setdefault(content, set()).update(place.views)
            holders.setdefault(content, sink)
    groups: dict[tuple[int, ...], dict[bytes, ImageFile]] = defaultdict(dict)
    for content, views in wanted.items():
        groups[tuple(sorted(views))][content] = holders[content].file_of(content)
    return groups


def _with_thumbnails(target: Target, bare: dict[bytes, list[int]], writer: RowWriter) -> Iterator[int]:
    """Reads images that lack a thumbnail alone; yields how many got theirs, content by content."""
    spec = target.backbone.spec

    def thumbnail(content: bytes) -> np.ndarray | None:
        try:
            data = _unchanged(_readable(target, bare[content]), content)
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


def _readable(target: Target, where: list[int]) -> ImageFile:
    """Of exact copies the first whose file is there."""
    files = [target.store.file(target.paths[position]) for position in where]
    return files[0] if len(files) == 1 else next(filter(is_there, files), files[0])


def _holds(file: ImageFile, content: bytes) -> bool:
    """True if a file can be read and is what it was, so that a failure to decode it is final."""
    try:
        _unchanged(file, content)
        return True
    except UnreadableImageError:
        return False


def _unchanged(file: ImageFile, content: bytes) -> bytes:
    """The bytes of a file that is what it was.

    Raises:
        UnreadableImageError: It cannot be read, or is another one now.
    """
    data = read_bytes(file)
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
