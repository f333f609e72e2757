"""Frames of videos as images by name: `ants/a.mp4@000012.500s.bmp` is what `ants/a.mp4` shows after 12.5 seconds."""

import contextlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from onepass.extract.data.folders import class_folders, image_folders, unlabelled_images
from onepass.extract.data.listing import Listing, folder_tree
from onepass.extract.data.source import Source
from onepass.extract.data.stores import FolderStore, PartStore, Stamp, relative
from onepass.extract.data.watch import walk_files
from onepass.extract.frameworks import import_av
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.features.errors import DataError, OptionError, UnreadableImageError, opt

_KINDS = {
    ".avi": "avi", ".m4v": "mov", ".mkv": "matroska", ".mov": "mov", ".mp4": "mov", ".mpeg": "mpeg", ".mpg": "mpeg",
    ".ts": "mpegts", ".webm": "matroska", ".wmv": "asf",
}  # fmt: skip
"""Ending -> the one format that it is read as: others, such as playlists, would open further files."""
_FRAME = re.compile(r"(.+)@(\d{6,}\.\d{3})s\.bmp", re.DOTALL)
_EVERY = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, None: 1.0}
_MOST_FRAMES = 10**6


class VideoStore(PartStore):
    """Frames of the videos in a store, and images beside them."""

    def file(self, name: str) -> ImageFile:
        found = _FRAME.fullmatch(name)
        return VideoFrame(self.wholes.file(found[1]), float(found[2])) if found else self.wholes.file(name)

    def stamp(self, name: str) -> Stamp:
        return self.wholes.stamp(video_of(name) or name)


@dataclass(frozen=True)
class VideoFrame:
    """What a video shows at a time.

    Attributes:
        video: What it is read from.
        seconds: From its first frame on.
    """

    video: ImageFile
    seconds: float

    def read(self) -> bytes:
        """The frame as a BMP file, which is the same whatever wrote it."""
        with _opened(self.video) as (container, stream):
            start = float((stream.start_time or 0) * stream.time_base)
            container.seek(int((start + self.seconds) / stream.time_base), stream=stream)
            last = None
            for frame in container.decode(stream):
                last = frame
                if frame.time is not None and frame.time >= start + self.seconds - 1e-6:
                    break
            if last is None:
                raise UnreadableImageError(f"no frame at {self.seconds} s")
            image = last.to_image()
            turned = image.rotate(last.rotation, expand=True) if last.rotation else image
        data = io.BytesIO()
        turned.save(data, "BMP")
        return data.getvalue()

    def __str__(self) -> str:
        return f"{self.video} at {self.seconds} s"


def video_of(name: str) -> str | None:
    """The video that a frame is of; None for any other image.

    >>> video_of("ants/a.mp4@000012.500s.bmp"), video_of("ants/a.png")
    ('ants/a.mp4', None)
    """
    found = _FRAME.fullmatch(name)
    return found[1] if found else None


def seconds_of(every: str) -> float:
    """Seconds between two frames.

    Raises:
        OptionError: That is no time.

    >>> seconds_of("500ms"), seconds_of("2"), seconds_of("1.5 min")
    (0.5, 2.0, 90.0)
    """
    found = _EVERY.fullmatch(str(every).strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0.001 <= seconds < math.inf:
        raise OptionError(f"{opt.every} is {every!r}; needed: the time between two frames, such as 1s, 500ms or 2min.")
    return seconds


def video_source(data: Any, every: str, *, unlabelled: bool, least_classes: int = 2) -> Source:
    """Frames of the videos in folders, each video a group; images beside them count too.

    Args:
        data: The folder, or several.
        every: Time between two frames.
        unlabelled: Whether folders are no classes.
        least_classes: How many classes there must be.

    Raises:
        DataError: There is no video, or as `folder_source`.
        OptionError: `every` is no time.
    """
    seconds = seconds_of(every)
    folders, root = image_folders(data)
    files = sorted(relative(file, root) for folder in folders for file in walk_files(folder))
    store = VideoStore(FolderStore(root))
    names, unread = _frames(store, files, seconds)
    called = " and ".join(map(str, folders))
    if not any(map(video_of, names)):
        why = next((f"; {name}, for one, is {reason}" for name, reason in unread.items()), "")
        raise DataError(f"{called} holds no video ({', '.join(sorted(_KINDS))}){why}. Leave {opt.every} out.")
    stem = "+".join(folder.resolve().name or "videos" for folder in folders)
    record = {"data": str(root.resolve()), "folders": [str(folder.resolve()) for folder in folders]}
    if unlabelled:
        source = unlabelled_images(store, names, name=called, stem=stem, record=record)
    else:
        tree = Listing({root: folder_tree(names)})
        source = class_folders(folders, store, tree, root=root, stem=stem, record=record, least_classes=least_classes)
    groups = tuple(video_of(path) or "" for path in source.table.paths)
    return replace(
        source,
        table=replace(source.table, groups=groups),
        grouped=True,
        record={**source.record, "source": {**source.record.get("source", {}), "every": every}},
        other={**source.other, **unread},
    )


def _frames(store: VideoStore, files: Sequence[str], seconds: float) -> tuple[list[str], dict[str, str]]:
    """Names of all frames, and of the files beside them; name -> reason of videos that cannot be read."""
    names: list[str] = []
    unread: dict[str, str] = {}
    for name in files:
        if Path(name).suffix.lower() not in _KINDS:
            names.append(name)
            continue
        try:
            length = _length(store.wholes.file(name))
        except UnreadableImageError as error:
            unread[name] = str(error)
            continue
        names += [f"{name}@{i * seconds:010.3f}s.bmp" for i in range(max(1, math.ceil(length / seconds - 1e-9)))]
        if len(names) > _MOST_FRAMES:
            raise DataError(f"{store} holds more than {_MOST_FRAMES:,} frames, {opt.every} {seconds} s. Take fewer.")
    return names, unread


def _length(video: ImageFile) -> float:
    """Seconds.

    Raises:
        UnreadableImageError: It does not say, or is no video.
    """
    with _opened(video) as (container, stream):
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return float(container.duration) / 10**6
        raise UnreadableImageError("a video that does not say how long it is")


@contextlib.contextmanager
def _opened(video: ImageFile) -> Iterator[tuple[Any, Any]]:
    """The container and the stream of a video; what goes wrong within the block becomes a reason."""
    av = import_av()
    kind = _KINDS[Path(str(video)).suffix.lower()]
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(video, "rb")) if isinstance(video, Path) else io.BytesIO(read_bytes(video))
            container = stack.enter_context(av.open(file, format=kind))
            if not container.streams.video:
                raise UnreadableImageError("a video without pictures")
            stream = container.streams.video[0]
            if stream.width * stream.height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
                raise UnreadableImageError("a video of too many pixels")
            yield container, stream
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise UnreadableImageError(f"damaged: {str(error)[:80]}") from None


def require_no_time(every: str | None, named: Iterable[Path]) -> None:
    """Refuses a time between frames where there are no videos.

    Raises:
        OptionError: It is given.
    """
    if every:
        raise OptionError(
            f"{opt.every} belongs to folders of videos, and {' '.join(map(str, named))} is none. Leave it out."
        )
