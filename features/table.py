"""The image table: what a feature file knows about every image before any row is computed."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import compress
from pathlib import Path, PurePosixPath

import numpy as np

from onepass.features.errors import FeatureFileError
from onepass.features.groups import group_ids
from onepass.features.splits import SPLITS


@dataclass(frozen=True)
class ImageTable:
    """One entry per file found, in a fixed order. Unreadable files are entries too.

    Attributes:
        class_names: k names; labels are positions in it.
        paths: n paths relative to the image folder, with forward slashes.
        labels: (n,) int32.
        splits: (n,) uint8, positions in `features.SPLITS`.
        content_hashes: (n, 32) uint8, SHA-256 of the file's bytes; zeros if it could not be read.
        file_sizes: (n,) int64, bytes.
        file_mtimes: (n,) int64, modification time in nanoseconds.
        groups: n names of what must stay on one side of a split, such as a patient; "" for an image that is a
            group of its own. Left out, every image is one.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    content_hashes: np.ndarray
    file_sizes: np.ndarray
    file_mtimes: np.ndarray
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", ("",) * len(self.paths))
        if len(self.groups) != len(self.paths):
            raise ValueError(f"{len(self.groups)} groups for {len(self.paths)} images")

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, kept: np.ndarray) -> "ImageTable":
        """The entries where (n,) bool is True; the classes stay as they are."""
        return ImageTable(
            self.class_names,
            tuple(compress(self.paths, kept)),
            self.labels[kept],
            self.splits[kept],
            self.content_hashes[kept],
            self.file_sizes[kept],
            self.file_mtimes[kept],
            tuple(compress(self.groups, kept)),
        )

    def file(self, position: int, root: Path) -> Path:
        """Where the file of an image lies below the image folder.

        Raises:
            FeatureFileError: Its path leads out of the folder, which none that `extract` wrote does.
        """
        path = PurePosixPath(self.paths[position])
        if path.is_absolute() or ".." in path.parts:
            raise FeatureFileError(
                f"the feature file names {path}, which does not lie below {root}; nothing there is opened. The file is "
                "damaged or forged; extract again."
            )
        return root / path

    def same_entries(self, other: "ImageTable") -> bool:
        """True if both name the same contents under the same paths, labels, splits and groups."""
        return (
            self.class_names == other.class_names
            and self.paths == other.paths
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.splits, other.splits)
            and self.groups == other.groups
            and np.array_equal(self.content_hashes, other.content_hashes)
        )

    def same_files(self, other: "ImageTable") -> bool:
        """True if both have the same entries, and each file's size and time are the same too."""
        return (
            self.same_entries(other)
            and np.array_equal(self.file_sizes, other.file_sizes)
            and np.array_equal(self.file_mtimes, other.file_mtimes)
        )

    def out_of_range(self) -> np.ndarray:
        """(n,) bool, True where an entry names a class or a split that does not exist."""
        wrong = (self.labels < 0) | (self.labels >= len(self.class_names)) | (self.splits >= len(SPLITS))
        return np.asarray(wrong)

    def group_ids(self, copies: np.ndarray | None = None) -> np.ndarray:
        """(n,) int64, equal for images that must stay on one side of a split (see `group_ids`)."""
        return group_ids(self.groups, self.content_hashes, copies)

    def group_names(self) -> list[str]:
        """Names of the groups, sorted; images that are groups of their own have none."""
        return sorted(set(self.groups) - {""})

    def duplicates(self) -> list[np.ndarray]:
        """Positions of images whose files are equal byte for byte: one (m,) array, m >= 2, per content."""
        places: dict[bytes, list[int]] = defaultdict(list)
        for position, content in enumerate(self.content_hashes):
            places[content.tobytes()].append(position)
        places.pop(bytes(32), None)
        return [np.array(found) for found in places.values() if len(found) > 1]
