"""What is wrong with a data set, as far as its rows tell: copies, labels, outliers, unreadable images."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.features import SPLITS, DuplicateGroup, FeatureFile, SkippedImage, find_duplicates
from onepass.features.errors import FeatureFileError, OptionError
from onepass.heads.audit.findings import LabelError, NearDuplicate, Outlier, Place
from onepass.heads.audit.outliers import find_outliers
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.near_duplicates import connected, near_duplicates, threshold_for


@dataclass(frozen=True)
class Inspection:
    """Everything found, each list with the surest first.

    Attributes:
        path: The feature file.
        counts: Split -> class -> images with a row.
        pending: Images that have no row yet.
        unreadable: Images without a row, with the reason.
        copies: Images that are exact copies of each other.
        near_duplicates: Pairs that are nearly the same picture, exact copies not counted.
        threshold: Lowest cosine of such a pair.
        label_errors: None if labels were not looked at.
        labels_by: What decided on labels: "cleanlab" or "confidence", or why they were not looked at.
        outliers: Images unlike all others.
    """

    path: Path
    counts: dict[str, dict[str, int]]
    pending: int
    unreadable: list[SkippedImage]
    copies: list[DuplicateGroup]
    near_duplicates: list[NearDuplicate]
    threshold: float
    label_errors: list[LabelError] | None
    labels_by: str
    outliers: list[Outlier]

    @property
    def imbalance(self) -> float:
        """Images of the largest class per image of the smallest, over all splits."""
        sizes = np.sum([list(counts.values()) for counts in self.counts.values()], axis=0)
        return float(sizes.max() / max(int(sizes.min()), 1))

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path), "imbalance": round(self.imbalance, 3)}

    def __str__(self) -> str:
        from onepass.heads.audit.report import describe

        return describe(self)

    def findings(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """(kind, path, split, class, other path or suggested class or reason, value) of everything found.

        The value is the cosine of near duplicates, the probability of the label that an image has, and
        the score of outliers.
        """
        for skipped in self.unreadable:
            yield "unreadable", skipped.path, "", "", skipped.reason, ""
        for group in self.copies:
            for path in group.paths[1:]:
                yield "copy", path, "+".join(group.splits), "+".join(group.classes), group.paths[0], "1"
        for pair in self.near_duplicates:
            yield "near duplicate", *_cells(pair.image), pair.other.path, f"{pair.cosine:.4f}"
        for error in self.label_errors or []:
            yield "label", *_cells(error.image), error.suggested, f"{error.confidence:.4f}"
        for outlier in self.outliers:
            yield "outlier", *_cells(outlier.image), "", f"{outlier.score:.2f}"

    def write_csv(self, path: str | Path) -> None:
        """Writes one line per finding, see `findings`.

        Raises:
            OptionError: The file exists already or cannot be written.
        """
        try:
            with open(path, "x", newline="", encoding="utf-8", errors="surrogateescape") as file:
                table = csv.writer(file)
                table.writerow(["kind", "path", "split", "class", "other", "value"])
                table.writerows(self.findings())
        except FileExistsError:
            raise OptionError(f"{path} exists and is not overwritten. Choose another name, or delete it.") from None
        except OSError as error:
            raise OptionError(f"cannot write {path}: {error.strerror}. Choose another place.") from None


@one_blas_thread
def inspect(features: str | Path | FeatureFile, *, labels: bool = True, threshold: float | None = None) -> Inspection:
    """Looks a data set over by the rows of its feature file: all images that have a row, of all splits.

    Args:
        features: The feature file, or its path.
        labels: Whether to look for wrong labels; it trains heads, which takes seconds to minutes.
        threshold: Lowest cosine of near duplicates; by default `threshold_for` the file's rows.

    Raises:
        FeatureFileError: The file cannot be read, or has no rows yet.
    """
    if not isinstance(features, FeatureFile):
        with FeatureFile(features) as file:
            return inspect(file, labels=labels, threshold=threshold)
    file, table = features, features.table
    positions = np.flatnonzero(file.committed)
    if len(positions) == 0:
        raise FeatureFileError(f"{file.path} holds no rows yet. Run the same extract command again to fill it.")
    x, y = file.read(positions)
    least = threshold_for(file.spec) if threshold is None else threshold
    pairs = near_duplicates(x, threshold=least, contents=table.content_hashes[positions])
    places = [Place(table.paths[i], SPLITS[table.splits[i]], table.class_names[table.labels[i]]) for i in positions]
    errors, labels_by = None, "labels were not asked for"
    if labels:
        groups = connected(len(positions), np.concatenate([pairs.positions, _kept_together(file, positions)]))
        errors, labels_by = _label_errors(x, y, groups, places, file.class_names)
    far = find_outliers(x, table.splits[positions] == SPLITS.index("train"))
    return Inspection(
        path=file.path,
        counts=_counts(places, file.class_names),
        pending=len(file.pending()),
        unreadable=file.skipped,
        copies=find_duplicates(file),
        near_duplicates=[
            NearDuplicate(places[i], places[j], float(cosine))
            for (i, j), cosine in zip(pairs.positions.tolist(), pairs.cosines, strict=True)
        ],
        threshold=least,
        label_errors=errors,
        labels_by=labels_by,
        outliers=[Outlier(places[i], float(distance), float(score)) for i, distance, score in zip(*far, strict=True)],
    )


def _label_errors(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, places: list[Place], class_names: Sequence[str]
) -> tuple[list[LabelError] | None, str]:
    """Wrong labels, and what decided on them."""
    from onepass.heads.audit.label_errors import cleanlab_installed, out_of_fold, suspects

    present, labels = np.unique(y, return_inverse=True)
    if len(present) < 2:
        return None, "there is only one class"
    probabilities = out_of_fold(x, labels, groups)
    cleanlab = cleanlab_installed()
    found = suspects(probabilities, labels, cleanlab=cleanlab)
    errors = [
        LabelError(
            image=places[i],
            suggested=class_names[present[suggested]],
            confidence=float(probabilities[i, labels[i]]),
            suggested_confidence=float(probabilities[i, suggested]),
        )
        for i, suggested in zip(*found, strict=True)
    ]
    return errors, "cleanlab" if cleanlab else "confidence"


def _kept_together(file: FeatureFile, positions: np.ndarray) -> np.ndarray:
    """(m, 2) places in `positions`: each image of a group or an exact copy, with the first of its kind."""
    _, first, member = np.unique(file.table.group_ids()[positions], return_index=True, return_inverse=True)
    return np.stack([first[member], np.arange(len(positions))], axis=1)


def _counts(places: list[Place], class_names: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = {split: dict.fromkeys(class_names, 0) for split in SPLITS if any(p.split == split for p in places)}
    for place in places:
        counts[place.split][place.label] += 1
    return counts


def _cells(image: Place) -> tuple[str, str, str]:
    return image.path, image.split, image.label
