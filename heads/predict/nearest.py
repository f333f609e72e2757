"""The training images most like an image: the plainest explanation of an answer there is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onepass.features import SPLITS, FeatureFile
from onepass.features.errors import HeadFileError, OptionError, opt
from onepass.heads.inference.neighbour_table import nearest_first, unit_length
from onepass.heads.saved_head import SavedHead


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        path: In its feature file.
        label: Its class.
        split: train, val or test of that file.
        cosine: Between its standardised row and that of the image asked about.
    """

    path: str
    label: str
    split: str
    cosine: float


def nearest_images(head: SavedHead, row: np.ndarray, file: FeatureFile, *, k: int = 5) -> list[Neighbour]:
    """The training images of a head whose rows point most nearly where a row does.

    Args:
        head: From `load_head`.
        row: (d,) of its spec.
        file: That it was trained on, or one that holds the same images; read in pieces.
        k: How many.

    Returns:
        The most alike first; fewer if the file holds fewer.

    Raises:
        OptionError: `k` is below 1.
        SpecMismatchError: The file's rows are of another spec.
        HeadFileError: The file holds none of the training images.
        FeatureFileError: A row's bytes have changed.
    """
    if k < 1:
        raise OptionError(f"{opt.k} is {k}; needed: 1 or more.")
    head.require_rows_of(file)
    trained = np.flatnonzero(head.trained_in(file))
    if not len(trained):
        raise HeadFileError(
            f"{file.path} holds none of the images that {head.path} was trained on. Give the feature file of its "
            f"training by {opt.features}."
        )
    asked = unit_length(head.network.standardised(row[None]))
    cosines = np.concatenate(
        [asked @ unit_length(head.network.standardised(rows)).T for rows in file.pieces(trained)], axis=1
    )
    order = nearest_first(cosines, min(k, len(trained)))[0]
    table = file.table
    return [
        Neighbour(table.paths[i], table.class_names[table.labels[i]], SPLITS[table.splits[i]], float(cosine))
        for i, cosine in zip(trained[order], cosines[0, order], strict=True)
    ]


def training_file(head: SavedHead) -> Path:
    """The feature file that a head was trained on.

    Raises:
        HeadFileError: It is not where it was.
    """
    path = Path(str(head.trained_on.get("features")))
    if not path.is_file():
        raise HeadFileError(
            f"{head.path} was trained on {path}, which is not there. Give the feature file by {opt.features}."
        )
    return path
