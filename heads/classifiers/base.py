"""The base of all heads: scikit-learn's interface, tuning on folds and calibration, around plain arrays."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from onepass.features import CLASSES, LABELS, NUMBER
from onepass.features.errors import OptionError, TrainingError, opt
from onepass.features.moments import all_equal
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.folds import assign_folds, fold_masks
from onepass.heads.fitting.pca import PrincipalComponents, SharedComponents
from onepass.heads.head_options import ClassWeight, check_parameters
from onepass.heads.inference.history import History
from onepass.heads.inference.network import Network
from onepass.heads.tasks.labels import Labels, best_thresholds
from onepass.heads.tasks.numbers import Numbers
from onepass.heads.tasks.objectives import Classes, Objective


@dataclass(frozen=True)
class TrainingRows:
    """What a head is fitted on.

    Attributes:
        x: (n, v, d) float32, v views of each image, the plain one first.
        y: (n,) int64 classes 0 to k - 1, each of them present; or as the objective has them.
        sample_weights: (n,) float64, how much each image counts.
        class_weights: (k,) float64, how much each class counts; 1 where there are no classes.
        groups: (n,) int64, equal for images that must be held out together.
        held_out: (n, f) bool, which fold holds which image out; f = 0 if nothing is tuned.
        objective: What the labels are to the head.
        thorough: Whether to try more settings.
        deadline: Value of `time.monotonic` at which tuning settles for what it has.
        shared: Where principal components are kept.
        texts: (k, d), a row for the name of each class; None for heads that need none.
    """

    x: np.ndarray
    y: np.ndarray
    sample_weights: np.ndarray
    class_weights: np.ndarray
    groups: np.ndarray
    held_out: np.ndarray
    objective: Objective
    thorough: bool = False
    deadline: float = float("inf")
    shared: SharedComponents = field(default_factory=SharedComponents)
    texts: np.ndarray | None = None

    @property
    def components(self) -> PrincipalComponents:
        """Those of all rows."""
        return self.shared.of(self.flat)

    @property
    def flat(self) -> np.ndarray:
        """(n v, d): all rows, the views of an image one after the other."""
        return self.x.reshape(-1, self.x.shape[2])

    @property
    def views(self) -> int:
        return int(self.x.shape[1])

    @property
    def importance(self) -> np.ndarray:
        """(n,) float64: the weight of each image times that of its class."""
        return np.asarray(self.sample_weights * self.objective.by_image(self.class_weights, self.y))

    @property
    def row_importance(self) -> np.ndarray:
        """(n v,) float64: that of each row, where the views of an image share its own."""
        return np.repeat(self.importance, self.views) / self.views

    @property
    def outputs(self) -> int:
        """Number k of scores per row."""
        return self.objective.outputs

    @property
    def scored(self) -> np.ndarray:
        """(n,) bool: images that some fold holds out."""
        return np.asarray(self.held_out.any(axis=1))

    def pieces(self) -> Iterable[np.ndarray]:
        """All rows, in pieces of any number."""
        return (self.x,)

    def late(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass(frozen=True)
class Fit:
    """What fitting gives.

    Attributes:
        network: Fitted on all training rows.
        chosen: What was tuned or came out of training, by name.
        held_out: (n, k) scores of the plain training rows by fits that did not see them, with the chosen
            settings; undefined where no fold holds an image out. None if there were no folds.
        history: The epochs of a net; None for heads that have none.
    """

    network: Network
    chosen: dict[str, object] = field(default_factory=dict)
    held_out: np.ndarray | None = None
    history: History | None = None


class Head(BaseEstimator, ABC):  # type: ignore[misc]
    """Base of all heads. A subclass turns training rows into a network; see `_fit`.

    Every head takes these parameters beside its own:
        class_weight: None, "balanced", or a dict of label -> weight.
        tune: none, fast or thorough: how many settings to try on folds of the training rows. A parameter that is
            given is not tuned.
        time_limit: Seconds after which tuning ends with the best setting so far.
        seed: Seed of the folds, the initial weights and the order of the rows.

    Most heads take `task` as well: "classes", one per image; "labels", several or none; or "number", one per image.

    Attributes after `fit`:
        classes_: (k,) the labels seen, sorted; of numbers there are none.
        network_: The fitted arrays; every prediction comes from them.
        thresholds_: (k,) float32, the probability from which on each of several labels is named; else None.
        chosen_: Parameters that were tuned or came out of training, by name.
        history_: Of the Keras heads: loss and accuracy of each epoch, see `History`; else None.
        held_out_: (n, k) what fits that did not see a training image say of it: calibrated probabilities, or numbers.
            NaN where no fold could hold it out. None with tune="none", where no temperature is fitted either, and
            probabilities are as sure as the bare fit makes them.
    """

    kind = ""
    task: str = CLASSES
    class_weight: ClassWeight
    tune: str
    time_limit: float | None
    seed: int

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        shared: SharedComponents | None = None,
        texts: np.ndarray | None = None,
    ) -> Self:
        """Fits the head.

        Args:
            x: (n, d) rows, or (n, v, d): v views of each image, the plain one first; any float.
            y: (n,) labels of any kind, or numbers, one per image; or (n, k) of 0 and 1 for several labels.
            groups: (n,) equal values for images that must be held out together (a patient, a video).
            weights: (n,) how much each image counts, above 0; all alike by default.
            shared: Keeps the principal components for further heads on the same rows, which saves each of them
                most of a second on 2,000 rows of 2,048.
            texts: (k, d) of the names of the classes, in the order of the sorted labels; for heads from texts.

        Raises:
            TrainingError: Fewer than two classes, or numbers that are all equal; rows that are all equal, or that the
                head cannot be fitted to.
            OptionError: A parameter is out of range.
        """
        rows = self._training_rows(x, y, groups, weights, shared)
        return self._fit_on(rows if texts is None else replace(rows, texts=np.asarray(texts)))

    @one_blas_thread
    def _fit_on(self, rows: TrainingRows) -> Self:
        if all_equal(rows.pieces()):
            raise TrainingError(
                f"all {len(rows.y)} training images have equal rows; no head can tell their classes apart. Look at the "
                "images: are they all black, or copies of one picture?",
                images=len(rows.y),
            )
        try:
            fit = self._fit(rows)
        except np.linalg.LinAlgError as error:
            raise TrainingError(
                f"{self.kind} cannot be fitted to these rows ({error}). Try another head, such as logreg."
            ) from None
        if not fit.network.is_finite():
            raise TrainingError(
                f"training diverged to infinite or undefined weights. Try a smaller learning rate ({opt.lr})."
            )
        self.chosen_, self.history_ = fit.chosen, fit.history
        self.network_, self.held_out_ = _finished(fit, rows)
        self.thresholds_ = self._thresholds(rows)
        return self

    def _thresholds(self, rows: TrainingRows) -> np.ndarray | None:
        if self.task != LABELS:
            return None
        if self.held_out_ is None:
            return np.full(rows.outputs, 0.5, np.float32)
        return best_thresholds(self.held_out_, rows.y, rows.importance)

    @abstractmethod
    def _fit(self, rows: TrainingRows) -> Fit:
        """Tunes on the folds as far as there are any, and fits on all rows."""

    @available_if(lambda self: self.task != NUMBER)  # type: ignore[untyped-decorator]
    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, k) probabilities in the order of `classes_`; averaged over v views of (n, v, d)."""
        return self.outputs(x)

    @one_blas_thread
    def outputs(self, x: np.ndarray) -> np.ndarray:
        """(n, d) or (n, v, d) rows -> (n, k) probabilities of the classes, or (n, 1) numbers."""
        check_is_fitted(self, "network_")
        return self.network_.outputs(self._with_views(x))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, d) or (n, v, d) rows -> (n,) the most probable label of each, or its number; of several (n, k)."""
        outputs = self.outputs(x)
        if self.task == LABELS:
            return np.asarray((outputs >= self.thresholds_).astype(np.int64))
        if self.task == NUMBER:
            return np.asarray(outputs[:, 0])
        return np.asarray(self.classes_[outputs.argmax(axis=1)])

    def score(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """Share of (n, d) rows that are given their label in (n,) `y`; of numbers R2, as in scikit-learn."""
        rate = r2_score if self.task == NUMBER else accuracy_score
        return float(rate(y, self.predict(x), sample_weight=sample_weight))

    def memory_needed(self, images: int, views: int, width: int) -> int:
        """Bytes that fitting takes at its peak, roughly: a few copies of the rows, some in double precision."""
        return 9 * 4 * images * views * width

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self.task == NUMBER:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        else:
            tags.estimator_type = "classifier"
            tags.classifier_tags = ClassifierTags(multi_label=self.task == LABELS)
        return tags

    def _training_rows(
        self,
        x: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray | None,
        weights: np.ndarray | None,
        shared: SharedComponents | None = None,
    ) -> TrainingRows:
        self._check()
        plain = x[:, 0] if _has_views(x) else x
        _, y = validate_data(
            self, plain, y, dtype=np.float32, y_numeric=self.task == NUMBER, multi_output=self.task == LABELS
        )
        rows = self._labelled_rows(self._with_views(x), y, groups, weights)
        return replace(rows, shared=shared) if shared else rows

    def _labelled_rows(
        self, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, weights: np.ndarray | None
    ) -> TrainingRows:
        """What a head is fitted on: (n, v, d) rows, their labels and groups, and the folds that follow from these."""
        n = len(y)
        if groups is not None and len(groups) != n:
            raise OptionError(
                f"there are {len(groups)} groups for {n} images; needed: one for each image.",
                groups=len(groups),
                images=n,
            )
        weights = np.ones(n) if weights is None else np.asarray(weights, np.float64)
        if weights.shape != (n,) or not (weights > 0).all() or not np.isfinite(weights).all():
            raise OptionError(f"weights are of shape {weights.shape}; needed: {n} finite numbers above 0.", images=n)
        objective, encoded, class_weights = self._encoded(y)
        fold_of = np.full(n, -1)
        if self.tune != "none":
            strata = objective.strata(encoded)
            fold_of = assign_folds(strata, groups=groups, seed=self.seed, rare=self.task == NUMBER)
        return TrainingRows(
            x=x,
            y=encoded,
            sample_weights=weights,
            class_weights=class_weights,
            groups=np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1],
            held_out=fold_masks(fold_of),
            objective=objective,
            thorough=self.tune == "thorough",
            deadline=time.monotonic() + (float("inf") if self.time_limit is None else self.time_limit),
        )

    def _encoded(self, y: np.ndarray) -> tuple[Objective, np.ndarray, np.ndarray]:
        """The objective, the labels as it has them, and (k,) class weights."""
        if self.task == NUMBER:
            numbers = Numbers.of(y)
            return numbers, numbers.encoded(y), np.ones(1)
        if self.task == LABELS:
            y = np.asarray(y, np.float64)
            if y.ndim != 2 or not np.isin(y, (0, 1)).all():
                raise TrainingError(f"labels are of shape {y.shape}; needed: (images, labels) of 0 and 1.")
            self.classes_ = np.arange(y.shape[1])
            return Labels(y.shape[1]), y, np.ones(y.shape[1])
        try:
            # Three times, or it takes classes of one or two images for numbers and warns.
            check_classification_targets(np.concatenate([y] * 3))
        except ValueError as error:
            raise TrainingError(f"{error} Give one class label for each image.") from None
        self.classes_, positions = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise TrainingError(
                f"all {len(y)} training rows are of one class; a head needs two or more classes.", rows=len(y)
            )
        return Classes(len(self.classes_)), positions, self._class_weights(y)

    def _class_weights(self, y: np.ndarray) -> np.ndarray:
        try:
            weights = np.asarray(compute_class_weight(self.class_weight, classes=self.classes_, y=y), np.float64)
        except (ValueError, TypeError) as error:
            raise OptionError(f"class weights {self.class_weight!r}: {error}", class_weight=self.class_weight) from None
        if not (weights > 0).all() or not np.isfinite(weights).all():
            raise OptionError(
                f"class weights {self.class_weight!r}: every weight must be a finite number above 0.",
                class_weight=self.class_weight,
            )
        return weights

    def _check(self) -> None:
        """Refuses parameters out of range."""
        check_parameters(self.get_params())

    def _with_views(self, x: np.ndarray) -> np.ndarray:
        """(n, d) or (n, v, d) -> (n, v, d) float32, checked by scikit-learn, which takes tables alone."""
        if not _has_views(x):
            return np.asarray(validate_data(self, x, dtype=np.float32, reset=False))[:, None]
        n, views, width = x.shape
        rows = validate_data(self, x.reshape(n * views, width), dtype=np.float32, reset=False)
        return np.asarray(rows).reshape(n, views, width)


def _finished(fit: Fit, rows: TrainingRows) -> tuple[Network, np.ndarray | None]:
    """The network with what suits the held-out rows, such as a temperature; and what it says of these."""
    scored = rows.scored if fit.held_out is not None else np.zeros(len(rows.y), bool)
    scores = np.zeros((0, rows.outputs)) if fit.held_out is None else fit.held_out[scored].astype(np.float64)
    network, told = rows.objective.finished(fit.network, scores, rows.y[scored], rows.importance[scored])
    if fit.held_out is None:
        return network, None
    outputs = np.full(fit.held_out.shape, np.nan)
    outputs[scored] = told
    return network, outputs


def _has_views(x: np.ndarray) -> bool:
    return getattr(x, "ndim", 2) == 3
