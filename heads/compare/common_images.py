"""The images that several feature files have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onepass.features import FeatureFile
from onepass.features.errors import TrainingError


@dataclass(frozen=True)
class CommonImages:
    """Images of which every one of several feature files has a row.

    Attributes:
        positions: One (n,) array per file; the same image at the same index in each.
        left_out: CommonImages of the first file that another one lacks.
    """

    positions: list[np.ndarray]
    left_out: int


def common_images(files: Sequence[FeatureFile]) -> CommonImages:
    """Matches images by path and content, so that backbones are compared on the very same ones.

    Raises:
        TrainingError: They share no image, or give one of them different classes.
    """
    known = [_positions(file) for file in files]
    first = list(known[0])
    shared = [image for image in first if all(image in there_at for there_at in known[1:])]
    if not shared:
        raise TrainingError(
            f"{files[0].path} and {files[1].path} have no image in common. Extract both from the same folder.",
            paths=tuple(file.path for file in files[:2]),
        )
    positions = [np.array([there_at[image] for image in shared], np.int64) for there_at in known]
    for file, found in zip(files[1:], positions[1:], strict=True):
        if (other := _class_mismatch(files[0], positions[0], file, found)) is not None:
            path = files[0].table.paths[positions[0][other]]
            raise TrainingError(
                f"{path} belongs to other classes in {files[0].path} and {file.path}. Extract both from one folder.",
                image=path,
                paths=(files[0].path, file.path),
            )
    return CommonImages(positions, len(first) - len(shared))


def _positions(file: FeatureFile) -> dict[tuple[str, bytes], int]:
    """(path, content) -> position of every committed image."""
    table = file.table
    return {(table.paths[i], table.content_hashes[i].tobytes()): int(i) for i in np.flatnonzero(file.committed)}


def _class_mismatch(a: FeatureFile, at: np.ndarray, b: FeatureFile, there: np.ndarray) -> int | None:
    """The first image that is labelled differently in the two files."""
    if (a.task, a.class_names) != (b.task, b.class_names):
        return 0
    left, right = a.table.taken(at).label_values(), b.table.taken(there).label_values()
    return next((i for i, (one, other) in enumerate(zip(left, right, strict=True)) if one != other), None)
