"""Linear heads, logistic regression and SVM, with their strength found by cross-validation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.model_selection import StratifiedKFold

from heads.base import Head, require_positive
from heads.network import DenseNetwork, standardisation
from heads.solver import LinearFit, Loss, fit_path, log_loss, multinomial, principal_axes, squared_hinge

FOLDS = 5


@dataclass(frozen=True)
class _Trial:
    """What cross-validation says of one C: held-out loss and (n, k) scores, and the fit on all rows."""

    loss: float
    strength: float
    scores: np.ndarray
    fit: LinearFit


class _LinearHead(Head):
    """Standardise, rotate, tune C, fit, and turn the result back into one dense layer.

    A penalty on the length of the weights does not see rotations, so everything is fitted in the
    basis of the rows' principal axes: exact, and only min(n, d) wide.

    All v views of an image count, each 1/v, so that C means what it means without views. An image
    is in one fold with all its views; held-out images are scored by their plain view, because that
    is what the head will mostly be asked about.
    """

    loss: Loss
    strengths: tuple[float, ...]

    def __init__(self, *, C: float | None = None, seed: int = 0) -> None:  # noqa: N803 (scikit-learn's name)
        self.C = C
        self.seed = seed

    def _fit(self, x: np.ndarray, y: np.ndarray) -> DenseNetwork:
        require_positive(C=self.C)
        n, views, width = x.shape
        rows = x.reshape(n * views, width)
        mean, scale = standardisation(rows)
        axes, exact = principal_axes((rows - mean) / scale)
        rotated = exact.astype(np.float32)  # as precise as the rows were, and twice as fast
        strengths = self.strengths if self.C is None else (float(self.C),)
        trials = list(self._trials(rotated, y, strengths))
        best = min(trials, key=lambda trial: trial.loss) if trials else None
        self.chosen_ = {"C": best.strength if best else strengths[len(strengths) // 2]}
        everything = np.ones((n, 1), bool)
        start = best.fit if best else None
        ((fit,),) = self._path(rotated, y, everything, (self.chosen_["C"],), tolerance=1e-5, start=start)
        temperature = self._temperature(best.scores, y) if best else 1.0
        kernel, bias = axes @ fit.weights * temperature, fit.bias * temperature
        return DenseNetwork(mean, scale, (kernel.astype(np.float32),), (bias.astype(np.float32),), "softmax")

    def _trials(self, x: np.ndarray, y: np.ndarray, strengths: tuple[float, ...]) -> Iterator["_Trial"]:
        """One trial per C, from strong to weak regularisation, of (n v, r) rows and (n,) classes.

        It ends once the loss has risen twice in a row: what follows only costs time. A class of one
        image leaves nothing to hold out, and there are no trials.
        """
        count = min(FOLDS, int(np.bincount(y).min()))
        if count < 2:
            return
        # One column more than folds: the fit on all rows comes along at little cost.
        train = np.ones((len(y), count + 1), bool)
        splitter = StratifiedKFold(count, shuffle=True, random_state=self.seed)
        for fold, (_, test) in enumerate(splitter.split(y, y)):
            train[test, fold] = False
        losses: list[float] = []
        plain = x[:: len(x) // len(y)]
        path = self._path(x, y, train, strengths, tolerance=1e-3)
        for strength, fits in zip(strengths, path, strict=False):
            scores = np.empty((len(y), int(y.max()) + 1))
            for fold, fit in enumerate(fits[:-1]):
                scores[~train[:, fold]] = fit.scores(plain[~train[:, fold]])
            losses.append(self._criterion(scores, y))
            yield _Trial(losses[-1], strength, scores, fits[-1])
            if len(losses) >= 3 and losses[-1] > losses[-2] > losses[-3]:
                return

    def _path(
        self,
        x: np.ndarray,
        y: np.ndarray,
        train: np.ndarray,
        strengths: tuple[float, ...],
        *,
        tolerance: float,
        start: LinearFit | None = None,
    ) -> Iterator[list[LinearFit]]:
        """`fit_path` over (n v, r) rows, of (n,) classes and (n, f) masks, with C as scikit-learn means it."""
        views = len(x) // len(y)
        penalties = tuple(c * self._penalty_factor(y) / views for c in strengths)
        y, train = np.repeat(y, views), np.repeat(train, views, axis=0)
        return fit_path(x, y, train, penalties, type(self).loss, tolerance=tolerance, start=start)

    def _penalty_factor(self, y: np.ndarray) -> float:  # noqa: ARG002
        """What C is multiplied with for the solver, so that it means what it means in scikit-learn."""
        return 1.0

    def _criterion(self, scores: np.ndarray, y: np.ndarray) -> float:
        """What C is chosen by; lower is better."""
        return log_loss(scores, y)

    def _temperature(self, scores: np.ndarray, y: np.ndarray) -> float:  # noqa: ARG002
        """Factor on the scores that makes their softmax a probability."""
        return 1.0


class LogisticHead(_LinearHead):
    """Multinomial logistic regression with an L2 penalty.

    Args:
        C: Inverse strength of the penalty, as in scikit-learn; found by cross-validated log loss
            on the training rows if None.
        seed: Of the folds.
    """

    kind = "logreg"
    loss = staticmethod(multinomial)
    strengths = tuple(round(10.0**exponent, 9) for exponent in np.arange(-4, 2.1, 0.5).tolist())

    def _penalty_factor(self, y: np.ndarray) -> float:
        # For two classes scikit-learn penalises one column w; the softmax has -w/2 and w/2, half its square.
        return 0.5 if y.max() == 1 else 1.0


class SVMHead(_LinearHead):
    """Linear support vector machine, one against the rest, with squared hinge loss.

    Its scores become probabilities by a softmax whose temperature is fitted on held-out folds
    (Guo et al. 2017, arXiv:1706.04599).

    Args:
        C: Weight of the errors, as in scikit-learn; found by cross-validated accuracy on the
            training rows if None.
        seed: Of the folds.
    """

    kind = "svm"
    loss = staticmethod(squared_hinge)
    strengths = tuple(round(10.0**exponent, 9) for exponent in np.arange(-5, 0.6, 0.5).tolist())

    def _criterion(self, scores: np.ndarray, y: np.ndarray) -> float:
        return float((scores.argmax(axis=1) != y).mean())

    def _temperature(self, scores: np.ndarray, y: np.ndarray) -> float:
        found = minimize_scalar(lambda t: log_loss(scores * np.exp(t), y), bounds=(-5, 8), method="bounded")
        return float(np.exp(found.x))
