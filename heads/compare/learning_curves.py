"""Accuracy by number of training images, and the gain to expect from more of them."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from onepass.features import FeatureFile, OnepassWarning
from onepass.features.errors import TrainingError, opt
from onepass.heads.compare.candidates import Candidate
from onepass.heads.compare.resampling import Round, held_out_part
from onepass.heads.compare.run_cache import FitResult
from onepass.heads.fitting.memory import some_of
from onepass.heads.stats.power_law import Forecast, forecast_gain

SHARES = (0.1, 0.2, 0.4, 0.8, 1.0)
_REPEATS = 3


def learning_curves(
    file: FeatureFile,
    images: np.ndarray,
    candidates: Sequence[Candidate],
    run: Callable[[Candidate, Round], FitResult],
) -> dict[str, Forecast]:
    """Trains on growing parts of the training images and forecasts the gain from twice as many.

    Args:
        file: The first feature file; its labels and splits count.
        images: (n,) positions of the common images.
        candidates: Heads to train.
        run: Trains one of them in a round.

    Returns:
        Name -> its curve; those that cannot be trained on some part have none.
    """
    (whole,) = held_out_part(file, images, seeds=1).rounds
    y, shares = file.table.labels[images], growing_shares(file, images)
    found = {}
    for one in candidates:
        try:
            found[one.name] = _curve(partial(run, one), whole, y, shares)
        except TrainingError as error:
            warnings.warn(f"there is no learning curve of {one.name}: {error}", OnepassWarning, stacklevel=2)
    return found


def _curve(run: Callable[[Round], FitResult], whole: Round, y: np.ndarray, shares: Sequence[float]) -> Forecast:
    """The curve of one head, given the round with all training images and the (n,) classes of all images."""
    sizes, right = [], []
    for share in shares:
        rounds = [Round(part, whole.scored, seed) for seed, part in enumerate(nested_parts(y, whole.trained, share))]
        named = [run(at).outputs.argmax(axis=1) for at in rounds]
        sizes.append(len(rounds[0].trained))
        # All training images are one draw, which stands in each repeat.
        right.append(np.broadcast_to(np.array(named) == y[whole.scored], (_REPEATS, len(whole.scored))))
    return forecast_gain(np.array(sizes), np.stack(right, axis=1).astype(float))


def growing_shares(file: FeatureFile, images: np.ndarray) -> list[float]:
    """The shares of the training images to train on, each of which has more images than the one before.

    Args:
        file, images: As for `learning_curves`.

    Raises:
        TrainingError: Fewer than three, because every class keeps two images.
    """
    (whole,) = held_out_part(file, images, seeds=1).rounds
    y, found = file.table.labels[images], dict[int, float]()
    for share in SHARES:
        found[len(nested_parts(y, whole.trained, share)[0])] = share
    if len(found) < 3:
        raise TrainingError(
            f"{opt.learning_curve} needs three growing parts of the training images with two images of each class; "
            f"{file.path} has {len(whole.trained)} training images of {len(np.unique(y[whole.trained]))} classes. "
            "Leave it out, or add images.",
            images=len(whole.trained),
        )
    return [found[size] for size in sorted(found)]


def nested_parts(y: np.ndarray, trained: np.ndarray, share: float) -> list[np.ndarray]:
    """Stratified parts of the training images, of which a larger share contains the smaller ones.

    Args:
        y: (n,) classes of all images.
        trained: (m,) indices of the training images.
        share: 0 < share <= 1; every class keeps two images, or all it has.

    Returns:
        A few draws, sorted indices each; all training images once for a share of 1.
    """
    if share == 1:
        return [trained]
    count = round(share * len(trained))
    return [some_of(trained, y[trained], count, seed=seed) for seed in range(_REPEATS)]
