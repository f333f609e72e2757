"""Files and folders that are complete or not there: written beside, flushed, then renamed."""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_DAY = 24 * 3600.0
_LONGEST = 150
"""Bytes of a name that go into that of the folder beside; with the rest it stays below the 255 of a file system."""
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")
"""Where names stand for what a process has open; a rename there would take the name and miss the reader."""
_in_use: set[str] = set()
"""Folders that threads of this process are writing in."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a place beside a file; what the block writes there takes the file's name once it is on the disk.

    If the block fails, or the process dies, the old file stays as it is. What was written beside goes with the block,
    or with the next writer of the same file. A link stays a link; into a device or a pipe the block writes directly.

    Raises:
        OSError: There is no room, no permission, or no such folder.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.txt"
    >>> with replacing(path) as beside:
    ...     _ = beside.write_text("new")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('new', 1)
    """
    place = _place(path)
    if place is None:
        yield path
        return
    with folder_beside(place) as folder:
        yield folder / place.name
        move(folder / place.name, place)


def _place(path: Path) -> Path | None:
    """What a rename has to reach, behind all links; None for a device or a pipe."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if str(path).startswith(_STREAMS) or (path.exists() and not path.is_file()):
        return None
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, for this block alone; what killed writers of `path` left there goes first.

    Raises:
        OSError: There is no room, no permission, or no such folder.
    """
    remove_leftovers(path.parent, path.name)
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder = path.with_name(_start(path.name) + owner)
    _in_use.add(folder.name)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _in_use.discard(folder.name)


def move(made: Path, path: Path) -> None:
    """Gives a finished file or folder its name for good: on the disk first, then renamed, then the name on the disk."""
    flush(made)
    made.replace(path)
    _sync_folder(path.parent)


def flush(made: Path) -> None:
    """Brings the content of a file, or of all files in a folder, onto the disk."""
    for file in filter(Path.is_file, made.rglob("*") if made.is_dir() else [made]):
        with open(file, "rb") as written:
            os.fsync(written.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # of a folder that may be written but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # which file systems say that sync no folders
            raise
    finally:
        os.close(descriptor)


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """What killed writers left: of a process of this machine that is gone, or a day old.

    Args:
        folder: Where to look.
        name: Of the file that was being written; None for all of them.
    """
    start = _start(name) if name is not None else "."
    with contextlib.suppress(OSError):
        return [one for one in folder.iterdir() if one.name.startswith(start) and _is_left(one)]
    return []


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes `leftovers`, as far as that is allowed."""
    for left in leftovers(folder, name):
        shutil.rmtree(left, ignore_errors=True)


def _start(name: str) -> str:
    """Start of the names of the folders beside a file; the writer's machine and process id follow."""
    short = name if len(os.fsencode(name)) <= _LONGEST else hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{short}.new-"


def _is_left(folder: Path) -> bool:
    start, process, _ = ("--" + folder.name).rsplit("-", 2)
    if "new-" not in start or not process.isdigit() or folder.name in _in_use:
        return False
    here = start.endswith(f"new-{socket.gethostname()}")
    with contextlib.suppress(OSError):  # another process may have removed it
        return (here and not _is_running(int(process))) or time.time() - folder.stat().st_mtime > _DAY
    return False


def _is_running(process: int) -> bool:
    """Whether a process may still be writing; this one writes only in the folders it has in use."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError, IndexError):  # a killed one whose parent has not asked after it yet
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True
