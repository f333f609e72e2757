"""Linear heads, logistic regression and SVM, with their strength found by cross-validation."""

from collections.abc import Iterator

import numpy as np

from onepass.features import LABELS
from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.fitting.linear_solver import (
    LinearFit,
    Loss,
    Problems,
    StartScores,
    fit_path,
    logistic,
    multinomial,
    squared_hinge,
)
from onepass.heads.head_options import ClassWeight
from onepass.heads.inference.network import DenseNetwork


class _LinearHead(Head):
    """Standardise, rotate, tune C, fit, and turn the result back into one dense layer.

    All v views of an image count, each 1/v, so that C means what it means without views. An image
    is in one fold with all its views; held-out images are scored by their plain view, because that
    is what the head will mostly predict.
    """

    loss: Loss
    of_labels: Loss
    """The same of several labels per image."""
    logarithmic = False
    """Whether scores are log probabilities as they stand; a temperature would hide that a weak penalty overfits."""
    default: float
    """C where nothing is tuned."""
    decades: tuple[float, float]
    """log10 of the smallest and the largest C that tuning tries."""

    def __init__(
        self,
        *,
        C: float | None = None,  # noqa: N803 (scikit-learn's name)
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
        task: str = "classes",
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed
        self.task = task

    @classmethod
    def strengths(cls, *, thorough: bool = False) -> tuple[float, ...]:
        """The values of C that tuning tries: two a decade, or four."""
        exponents = np.arange(cls.decades[0], cls.decades[1] + 0.01, 0.25 if thorough else 0.5)
        return tuple(round(10.0**exponent, 9) for exponent in exponents.tolist())

    def _fit(self, rows: TrainingRows) -> Fit:
        components = rows.components
        strengths = self.strengths(thorough=rows.thorough) if self.C is None else (float(self.C),)
        best = None
        if rows.scored.any():
            best = best_trial(
                rows,
                self._trials(components.rotated, rows, strengths),
                criterion=rows.objective.own_loss if self.logarithmic else None,
                patience=2,
            )
        strength, start = best.setting if best else (self.C or self.default, None)
        everything = np.ones((len(rows.y), 1))
        ((fit,),) = self._path(components.rotated, rows, everything, (strength,), tolerance=1e-5, start=start)
        network = DenseNetwork(
            components.mean,
            components.scale,
            ((components.rotation[1] @ fit.weights).astype(np.float32),),
            (fit.bias.astype(np.float32),),
            rows.objective.output,
        )
        return Fit(network, {"C": strength}, best.scores if best else None)

    def _trials(
        self, x: np.ndarray, rows: TrainingRows, strengths: tuple[float, ...]
    ) -> Iterator[tuple[tuple[float, LinearFit], np.ndarray]]:
        """(C and the fit on all rows, held-out scores) for (n v, r) rows, from strong to weak regularisation."""
        # One column more than folds: the fit on all rows comes along at little cost.
        train = np.concatenate([~rows.held_out, np.ones((len(rows.y), 1), bool)], axis=1)
        plain = x[:: rows.views]
        path = self._path(x, rows, train, strengths, tolerance=3e-4)
        for strength, fits in zip(strengths, path, strict=True):
            scores = np.empty((len(rows.y), rows.outputs))
            for held_out, fit in zip(rows.held_out.T, fits, strict=False):
                scores[held_out] = fit.scores(plain[held_out])
            yield (strength, fits[-1]), scores

    def _path(
        self,
        x: np.ndarray,
        rows: TrainingRows,
        train: np.ndarray,
        strengths: tuple[float, ...],
        *,
        tolerance: float,
        start: LinearFit | None = None,
        beside: StartScores | None = None,
    ) -> Iterator[list[LinearFit]]:
        """`fit_path` over (n v, r) rows, of (n, f) shares in f problems, with C as scikit-learn means it."""
        penalties = tuple(c * self._penalty_factor(rows) / rows.views for c in strengths)
        weighted = train * rows.importance[:, None]
        y, weighted = np.repeat(rows.y, rows.views, axis=0), np.repeat(weighted, rows.views, axis=0)
        loss = type(self).of_labels if rows.objective.task == LABELS else type(self).loss
        return fit_path(Problems(x, y, weighted, loss, beside), penalties, tolerance=tolerance, start=start)

    def _penalty_factor(self, rows: TrainingRows) -> float:  # noqa: ARG002
        """What C is multiplied with for the solver, so that it means what it means in scikit-learn."""
        return 1.0


class LogisticHead(_LinearHead):
    """Multinomial logistic regression with an L2 penalty.

    Args:
        C: Inverse strength of the penalty, as in scikit-learn; found by cross-validated log loss
            on the training rows if None.
        class_weight, tune, time_limit, seed, task: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> LogisticHead(C=1.0).fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "logreg"
    loss, of_labels = multinomial, logistic
    logarithmic = True
    default = 1e-2
    decades = (-4, 2)

    def _penalty_factor(self, rows: TrainingRows) -> float:
        # For two classes scikit-learn penalises one column w; the softmax has -w/2 and w/2, half its square.
        return 0.5 if rows.outputs == 2 and rows.objective.task != LABELS else 1.0


class SVMHead(_LinearHead):
    """Linear support vector machine, one against the rest, with squared hinge loss.

    Args:
        C: Weight of the errors, as in scikit-learn; found by cross-validation on the training rows if None.
        class_weight, tune, time_limit, seed, task: As for every `Head`.

    >>> rows, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), ["cat", "cat", "dog", "dog"]
    >>> SVMHead(C=1.0).fit(rows, labels).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "svm"
    loss = of_labels = squared_hinge
    default = 1e-3
    decades = (-5, 0.5)
