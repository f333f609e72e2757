"""Which images a fine-tuning learns from and is stopped by, and the head that it starts from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onepass.features import FeatureFile
from onepass.features.contents import seen_before
from onepass.features.errors import TrainingError
from onepass.heads.finetune.joined import require_layers
from onepass.heads.fitting.folds import FOLDS, assign_folds
from onepass.heads.fitting.temperature import best_inverse_temperature
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.saved_head import SavedHead
from onepass.heads.training import by_position, fit_on

if TYPE_CHECKING:
    from onepass.heads.classifiers.base import Head

ENOUGH = 100
"""Validation images that prove a gain of 8 points in four of five cases; fewer are joined by training images."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Positions of the images of a feature file by what they are for.

    Attributes:
        train, val: To learn from; and to choose the epoch, and decide, by.
        test: To report; the validation images where there is no test part.
        tested_on: test or val.
        drawn: Whether images of `val` were taken from the training part.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    tested_on: str
    drawn: bool

    @classmethod
    def of(cls, file: FeatureFile, *, seed: int = 0) -> "Parts":
        """The file's own parts; a fifth of the training images becomes validation where that part is missing or small.

        Small is fewer than `ENOUGH` images that share no group and no content with training images. It stays as it
        is where a fifth of the training images would not make it enough, so that none are taken for nothing.

        Raises:
            TrainingError: There are too few images for that, or a class is missing.
        """
        train, val, test = (file.rows_of(split) for split in ("train", "val", "test"))
        groups = file.group_ids()
        apart = int((~np.isin(groups[val], groups[train])).sum())
        drawn = not len(val) or apart < ENOUGH <= apart + len(train) // FOLDS
        if drawn:
            labels = file.table.labels[train].astype(np.int64)
            held_out = assign_folds(labels, groups=groups[train], seed=seed) == 0
            train, val = train[~held_out], np.sort(np.concatenate([val, train[held_out]]))
        counts = np.bincount(file.table.labels[train], minlength=len(file.class_names))
        if not len(val) or not counts.all():
            raise TrainingError(
                f"{file.path} has {len(train) + len(val)} training images, too few to keep some of each class for "
                "validation. Needed: a val folder, or two images of each class and more."
            )
        return cls(train, val, test if len(test) else val, "test" if len(test) else "val", drawn)


def start_head(saved: SavedHead, file: FeatureFile, parts: Parts) -> DenseNetwork:
    """The head that fine-tuning starts from: it has not seen the validation images.

    It is the saved head's network, or one of the same kind and settings trained without them; at the
    temperature that suits them, so that its logits are of a size that gradients can work with.

    Args:
        saved: The frozen head.
        file: Its feature file.
        parts: Of that file.

    Raises:
        OptionError: The head is not made of dense layers.
    """
    network = require_layers(saved.network)
    if seen_before(file.table.content_hashes[parts.val], saved.seen).any():
        network = require_layers(fit_on(_same_head(saved), file, parts.train).network_)
    x, y = file.read(parts.val)
    return network.scaled(best_inverse_temperature(network.scores(x), y, file.weights(parts.val)))


def _same_head(saved: SavedHead) -> "Head":
    from onepass.heads.classifiers.kinds import HEADS

    kind = HEADS[saved.kind]
    known = kind().get_params()
    values = {name: value for name, value in saved.parameters.items() if name in known}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return kind(**{**values, "tune": "none"})


def class_weights(given: ClassWeight, y: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """(k,) weights of the classes: as they occur in `y` for "balanced", by name otherwise."""
    from sklearn.utils.class_weight import compute_class_weight

    named = given if given is None or isinstance(given, str) else by_position(given, class_names, y)
    return np.asarray(compute_class_weight(named, classes=np.arange(len(class_names)), y=y), np.float64)
