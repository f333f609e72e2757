"""Image files below folders: those that are there, and those that appear."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from onepass.extract.pixels.formats import is_image_name
from onepass.features.errors import DataError


def walk_files(folder: Path) -> Iterator[Path]:
    """All visible files below a folder, links followed once, in the order of their names."""
    seen = set()

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # gone since its name was read
            raise DataError(f"{error.filename} may not be listed: {error.strerror}.")

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        try:
            status = Path(parent).stat()
        except FileNotFoundError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not hidden(name))
        yield from (Path(parent, name) for name in sorted(names) if not hidden(name))


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Image files among paths: files as they are, folders searched for names of image files."""
    return (
        file
        for path in paths
        for file in (walk_files(path) if os.path.isdir(path) else [path])  # noqa: PTH112 (which never raises)
        if file == path or is_image_name(file)
    )


def watch_folder(folder: Path, *, interval: float = 1.0) -> Iterator[list[Path]]:
    """Image files that are in a folder or appear in it, each once, as soon as they no longer grow; without end.

    Args:
        folder: Searched with all that is below it.
        interval: Seconds between two looks; a file that is the same in both is complete.

    Raises:
        DataError: There is no such folder, or it may not be listed.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} to watch. Make it, or name another one.")

    def batches() -> Iterator[list[Path]]:
        taken: set[Path] = set()
        before: dict[Path, tuple[int, int]] = {}
        while True:
            now: dict[Path, tuple[int, int]] = {}
            for path in find_images([folder]):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    now[path] = (status.st_size, status.st_mtime_ns)
            taken &= now.keys()  # what is put back after it was gone counts as new
            if ready := [path for path, status in now.items() if path not in taken and before.get(path) == status]:
                taken.update(ready)
                yield ready
            before = now
            time.sleep(interval)

    return batches()


def hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")
