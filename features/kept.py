"""What is kept to save work later: each room lists its own, to be shown and cleared."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kept:
    """A file or folder that may be deleted: nothing is lost but the time to make it again.

    Attributes:
        path: Of the file or folder.
        bytes: On disk, all files of a folder together.
        what: In words, such as "comparison results".
    """

    path: Path
    bytes: int
    what: str

    @classmethod
    def of(cls, path: Path, what: str) -> "Kept":
        return cls(path, size_of(path), what)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what vanishes meanwhile counts 0."""
    files = [path] if path.is_file() else [Path(at, name) for at, _, names in os.walk(path) for name in names]
    return sum(file.lstat().st_size for file in files if os.path.lexists(file))
