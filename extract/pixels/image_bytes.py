"""The bytes of an image, wherever it lies: in a file of its own, or in something that holds many."""

import hashlib
import stat
from pathlib import Path
from typing import Protocol, runtime_checkable

from onepass.features.errors import UnreadableImageError

UNREACHED = "could not be fetched"
"""How the reason begins for an image that may be had another time."""


@runtime_checkable
class Stored(Protocol):
    """An image that has no file of its own: a member of an archive, a cell of a table, an object in a bucket."""

    def read(self) -> bytes:
        """Its bytes; any thread may ask.

        Raises:
            UnreadableImageError: With the reason.
        """
        ...

    def __str__(self) -> str:
        """Where it lies, for messages."""
        ...


ImageFile = Path | Stored
"""What an image is read from."""


def read_bytes(file: ImageFile) -> bytes:
    """The bytes of an image; a pipe or device in place of a file would keep a run waiting for ever.

    Raises:
        UnreadableImageError: With the reason.
    """
    if not isinstance(file, Path):
        return file.read()
    try:
        if not file.is_dir() and not stat.S_ISREG(file.stat().st_mode):
            raise UnreadableImageError("not a regular file")
        return file.read_bytes()
    except OSError as error:
        raise UnreadableImageError(reason_of_os(error)) from None
    except ValueError as error:  # a null byte in the name
        raise UnreadableImageError(str(error)) from None


def content_of(file: ImageFile) -> bytes:
    """SHA-256 of the bytes of an image; a file is read in pieces.

    Raises:
        OSError: The file may not be read.
        UnreadableImageError: What has no file of its own cannot be read.
    """
    if isinstance(file, Path):
        with open(file, "rb") as raw:
            return hashlib.file_digest(raw, "sha256").digest()
    return hashlib.sha256(file.read()).digest()


def reason_of_os(error: OSError) -> str:
    """Why a file cannot be read, as a list of skipped images says it."""
    return (error.strerror or type(error).__name__).lower()
