"""Finds errors in a data set from its rows: copies, suspicious labels, outliers, unreadable images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onepass.features import CLASSES, LABELS, NONE, SPLITS, FeatureFile, ImageTable, find_duplicates, only_feature_file
from onepass.features.copies import near_duplicates, threshold_for
from onepass.features.errors import FeatureFileError, TrainingError
from onepass.features.groups import Groups
from onepass.features.moments import all_equal
from onepass.features.progress import phase
from onepass.heads.audit.outliers import find_outliers
from onepass.heads.audit.report import (
    InspectedImage,
    Inspection,
    LabelError,
    NearDuplicate,
    Outlier,
    SurprisingNumber,
)
from onepass.heads.fitting.blas import one_blas_thread


@one_blas_thread
def inspect(
    features: str | Path | FeatureFile | None = None, *, labels: bool = True, threshold: float | None = None
) -> Inspection:
    """Finds what is probably wrong with a data set: copies, suspicious labels, outliers and unreadable images.

    All images that have a row are examined, of all splits.

    >>> print(inspect("photos.h5", labels=False))
    photos.h5: 120 images, 3 classes, the largest 1.0 times the smallest
    ...
    exact copies: none
    ...

    Args:
        features: The feature file, or its path; by default the one in the current folder.
        labels: Whether to look for wrong labels, for which heads are trained; this takes seconds to minutes.
        threshold: Lowest cosine of near duplicates; by default `threshold_for` the file's rows.

    Raises:
        FeatureFileError: The file cannot be read, or has no rows yet.
    """
    if not isinstance(features, FeatureFile):
        with FeatureFile(only_feature_file() if features is None else features) as file:
            return inspect(file, labels=labels, threshold=threshold)
    file, table = features, features.table
    positions, texts = np.flatnonzero(file.committed), table.label_texts()
    if len(positions) == 0:
        raise FeatureFileError(
            f"{file.path} holds no rows yet. Run the same extract command again to fill it.", path=file.path
        )
    x, y = file.read(positions)
    least = threshold_for(file.spec) if threshold is None else threshold
    with phase("searching for copies"):
        pairs = near_duplicates(
            x, file.thumbnails[positions], threshold=least, contents=table.content_hashes[positions]
        )
    images = [InspectedImage(table.paths[i], SPLITS[table.splits[i]], texts[i]) for i in positions]
    errors: Sequence[LabelError | SurprisingNumber] | None = None
    labels_by = "there are none" if file.task == NONE else "labels were not asked for"
    if labels and file.task != NONE:
        groups = Groups(len(positions))
        groups.join(*pairs.positions.T)
        groups.join_equal(table.group_ids()[positions])
        with phase("looking for wrong labels"):
            known = np.flatnonzero(table.labelled[positions])
            some = [images[i] for i in known]
            if file.task == CLASSES:
                errors, labels_by = _label_errors(x[known], y[known], groups.of[known], some, file.class_names)
            else:
                errors, labels_by = _surprises(file, positions[known], x[known], groups.of[known], some)
    with phase("looking for outliers"):
        far = find_outliers(x, table.splits[positions] == SPLITS.index("train"))
    return Inspection(
        path=file.path,
        counts=_counts(table, positions),
        examined=len(positions),
        what=table.what(),
        pending=len(file.pending()),
        equal_rows=len(x) > 1 and all_equal([x]),
        unreadable=file.skipped,
        copies=find_duplicates(file),
        near_duplicates=[
            NearDuplicate(images[i], images[j], float(cosine), "rows" if rows else "thumbnails")
            for (i, j), cosine, rows in zip(pairs.positions.tolist(), pairs.cosines, pairs.by_rows, strict=True)
        ],
        threshold=least,
        label_errors=errors,
        labels_by=labels_by,
        outliers=[Outlier(images[i], float(distance), float(score)) for i, distance, score in zip(*far, strict=True)],
    )


def _surprises(
    file: FeatureFile, positions: np.ndarray, x: np.ndarray, groups: np.ndarray, images: list[InspectedImage]
) -> tuple[Sequence[LabelError | SurprisingNumber] | None, str]:
    """Labels or numbers worth a look, and how they were decided on."""
    from onepass.heads.audit.surprises import Labelled, surprising_labels, surprising_numbers

    given = Labelled(x, file.wanted(positions), groups, images)
    try:
        if file.task == LABELS:
            return surprising_labels(given, file.class_names), "confident learning"
        return surprising_numbers(given), "robust deviations"
    except (TrainingError, ValueError) as error:
        return None, str(error)


def _label_errors(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, images: list[InspectedImage], class_names: Sequence[str]
) -> tuple[list[LabelError] | None, str]:
    """Labels worth a look, and how they were decided on."""
    from onepass.heads.audit.label_errors import nearest_labels, out_of_fold, suspects

    present, labels = np.unique(y, return_inverse=True)
    if len(present) < 2:
        return None, "there is only one class"
    try:
        probabilities = out_of_fold(x, labels, groups)
    except TrainingError as error:
        return None, str(error)
    found = suspects(probabilities, labels)
    errors = [
        LabelError(
            image=images[i],
            suggested=class_names[present[suggested]],
            confidence=float(probabilities[i, labels[i]]),
            suggested_confidence=float(probabilities[i, suggested]),
            nearest=len(nearest),
            nearest_suggested=int((nearest == suggested).sum()),
            nearest_own=int((nearest == labels[i]).sum()),
        )
        for i, suggested, nearest in zip(*found, nearest_labels(x, labels, groups, found.positions), strict=True)
    ]
    return errors, "confident learning"


def _counts(table: ImageTable, positions: np.ndarray) -> dict[str, dict[str, int]]:
    """Split -> class or label -> images; of numbers, and of no labels, how many images there are."""
    parts = {split: positions[table.splits[positions] == i] for i, split in enumerate(SPLITS)}
    found = {split: (table.taken(part), len(part)) for split, part in parts.items() if len(part)}
    return {split: some.counts() or {"images": count} for split, (some, count) in found.items()}
