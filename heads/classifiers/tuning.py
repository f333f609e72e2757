"""Chooses a head's settings by their loss on held-out rows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from onepass.heads.classifiers.base import TrainingRows

Tried = TypeVar("Tried")
Criterion = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""(m, k) held-out scores, (m,) classes, (m,) weights -> a number, the lower the better."""


@dataclass(frozen=True)
class Trial(Generic[Tried]):
    """Held-out scores of one setting.

    Attributes:
        setting: What was tried.
        scores: (n, k) held-out scores; undefined where no fold holds an image out.
        loss: The criterion on them.
    """

    setting: Tried
    scores: np.ndarray
    loss: float


def best_trial(
    rows: TrainingRows,
    trials: Iterable[tuple[Tried, np.ndarray]],
    *,
    criterion: Criterion | None = None,
    patience: int | None = None,
) -> Trial[Tried]:
    """Goes through settings until time is up and returns the best; the first of equals.

    Args:
        rows: Of which the trials are; its deadline counts, but one setting is always tried.
        trials: Settings with their (n, k) held-out scores, computed when they are needed.
        criterion: What decides; by default the loss of the objective. For classes that is the calibrated log loss:
            finer than counting errors, and it does not depend on the size of the scores, which the temperature
            corrects.
        patience: Ends after so many settings that were no better than the best before them; for paths
            from strong to weak regularisation, where what follows only costs time.
    """
    scored = rows.scored
    y, importance = rows.y[scored], rows.importance[scored]
    criterion = criterion or rows.objective.loss
    best: Trial[Tried] | None = None
    in_vain = 0
    for setting, scores in trials:
        trial = Trial(setting, scores, criterion(scores[scored], y, importance))
        if best is None or trial.loss < best.loss:
            best, in_vain = trial, 0
        else:
            in_vain += 1
        if rows.late() or in_vain == patience:
            break
    if best is None:
        raise ValueError("there are no settings to try")
    return best
