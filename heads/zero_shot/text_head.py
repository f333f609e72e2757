"""Heads from texts: the names of the classes alone, and a logistic regression that starts from them."""

from collections.abc import Iterator, Sequence

import numpy as np

from onepass.features.errors import OptionError, opt
from onepass.heads.classifiers.base import Fit, Head, TrainingRows
from onepass.heads.classifiers.linear import LogisticHead
from onepass.heads.classifiers.tuning import best_trial
from onepass.heads.fitting.linear_solver import LinearFit, StartScores
from onepass.heads.fitting.pca import PrincipalComponents
from onepass.heads.fitting.temperature import best_inverse_temperature
from onepass.heads.head_options import ClassWeight, check_parameters
from onepass.heads.inference.network import DenseNetwork

CERTAINTY = 100.0
"""What CLIP multiplies a cosine with at most, and its published networks do: exp(t) of their logit_scale.

Source: A. Radford et al. (2021), Learning Transferable Visual Models From Natural Language Supervision, section 2.5.
"""


class TextHead(Head):
    """Zero-shot: the class whose name, in a text, lies nearest to the image by cosine.

    An ordinary linear layer: the column of a class is its row of `prompts.class_rows`, of length 1; there is no bias,
    and rows are not standardised. The scores of an image are its cosines to the texts times the length of its row,
    which is the same for all classes, so its label is exactly that of the cosines, and of CLIP. (SigLIP adds a
    constant to all of them, which changes no label.)

    Training images fit no weight. They say how sure it is: one temperature on their scores, which it has never seen.
    With tune="none" the scores of a row of mean length are `CERTAINTY` times the cosines. As rows differ in length,
    so does what the two make of the same cosine.

    Args:
        prompts: Templates with {} for the name of a class, see `prompts_of`; for the head file, and for `fit_on`, which
            computes `texts` by them.
        class_weight: Counts in the temperature alone; no label depends on it.
        tune, time_limit, seed: As for every `Head`; there is nothing to search.

    >>> texts, rows = np.eye(2), np.array([[0.0, 1], [2, 3], [4, 1], [5, 2]])
    >>> TextHead(tune="none").fit(rows, ["cat", "cat", "dog", "dog"], texts=texts).predict([[4.0, 1]]).tolist()
    ['cat']
    """

    kind = "text"

    def __init__(
        self,
        *,
        prompts: Sequence[str] | None = None,
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        self.prompts = prompts
        self.class_weight = class_weight
        self.tune = tune
        self.time_limit = time_limit
        self.seed = seed

    def _fit(self, rows: TrainingRows) -> Fit:
        plain, kernel = rows.x[:, 0], _kernel(rows)
        if not rows.scored.any():
            length = float(np.linalg.norm(plain, axis=1).mean())
            return Fit(_text_network(kernel * (CERTAINTY / max(length, 1e-30))))
        return Fit(_text_network(kernel), held_out=plain @ kernel)


class TextLogisticHead(LogisticHead):
    """Few-shot: logistic regression that is pulled towards the text head instead of towards nothing.

    Of n images with rows x it minimises, over what it adds to the text head at its temperature, U and b,

        sum_i loss(s_i + z_i U + b, y_i) + (|U|^2 + |b|^2) / (2 C)

    with the scores s of the text head and the standardised rows z: the penalty of `LogisticHead`, around the weights of
    the text head instead of 0. The bias is pulled too, so that C = 0 is the text head itself, and a large C is plain
    logistic regression. Tuning tries C = 0 first: where images add nothing, the text head stays. In each fold the
    temperature of s is that of the fold's own training images.

    Args:
        prompts: As for `TextHead`.
        C: Inverse strength of the pull; found by cross-validated log loss on the training rows if None, 0 among them.
        class_weight, tune, time_limit, seed: As for every `Head`.

    >>> texts, rows = np.eye(2), np.array([[0.0, 1], [2, 3], [4, 1], [5, 2]])
    >>> TextLogisticHead(C=1.0).fit(rows, ["cat", "cat", "dog", "dog"], texts=texts).predict([[4.0, 1]]).tolist()
    ['dog']
    """

    kind = "text-logreg"
    decades = (-5, 2)

    def __init__(
        self,
        *,
        prompts: Sequence[str] | None = None,
        C: float | None = None,  # noqa: N803 (scikit-learn's name)
        class_weight: ClassWeight = None,
        tune: str = "fast",
        time_limit: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(C=C, class_weight=class_weight, tune=tune, time_limit=time_limit, seed=seed)
        self.prompts = prompts

    def _check(self) -> None:
        check_parameters({**self.get_params(), "C": self.C or None})  # tuning may have found 0

    def _fit(self, rows: TrainingRows) -> Fit:
        kernel, components = _kernel(rows), rows.components
        # One column more than folds: the fit on all rows, which comes along.
        train = np.concatenate([~rows.held_out, np.ones((len(rows.y), 1), bool)], axis=1)
        start = _started(rows, kernel, train)
        strengths = (0.0, *self.strengths(thorough=rows.thorough)) if self.C is None else (float(self.C),)
        best = None
        if rows.scored.any():
            trials = self._added(components.rotated, rows, strengths, train, start)
            best = best_trial(rows, trials, criterion=rows.objective.own_loss, patience=2)
        strength, fit = best.setting if best else (self.default if self.C is None else float(self.C), None)
        kernel *= start.factors[-1]
        if strength == 0:
            network = _text_network(kernel)
        else:
            whole = StartScores(start.scores, start.factors[-1:])
            path = self._path(
                components.rotated, rows, train[:, -1:], (strength,), tolerance=1e-5, start=fit, beside=whole
            )
            ((fit,),) = path
            network = _joined(components, kernel, fit)
        return Fit(network, {"C": strength}, best.scores if best else None)

    def _added(
        self, x: np.ndarray, rows: TrainingRows, strengths: tuple[float, ...], train: np.ndarray, start: StartScores
    ) -> Iterator[tuple[tuple[float, LinearFit | None], np.ndarray]]:
        """(C and the fit on all rows, held-out scores), from strong to weak; nothing is added at C = 0."""
        plain, held = x[:: rows.views], np.zeros((len(rows.y), rows.outputs))
        for held_out, factor in zip(rows.held_out.T, start.factors, strict=False):
            held[held_out] = start.scores[:: rows.views][held_out] * factor
        above = tuple(strength for strength in strengths if strength)
        if len(above) < len(strengths):
            yield (0.0, None), held
        path = self._path(x, rows, train, above, tolerance=3e-4, beside=start)
        for strength, fits in zip(above, path, strict=True):
            scores = held.copy()
            for held_out, fit in zip(rows.held_out.T, fits, strict=False):
                scores[held_out] += fit.scores(plain[held_out])
            yield (strength, fits[-1]), scores


def _kernel(rows: TrainingRows) -> np.ndarray:
    """(d, k): the row of each class as a column."""
    if rows.texts is None:
        raise OptionError(
            "a head from texts needs the rows of the names of its classes; `train_head` computes them by "
            f"{opt.prompts}, and `fit` takes them as texts."
        )
    if rows.texts.shape != (rows.outputs, rows.x.shape[2]) or not np.isfinite(rows.texts).all():
        raise OptionError(
            f"texts are {rows.texts.shape}; needed: a finite row for each class, {(rows.outputs, rows.x.shape[2])}."
        )
    return np.array(rows.texts.T, np.float64)


def _started(rows: TrainingRows, kernel: np.ndarray, train: np.ndarray) -> StartScores:
    """The scores of the text head for all views, and its inverse temperature by the images of each problem."""
    scores = (rows.flat @ kernel).astype(np.float32)
    plain = scores[:: rows.views]
    factors = [best_inverse_temperature(plain[own], rows.y[own], rows.importance[own]) for own in train.T]
    return StartScores(scores, np.array(factors))


def _text_network(kernel: np.ndarray) -> DenseNetwork:
    d, k = kernel.shape
    return DenseNetwork(
        np.zeros(d, np.float32), np.ones(d, np.float32), (kernel.astype(np.float32),), (np.zeros(k, np.float32),)
    )


def _joined(components: PrincipalComponents, kernel: np.ndarray, fit: LinearFit) -> DenseNetwork:
    """What stands on rows, and what was fitted on standardised ones, as one layer on the latter."""
    mean, scale = components.mean.astype(np.float64), components.scale.astype(np.float64)
    joined = scale[:, None] * kernel + components.rotation[1] @ fit.weights
    bias = fit.bias + mean @ kernel
    return DenseNetwork(components.mean, components.scale, (joined.astype(np.float32),), (bias.astype(np.float32),))
