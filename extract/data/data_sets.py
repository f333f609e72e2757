"""Data sets of the Hugging Face hub and of TensorFlow Datasets, as tables that hold their images undecoded."""

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.extract.data.hugging_face_set import hugging_face_set
from onepass.extract.data.records import Records
from onepass.extract.data.stores import Store
from onepass.extract.data.tensorflow_set import tensorflow_set
from onepass.extract.pixels.formats import is_image_name
from onepass.features.errors import DataError

_NAMED = re.compile(r"(hf|tfds):([^@]+)(?:@(.+))?")
_SAVED = ("dataset_dict.json", "state.json")
"""Files in a folder that the library `datasets` has saved a data set to."""
_LOOKED_AT = 2000
"""Files and folders in it, at most."""


@dataclass(frozen=True)
class DataSet:
    """A data set as somebody names it.

    Attributes:
        hub: hf or tfds.
        name: Of the data set there, or of a folder.
        version: Of it; None for the newest.
    """

    hub: str
    name: str
    version: str | None = None

    @property
    def stem(self) -> str:
        """How files that are made of it are called."""
        path = Path(self.name)
        if self.hub == "tfds" and path.is_dir():
            path = path.parent  # the folder itself is called by its version
        return re.sub(r"\W+", "-", path.name)

    def __str__(self) -> str:
        return f"{self.hub}:{self.name}" + (f"@{self.version}" if self.version else "")

    def opened(self, column: str | None = None) -> tuple["DataSet", Records, Store]:
        """The data set with the version that it has, what it says of its images, and these.

        Args:
            column: That holds the images, if several do.

        Raises:
            DataError: It cannot be had, or holds no images.
        """
        read: Callable[[str, str | None, str | None], tuple[Records, Store, str | None]]
        read = tensorflow_set if self.hub == "tfds" else hugging_face_set
        records, store, version = read(self.name, self.version, column)
        return DataSet(self.hub, self.name, version), records, store


def data_set_of(named: Any) -> DataSet | None:
    """The data set that somebody names; None if it is none.

    >>> str(data_set_of("hf:owner/beans@main")), data_set_of("photos/")
    ('hf:owner/beans@main', None)
    """
    found = _NAMED.fullmatch(str(named))
    if found:
        hub, name, version = found.groups()
        if os.path.isdir(name):  # noqa: PTH112
            name = str(Path(name).resolve())
        return DataSet(hub, name, version)
    if str(named).startswith(("hf:", "tfds:")):
        raise DataError(f"{named} names no data set; needed: hf:owner/name, hf:folder/ or tfds:name.")
    path = Path(named)
    return DataSet("hf", str(path.resolve())) if os.path.isdir(path) and _is_saved(path) else None  # noqa: PTH112 (which never raises)


def _is_saved(folder: Path) -> bool:
    """True for a folder of Parquet files and no images, or one that `datasets` has saved."""
    try:
        if any((folder / name).is_file() for name in _SAVED):
            return True
        seen = [path for path in itertools.islice(folder.rglob("*"), _LOOKED_AT) if path.suffix]
        return any(path.suffix.lower() == ".parquet" for path in seen) and not any(map(is_image_name, seen))
    except OSError:
        return False
