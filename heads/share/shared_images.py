"""What is shared of the images of a feature file: rows, labels, what a head says, and where their files lie."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from onepass.extract import stored_files
from onepass.features import CLASSES, LABELS, NUMBER, SPLITS, FeatureFile, ImageTable
from onepass.features.tables import Record
from onepass.heads.saved_head import SavedHead


@dataclass(frozen=True)
class Said:
    """What somebody says of an image.

    Attributes:
        names: Its class, or its labels.
        number: Or its number.
        confidence: Probability of the class; None for all else.
    """

    names: tuple[str, ...] = ()
    number: float | None = None
    confidence: float | None = None

    def __str__(self) -> str:
        return ", ".join(self.names) if self.number is None else f"{self.number:g}"


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The images of a feature file that have a row.

    Attributes:
        file: The feature file.
        positions: (n,) of the images in it.
        head: What predicts; None to share what is there.
        task: What labels and predictions are.
        folder: Where the images lie now, if they were moved.
    """

    file: FeatureFile
    positions: np.ndarray
    head: SavedHead | None
    task: str
    folder: Path | None

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def table(self) -> ImageTable:
        """Of these images."""
        return self.file.table.taken(self.positions)

    @property
    def splits(self) -> list[str]:
        """train, val or test of each."""
        return [SPLITS[split] for split in self.table.splits.tolist()]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of labels and predictions; a number has one name, and images without labels none."""
        known = self.head.class_names if self.head else ()
        return tuple(dict.fromkeys((*self.file.class_names, *known)))

    @cached_property
    def labels(self) -> list[Said | None]:
        """The label of each; None where there is none."""
        task, values = self.table.task, self.table.label_values()
        return [None if value is None else _said(value, task) for value in values]

    @cached_property
    def predictions(self) -> list[Said | None]:
        """What the head says of each; None without one."""
        if self.head is None:
            return [None] * len(self)
        found: list[Said | None] = []
        for rows in self.file.pieces(self.positions):
            found += [_told(self.head, one) for one in self.head.outputs(rows)]
        return found

    def files(self, tool: str) -> list[Path]:
        """Where each image lies.

        Raises:
            DataError: They have no files of their own, or are not where they were.
        """
        return stored_files(self.file, self.table.paths, data=self.folder, needed_by=tool)

    def facts(self) -> Record:
        """Where all this came from."""
        found: Record = {"features": str(self.file.path), "backbone": self.file.spec.backbone}
        return found | ({"head": str(self.head.path)} if self.head else {})


def _said(value: object, task: str) -> Said:
    if task == NUMBER:
        return Said(number=float(str(value)))
    return Said(tuple(value) if isinstance(value, tuple) else (str(value),))


def _told(head: SavedHead, outputs: np.ndarray) -> Said:
    if head.task == NUMBER:
        return Said(number=float(outputs[0]))
    if head.task == LABELS and head.thresholds is not None:
        return Said(tuple(head.class_names[i] for i in np.flatnonzero(outputs >= head.thresholds)))
    best = int(outputs.argmax())
    return Said((head.class_names[best],), confidence=float(outputs[best]))


def task_shared(file: FeatureFile, head: SavedHead | None) -> str:
    """What labels and predictions are: the head's task, or that of the file; classes where nothing is labelled."""
    if head:
        return head.task
    return file.task if file.task in (CLASSES, LABELS, NUMBER) else CLASSES
