"""Where the images of a feature file lie, for tools that open files themselves."""

from collections.abc import Sequence
from pathlib import Path

from onepass.extract.data.sources import store_of
from onepass.features import FeatureFile
from onepass.features.errors import DataError, opt


def stored_files(file: FeatureFile, paths: Sequence[str], *, data: Path | None = None, needed_by: str) -> list[Path]:
    """The file of each image, as an absolute path.

    Args:
        file: The feature file.
        paths: Of images in it.
        data: Where the images lie now; by default where they were.
        needed_by: Who is to open them, for a message.

    Raises:
        DataError: They have no files of their own, or one is not there.
    """
    store = store_of(file, data)
    found = []
    for name in paths:
        one = store.file(name)
        if not isinstance(one, Path):
            raise DataError(
                f"{one} is no file of its own, and {needed_by} opens files; needed: images in a folder. Unpack them, "
                "extract from there, which computes no row again, and share that feature file."
            )
        if not one.is_file():
            raise DataError(
                f"{one} is not there, and {needed_by} is to open it. Say where the images are with {opt.data}."
            )
        found.append(one.absolute())
    return found
