"""Accuracy or error by number of training images, and the gain to expect from more of them."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onepass.features import CLASSES, LABELS, NUMBER, FeatureFile, OnepassWarning
from onepass.features.errors import TrainingError, opt
from onepass.heads.compare.candidates import Candidate
from onepass.heads.compare.resampling import Round, held_out_part
from onepass.heads.compare.run_cache import FitResult
from onepass.heads.fitting.memory import some_of
from onepass.heads.stats.power_law import Forecast, forecast_error, forecast_gain

SHARES = (0.1, 0.2, 0.4, 0.8, 1.0)
_REPEATS = 3


def learning_curves(
    file: FeatureFile,
    images: np.ndarray,
    candidates: Sequence[Candidate],
    run: Callable[[Candidate, Round], FitResult],
) -> dict[str, Forecast]:
    """Trains on growing parts of the training images and forecasts the gain from twice as many.

    Of classes the curve is that of the accuracy, of several labels that of the share of all labels that are named or
    left out rightly, and of numbers that of the mean absolute error.

    Args:
        file: The first feature file; its labels and splits count.
        images: (n,) positions of the common images.
        candidates: Heads to train.
        run: Trains one of them in a round.

    Returns:
        Name -> its curve; those that cannot be trained on some part have none.
    """
    (whole,) = held_out_part(file, images, seeds=1).rounds
    shares, found = growing_shares(file, images), {}
    curve = partial(_curve, whole=whole, strata=file.table.strata()[images], shares=shares)
    y = file.wanted(images[whole.scored])
    for one in candidates:
        try:
            found[one.name] = _FORECASTS[file.task](*curve(partial(run, one), judge=partial(_JUDGES[file.task], y)))
        except TrainingError as error:
            warnings.warn(f"there is no learning curve of {one.name}: {error}", OnepassWarning, stacklevel=2)
    return found


def _curve(
    run: Callable[[Round], FitResult],
    *,
    judge: Callable[[FitResult], np.ndarray],
    whole: Round,
    strata: np.ndarray,
    shares: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and (repeats, sizes, n) judgements of one head, given the round with all training images."""
    sizes, judged = [], []
    for share in shares:
        parts = nested_parts(strata, whole.trained, share)
        rounds = [Round(part, whole.scored, seed) for seed, part in enumerate(parts)]
        found = [judge(run(at)) for at in rounds]
        sizes.append(len(rounds[0].trained))
        # All training images are one draw, which stands in each repeat.
        judged.append(np.broadcast_to(np.array(found, np.float64), (_REPEATS, len(whole.scored))))
    return np.array(sizes), np.stack(judged, axis=1)


_JUDGES: dict[str, Callable[[np.ndarray, FitResult], np.ndarray]] = {
    CLASSES: lambda y, result: result.outputs.argmax(axis=1) == y,
    LABELS: lambda y, result: ((result.outputs >= result.thresholds) == (y == 1)).mean(axis=1),
    NUMBER: lambda y, result: np.abs(result.outputs[:, 0] - y),
}
"""Task -> what is true of (n,) images and a result -> (n,) right answers, shares of them, or absolute errors."""

_FORECASTS: dict[str, Callable[[np.ndarray, np.ndarray], Forecast]] = {
    CLASSES: forecast_gain,
    LABELS: lambda sizes, right: replace(forecast_gain(sizes, right), score="share of labels right"),
    NUMBER: forecast_error,
}


def growing_shares(file: FeatureFile, images: np.ndarray) -> list[float]:
    """The shares of the training images to train on, each of which has more images than the one before.

    Args:
        file, images: As for `learning_curves`.

    Raises:
        TrainingError: Fewer than three, because every class keeps two images.
    """
    (whole,) = held_out_part(file, images, seeds=1).rounds
    strata, found = file.table.strata()[images], dict[int, float]()
    for share in SHARES:
        found[len(nested_parts(strata, whole.trained, share)[0])] = share
    if len(found) < 3:
        each, several = _STRATA[file.task]
        raise TrainingError(
            f"{opt.learning_curve} needs three growing parts of the training images with two images of each {each}; "
            f"{file.path} has {len(whole.trained)} training images of {len(np.unique(strata[whole.trained]))} "
            f"{several}. Leave it out, or add images.",
            images=len(whole.trained),
        )
    return [found[size] for size in sorted(found)]


_STRATA = {
    CLASSES: ("class", "classes"),
    LABELS: ("rarest label", "rarest labels"),
    NUMBER: ("tenth of the numbers", "tenths"),
}
"""Task -> what an image is counted by, one and several."""


def nested_parts(y: np.ndarray, trained: np.ndarray, share: float) -> list[np.ndarray]:
    """Stratified parts of the training images, of which a larger share contains the smaller ones.

    Args:
        y: (n,) classes of all images; or what else is to have its share.
        trained: (m,) indices of the training images.
        share: 0 < share <= 1; every class keeps two images, or all it has.

    Returns:
        A few draws, sorted indices each; all training images once for a share of 1.
    """
    if share == 1:
        return [trained]
    count = round(share * len(trained))
    return [some_of(trained, y[trained], count, seed=seed) for seed in range(_REPEATS)]
