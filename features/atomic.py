"""Files that are complete or not there: written beside, flushed, then renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, same_ending: bool = False) -> Iterator[Path]:
    """Yields a place beside a file; what the block writes there takes the file's name once it is on the disk.

    If the block fails, or the process dies, the old file stays as it is; what was written beside goes with the block.

    Args:
        path: The file, there or not.
        same_ending: Whether the place beside must have the file's ending, for writers that go by it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.txt"
    >>> with replacing(path) as beside:
    ...     _ = beside.write_text("new")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('new', 1)
    """
    beside = path.with_name(f".new-{path.name}" if same_ending else f".{path.name}.new")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
