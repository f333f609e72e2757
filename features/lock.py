"""One writer per feature file: a lock that ends with its process, however that ends."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from onepass.features.errors import FeatureFileError, LockedError, opt


@contextlib.contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Holds the right to write `path` while the block runs.

    The lock is an flock on a hidden file beside `path`, so the kernel drops it when the process
    dies. The hidden file names the holder and is removed at the end.

    Raises:
        LockedError: Another process holds it; the message names its pid and host.
        FeatureFileError: The folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.lock")
    while True:
        try:
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FeatureFileError(
                f"cannot write in {path.parent}: {error.strerror}. "
                f"Choose another file with {opt.out}, or make the folder writable."
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise LockedError(
                f"{path} is being written by {holder or 'another process'}. "
                f"Wait until it has finished, or choose another file with {opt.out}.",
                holder=holder,
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise FeatureFileError(
                f"{path.parent} is on a file system without locks ({error.strerror}), so nothing keeps two runs apart "
                f"there. Choose a file on another disk with {opt.out}."
            ) from None
        # The holder before us removed the file between our open and our flock: start again.
        if _is_still_there(descriptor, beside):
            break
        os.close(descriptor)
    try:
        with contextlib.suppress(OSError):  # On a full disk the lock holds without a name.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        beside.unlink(missing_ok=True)
        os.close(descriptor)


def _is_still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
