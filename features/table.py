"""The image table: what a feature file knows about every image before any row is computed."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onepass.features.groups import group_ids
from onepass.features.names import shown
from onepass.features.splits import SPLITS
from onepass.features.tasks import CLASSES, LABELS, NONE, NUMBER, TASKS, strata_of_labels, strata_of_numbers

ARRAYS = ("labels", "splits", "content_hashes", "file_sizes", "file_mtimes", "targets", "weights")
"""Attributes of a table that are arrays with one entry per image."""


@dataclass(frozen=True)
class ImageTable:
    """One entry per file found, in a fixed order. Unreadable files are entries too.

    Attributes:
        class_names: k names; labels are positions in it. Of several labels per image their names, of numbers the one
            name of what they are; none where nothing is labelled.
        paths: n paths relative to the image folder, with forward slashes.
        labels: (n,) int32; -1 for an image without a label. Of other tasks than classes 0 if it has its targets.
        splits: (n,) uint8, positions in `features.SPLITS`.
        content_hashes: (n, 32) uint8, SHA-256 of the file's bytes; zeros if it could not be read.
        file_sizes: (n,) int64, bytes.
        file_mtimes: (n,) int64, modification time in nanoseconds.
        groups: n names of what must stay on one side of a split, such as a patient; "" for an image that is a
            group of its own. Left out, every image is one.
        task: What the labels are, one of `TASKS`.
        targets: (n, t) float64. Of several labels 1 for those that an image has and 0 for the others, t = k; of numbers
            the number, t = 1; NaN for an image without. Of other tasks t = 0.
        weights: (n,) float64, how much each image counts in training and scores, above 0. Left out, all count 1.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    content_hashes: np.ndarray
    file_sizes: np.ndarray
    file_mtimes: np.ndarray
    groups: tuple[str, ...] = ()
    task: str = CLASSES
    targets: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        n = len(self.paths)
        if not self.groups:
            object.__setattr__(self, "groups", ("",) * n)
        if self.targets.shape == (0, 0):
            object.__setattr__(self, "targets", np.zeros((n, 0)))
        if not len(self.weights):
            object.__setattr__(self, "weights", np.ones(n))
        for name in ("groups", "targets", "weights"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{len(getattr(self, name))} {name} for {n} images")

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, kept: np.ndarray) -> "ImageTable":
        """The entries where (n,) bool is True; the classes stay as they are."""
        return self.taken(np.flatnonzero(kept))

    def taken(self, positions: np.ndarray) -> "ImageTable":
        """The entries at (m,) positions, in that order; the classes stay as they are."""
        columns: dict[str, Any] = {name: getattr(self, name)[positions] for name in ARRAYS}
        texts: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in positions.tolist()) for name in ("paths", "groups")
        }
        return replace(self, **columns, **texts)

    @property
    def labelled(self) -> np.ndarray:
        """(n,) bool, True for images that have a label, or what else the task asks for."""
        return np.asarray(self.labels >= 0)

    @property
    def weighted(self) -> bool:
        """True if images count differently."""
        return bool((self.weights != 1).any())

    def wanted(self, positions: np.ndarray) -> np.ndarray:
        """What heads learn of images at (m,) positions: (m,) int64 classes, (m, k) float64 labels of 0 and 1, or (m,)
        float64 numbers."""
        targets = self.targets[positions]
        if self.task == NUMBER:
            return np.asarray(targets[:, 0])
        return np.asarray(targets if self.task == LABELS else self.labels[positions].astype(np.int64))

    def relative_weights(self, positions: np.ndarray) -> np.ndarray:
        """(m,) float64: how much images at (m,) positions count, 1 on average."""
        found = self.weights[positions]
        return np.asarray(found / (found.mean() if len(found) else 1))

    def label_values(self) -> list[Any]:
        """What each image is labelled with: a class name, a tuple of label names, or a number; None if nothing."""
        if self.task == LABELS:
            names = np.array(self.class_names, object)
            found: list[Any] = [tuple(names[row == 1]) for row in self.targets]
        elif self.task == NUMBER:
            found = self.targets[:, 0].tolist()
        else:
            found = [self.class_names[label] if label >= 0 else None for label in self.labels.tolist()]
        return [value if known else None for value, known in zip(found, self.labelled.tolist(), strict=True)]

    def label_texts(self) -> list[str]:
        """`label_values` as texts, "" for an image without a label."""
        return [
            ""
            if value is None
            else ", ".join(value)
            if isinstance(value, tuple)
            else f"{value:g}"
            if isinstance(value, float)
            else value
            for value in self.label_values()
        ]

    def what(self) -> str:
        """What the images are labelled with, in a few words."""
        k = len(self.class_names)
        texts = {CLASSES: f"{k} classes", LABELS: f"{k} labels", NUMBER: "".join(self.class_names), NONE: "no labels"}
        return texts[self.task]

    def summary(self) -> str:
        """What the images are labelled with, in one line: 2 classes (cats 194, dogs 204)."""
        counts = ", ".join(f"{shown(name)} {count}" for name, count in self.counts().items())
        missing = int((~self.labelled).sum()) if self.task != NONE else 0
        if self.task == NUMBER and self.labelled.any():
            numbers = self.targets[self.labelled, 0]
            counts = f"{numbers.min():g} to {numbers.max():g}, {numbers.mean():g} on average"
        without = f"; {missing} without a label" if missing else ""
        return self.what() + (f" ({counts})" if counts else "") + without

    def counts(self) -> dict[str, int]:
        """How many images each class or label has; of numbers nothing."""
        if self.task == LABELS:
            found = np.nansum(self.targets, axis=0).astype(int).tolist()
        elif self.task == CLASSES:
            found = np.bincount(self.labels[self.labelled], minlength=len(self.class_names)).tolist()
        else:
            return {}
        return dict(zip(self.class_names, found, strict=True))

    def strata(self) -> np.ndarray:
        """(n,) int64: what is to be spread evenly over the sides of a split; images without a label share one."""
        if self.task == LABELS:
            return strata_of_labels(self.targets)
        if self.task == NUMBER:
            return strata_of_numbers(self.targets[:, 0])
        return self.labels.astype(np.int64)

    def same_entries(self, other: "ImageTable") -> bool:
        """True if both name the same contents under the same paths, labels, splits, groups and weights."""
        return (
            (self.task, self.class_names) == (other.task, other.class_names)
            and np.array_equal(self.targets, other.targets, equal_nan=True)
            and np.array_equal(self.weights, other.weights)
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
        """(n,) bool, True where an entry names a class or a split that does not exist, or makes no sense."""
        wrong = (self.labels < -1) | (self.labels >= max(len(self.class_names), 1)) | (self.splits >= len(SPLITS))
        wrong |= ~(np.isfinite(self.weights) & (self.weights > 0))
        if self.task == LABELS:
            wrong |= self.labelled & ~np.isin(self.targets, (0, 1)).all(axis=1)
        elif self.task == NUMBER:
            wrong |= self.labelled & ~np.isfinite(self.targets).all(axis=1)
        elif self.task == NONE:
            wrong |= self.labelled
        return np.asarray(wrong)

    def require_shape(self) -> None:
        """Refuses a table whose parts do not go together.

        Raises:
            ValueError: They do not.
        """
        if self.task not in TASKS:
            raise ValueError(f"its task is {self.task[:40]!r}; needed: {', '.join(TASKS)}")
        k, t = len(self.class_names), self.targets.shape[1]
        wanted = {CLASSES: (k, 0), LABELS: (k, k), NUMBER: (1, 1), NONE: (0, 0)}[self.task]
        if (k, t) != wanted:
            raise ValueError(f"it has {k} names and {t} targets for the task {self.task}")

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
