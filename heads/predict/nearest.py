"""The training images most like an image: the plainest explanation of a prediction."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Unpack, overload

import numpy as np

from onepass.extract import backbone_of_file, check_running
from onepass.features import SPLITS, FeatureFile
from onepass.features.errors import HeadFileError, OnepassWarning, OptionError, UnreadableImageError, opt
from onepass.features.names import shown
from onepass.features.tables import Record, command_line, fitted_table, html_table
from onepass.heads.inference.neighbour_table import nearest_first, unit_length
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.predict.classify import BackboneOptions, describe_classifier
from onepass.heads.saved_head import SavedHead


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        path: In its feature file.
        label: Its class, its labels, or its number.
        split: train, val or test of that file.
        cosine: Between its standardised row and that of the image asked about.
    """

    path: str
    label: str
    split: str
    cosine: float


@dataclass(frozen=True)
class Nearest(Sequence[Neighbour]):
    """Training images, the most alike first.

    Attributes:
        image: What they are like.
        neighbours: At most as many as were asked for.
        features: The feature file that they are in.
        by: Feature file and backbone whose rows were compared, where these are not the model's own; else "".
    """

    image: str
    neighbours: list[Neighbour]
    features: str = ""
    by: str = ""

    @overload
    def __getitem__(self, place: int) -> Neighbour: ...
    @overload
    def __getitem__(self, place: slice) -> list[Neighbour]: ...
    def __getitem__(self, place: int | slice) -> Neighbour | list[Neighbour]:
        return self.neighbours[place]

    def __len__(self) -> int:
        return len(self.neighbours)

    def _rows(self) -> list[list[str]]:
        lines = [[one.path, one.label, one.split, f"{one.cosine:.3f}"] for one in self]
        return [["image", "class", "split", "cosine"], *lines]

    def __str__(self) -> str:
        return "\n".join([fitted_table(self._rows()), *([f"by the rows of {shown(self.by)}"] if self.by else [])])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=f"most like {self.image}")

    @property
    def next_command(self) -> str:
        """What to do next, as it is typed: look for what is wrong with the images."""
        return command_line("onepass", "inspect", Path(self.features)) if self.features else ""

    def record(self) -> list[Record]:
        """The same as plain values, for JSON."""
        return [asdict(one) for one in self]


def nearest(
    head: str | Path | SavedHead,
    image: str | Path,
    *,
    k: int = 5,
    features: str | Path | None = None,
    **options: Unpack[BackboneOptions],
) -> Nearest:
    """Names the training images that are most like an image.

    Of a fine-tuned or exported model no rows of the training images are kept; images are compared by the rows that its
    training began with, or by those of `features`: extracted with the model itself as backbone, they show its own view.

    Args:
        head: Head file, model that `fine_tune` or `export` wrote, its certificate, or what `load_head` returned.
        image: Image file.
        k: How many to name.
        features: Feature file of the training, if it is not where it was.
        **options: See `BackboneOptions`.

    Raises:
        UnreadableImageError: The image cannot be read.
        HeadFileError: It is no head, or its feature file is not where it was.
        UserError: As `nearest_images` and `SavedHead.load_backbone`.

    >>> from onepass import nearest, train_head
    >>> trained = train_head("pets.mine.h5", out="pets.head")
    >>> print(nearest("pets.head", "more/0.png", k=1))
    image       class  split  cosine
    dogs/0.png  dogs   train  1.000
    """
    _require_count(k)
    check_running(engine=options.get("engine"), weights=options.get("weights"))
    if not Path(image).is_file():
        raise UnreadableImageError(f"{image} cannot be read: no such file or directory", path=image)
    saved = describe_classifier(head)
    with FeatureFile(features or training_file(saved)) as file:
        if not saved.is_whole:
            row = saved.load_backbone(**options).rows_of([image])[0]
            return Nearest(str(image), nearest_images(saved, row, file, k=k), str(file.path))
        backbone = backbone_of_file(file, weights=options.get("weights"), engine=options.get("engine", "auto"))
        row = backbone.rows_of([image])[0]
        found = nearest_images(_on_rows_of(saved, file), row, file, k=k)
        return Nearest(str(image), found, str(file.path), by=f"{file.path}, {file.spec.backbone}")


def _on_rows_of(model: SavedHead, file: FeatureFile) -> SavedHead:
    """A whole model as a head on the rows of a feature file, standardised over its training images there."""
    n, total, squares = 0, np.zeros(file.spec.width), np.zeros(file.spec.width)
    for rows in file.pieces(np.flatnonzero(model.trained_in(file))):
        n += len(rows)
        total += rows.sum(axis=0, dtype=np.float64)
        squares += np.square(rows, dtype=np.float64).sum(axis=0)
    mean = total / max(n, 1)
    scale = np.sqrt(np.maximum(squares / max(n, 1) - np.square(mean), 0))
    network = replace(
        DenseNetwork.identity(file.spec.width),
        mean=mean.astype(np.float32),
        scale=np.where(scale > 0, scale, 1).astype(np.float32),
    )
    return replace(model, network=network, spec=file.spec)


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

    Warns:
        OnepassWarning: Images have no row yet, or have lost it, and are not among those compared.
    """
    _require_count(k)
    head.require_rows_of(file)
    if lacking := len(file.pending()):
        warnings.warn(
            f"{file.path} is not complete: {lacking} of {len(file)} images have no row and are not compared. Run the "
            "same extract command again to finish it.",
            OnepassWarning,
            stacklevel=2,
        )
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
    table, labels = file.table, file.table.label_texts()
    return [
        Neighbour(table.paths[i], labels[i], SPLITS[table.splits[i]], float(cosine))
        for i, cosine in zip(trained[order], cosines[0, order], strict=True)
    ]


def _require_count(k: int) -> None:
    if k < 1:
        raise OptionError(f"{opt.k} is {k}; needed: 1 or more.", k=k)


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
