"""The images that heads are trained and scored on in a comparison: one held-out part, or repeated folds."""

import re
from dataclasses import dataclass

import numpy as np

from onepass.features import NUMBER, FeatureFile
from onepass.features.errors import OptionError, TrainingError, opt
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.training import training_parts


@dataclass(frozen=True)
class Round:
    """One training and one test, the same for all candidates.

    Attributes:
        trained: (m,) indices into the common images.
        scored: (n,) indices of the images to score.
        seed: Of the heads.
    """

    trained: np.ndarray
    scored: np.ndarray
    seed: int


@dataclass(frozen=True)
class Rounds:
    """All rounds of a comparison.

    Attributes:
        rounds: Each with other folds or another seed.
        folds: Per repeat; 0 for one held-out part.
        measured_on: In words.
        copies: (n,) bool for one held-out part: images that are copies of training images.
    """

    rounds: list[Round]
    folds: int
    measured_on: str
    copies: np.ndarray

    @property
    def test_share(self) -> float:
        return 1 / self.folds

    @property
    def images(self) -> int:
        """How many are scored, each counted once."""
        first = self.rounds[0]
        return len(first.scored) + (len(first.trained) if self.folds else 0)


def held_out_part(file: FeatureFile, images: np.ndarray, *, seeds: int) -> Rounds:
    """Trains on the training part and scores on the test part (or val where there is none), once per seed."""
    trained, scored, name = training_parts(file)
    trained, scored = _indices(images, trained), _indices(images, scored)
    if not len(trained) or not len(scored):
        raise TrainingError("the feature files share no training image or no test image. Extract them from one folder.")
    copies = file.leaked(images[scored], images[trained])
    words = f"{name}, n={len(scored)}" + (f", {seeds} seeds" if seeds > 1 else "")
    return Rounds([Round(trained, scored, seed) for seed in range(seeds)], 0, words, copies)


def repeated_folds(file: FeatureFile, images: np.ndarray, *, cv: str) -> Rounds:
    """Folds of all images outside the test part, dealt anew for each repeat; groups and near copies stay in one fold.

    Args:
        file: The first feature file.
        images: (n,) positions of the common images.
        cv: FOLDSxREPEATS, such as 5x2: five folds, twice.

    Raises:
        OptionError: `cv` has another form.
        TrainingError: A class is too small for folds.
    """
    folds, repeats = folds_and_repeats(cv)
    table = file.table
    usable = np.flatnonzero((table.splits[images] != 2) & table.labelled[images])
    y = np.unique(table.strata()[images[usable]], return_inverse=True)[1]
    groups = file.group_ids()[images[usable]]
    rounds = []
    for seed in range(repeats):
        fold_of = assign_folds(y, groups=groups, folds=folds, seed=seed, rare=file.task == NUMBER)
        for fold in range(folds):
            if not (fold_of == fold).any():
                raise TrainingError(
                    f"{len(usable)} images outside the test part are too few for {folds} folds. "
                    f"Ask for fewer by {opt.cv}.",
                    images=len(usable),
                    folds=folds,
                )
            rounds.append(Round(usable[fold_of != fold], usable[fold_of == fold], seed))
    words = f"{folds} folds x {repeats} of {len(usable)} images outside the test part"
    return Rounds(rounds, folds, words, np.zeros(len(images), bool))


def folds_and_repeats(cv: str) -> tuple[int, int]:
    """Folds and repeats from text.

    >>> folds_and_repeats("5x2")
    (5, 2)

    Raises:
        OptionError: It has another form, or more than 1000 of either.
    """
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", cv, re.ASCII)
    if not found or not (2 <= int(found[1]) <= 1000 and 1 <= int(found[2]) <= 1000):
        raise OptionError(f"{opt.cv} is {cv!r}; needed: folds x repeats, such as 5x2 for five folds, twice.", cv=cv)
    return int(found[1]), int(found[2])


def _indices(images: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Indices into the common images of those at the given positions of a file; others are left out."""
    return np.flatnonzero(np.isin(images, positions))
