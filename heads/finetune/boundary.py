"""Whether the frozen trunk's output is kept on disk, and how a training reads it back."""

import shutil
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, OnepassWarning, OptionError, opt

CHECKPOINT = "checkpoint.safetensors"
_START = "boundary-"


@dataclass(frozen=True)
class BoundaryCost:
    """What keeping the trunk's output takes.

    Attributes:
        boundary: Layer that the frozen trunk ends with.
        images, views: So many.
        bytes: On disk.
        free: Bytes that are free there.
        there: Bytes that an earlier run has already written.
    """

    boundary: str
    images: int
    views: int
    bytes: int
    free: int
    there: int = 0

    def __str__(self) -> str:
        views = f" x {self.views} views" if self.views > 1 else ""
        return (
            f"output of {self.boundary} for {self.images} images{views}: {self.bytes / 1e9:.2f} GB of "
            f"{self.free / 1e9:.1f} GB free"
        )


def boundary_cost(boundary: str, shape: tuple[int, ...], *, images: int, views: int, path: Path) -> BoundaryCost:
    """What the float32 output of a layer, (h, w, c) or (t, d) per image, takes beside `path`."""
    there = path.stat().st_size if path.is_file() else 0
    return BoundaryCost(
        boundary=boundary,
        images=images,
        views=views,
        bytes=4 * int(np.prod(shape)) * images * views,
        free=shutil.disk_usage(path.parent).free,
        there=there,
    )


def require_limit(limit: str) -> None:
    """Refuses a limit that is neither off nor auto nor GB above 0."""
    try:
        known = limit in ("off", "auto") or float(limit) > 0
    except ValueError:
        known = False
    if not known:
        raise OptionError(f"{opt.boundary_cache} is {limit!r}; needed: off, auto, or so many GB.", boundary_cache=limit)


def worth_keeping(cost: BoundaryCost, limit: str) -> bool:
    """Whether to keep the trunk's output.

    Args:
        cost: What it takes.
        limit: off; auto, if it fits into half of the free disk; or GB it may take; see `require_limit`.

    Raises:
        OptionError: The limit is a number that is too small.
    """
    if limit == "off":
        return False
    if limit == "auto":
        return cost.bytes <= (cost.free + cost.there) / 2
    if cost.bytes > float(limit) * 1e9:
        raise OptionError(
            f"the boundary cache needs {cost.bytes / 1e9:.2f} GB ({cost}); {opt.boundary_cache} allows {limit}. Allow "
            f"more, take fewer {opt.views}, or train end to end with {opt.boundary_cache('off')}."
        )
    return True


def remove_if_damaged(path: Path) -> None:
    """Removes a boundary cache whose header or tables are damaged, so that it is made again, as damaged rows are.

    Warns:
        OnepassWarning: It was removed.
    """
    if not path.is_file():
        return
    try:
        with FeatureFile(path) as file:
            assert len(file.table) == len(file)
    except FeatureFileError:
        warnings.warn(f"the boundary cache {path} is damaged, so it is made again.", OnepassWarning, stacklevel=2)
        path.unlink(missing_ok=True)


def boundary_file(work: Path, boundary: str) -> Path:
    """Where the output of a layer is kept in the work folder of a fine-tuning."""
    return work / f"{_START}{boundary.replace('/', '-')}.h5"


class BoundaryInputs:
    """Activations of the boundary, read from the file that keeps them.

    Args:
        file: Rows are flattened activations.
        contents: (n, 32) content hashes of the images, in the order of their positions.
        shape: Of the activations of one image, (h, w, c) or (t, d).
    """

    def __init__(self, file: FeatureFile, contents: np.ndarray, shape: tuple[int, ...]) -> None:
        self._file, self._shape, self._checksums = file, shape, file.stored("checksums")
        places = {content.tobytes(): i for i, content in enumerate(file.table.content_hashes)}
        found = np.array([places.get(content.tobytes(), -1) for content in contents])
        self._places = np.where((found >= 0) & file.committed[found], found, -1)

    def lacking(self, images: np.ndarray) -> np.ndarray:
        """Those of (m,) positions of images that the file does not hold."""
        return np.asarray(images[self._places[images] < 0])

    def __call__(self, images: np.ndarray, views: np.ndarray) -> np.ndarray:
        """(b,) positions of images and (b,) views -> (b, h, w, c) float32.

        Raises:
            FeatureFileError: The bytes of one are not those that were written.
        """
        places = self._places[images]
        rows = np.empty((len(images), *self._shape), np.float32)
        for row, place, view in zip(rows, places.tolist(), views.tolist(), strict=True):
            stored = self._file.rows[place, view]
            if zlib.crc32(stored) != self._checksums[place, view]:
                raise FeatureFileError(
                    f"{self._file.path} is damaged: the row of {self._file.table.paths[place]} does not match its "
                    "checksum. Run the same command again; it makes the row anew."
                )
            row[...] = stored.reshape(self._shape)
        return rows
