"""The base of all heads: scikit-learn's interface, tuning on folds and calibration, around plain arrays."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from onepass.features.errors import OptionError, TrainingError, opt
from onepass.features.moments import all_equal
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.folds import assign_folds, fold_masks
from onepass.heads.fitting.pca import PrincipalComponents, SharedComponents
from onepass.heads.fitting.temperature import best_inverse_temperature
from onepass.heads.head_options import ClassWeight, check_parameters
from onepass.heads.inference.network import Network, softmax


@dataclass(frozen=True)
class TrainingRows:
    """What a head is fitted on.

    Attributes:
        x: (n, v, d) float32, v views of each image, the plain one first.
        y: (n,) int64 classes 0 to k - 1, each of them present.
        weights: (k,) float64, the weight of each class.
        groups: (n,) int64, equal for images that must be held out together.
        held_out: (n, f) bool, which fold holds which image out; f = 0 if nothing is tuned.
        thorough: Whether to try more settings.
        deadline: Value of `time.monotonic` at which tuning settles for what it has.
        shared: Where principal components are kept.
        texts: (k, d), a row for the name of each class; None for heads that need none.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    held_out: np.ndarray
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
    def classes(self) -> int:
        return len(self.weights)

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
    """

    network: Network
    chosen: dict[str, object] = field(default_factory=dict)
    held_out: np.ndarray | None = None


class Head(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of all heads. A subclass turns training rows into a network; see `_fit`.

    Every head takes these parameters beside its own:
        class_weight: None, "balanced", or a dict of label -> weight.
        tune: none, fast or thorough: how many settings to try on folds of the training rows. A parameter that is
            given is not tuned.
        time_limit: Seconds after which tuning ends with the best setting so far.
        seed: Seed of the folds, the initial weights and the order of the rows.

    Attributes after `fit`:
        classes_: (k,) the labels seen, sorted.
        network_: The fitted arrays; every prediction comes from them.
        chosen_: Parameters that were tuned or came out of training, by name.
        held_out_: (n, k) calibrated probabilities of each training image by fits that did not see it; NaN
            where no fold could hold it out. None with tune="none", where no temperature is fitted either, and
            probabilities are as sure as the bare fit makes them.
    """

    kind = ""
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
        shared: SharedComponents | None = None,
        texts: np.ndarray | None = None,
    ) -> Self:
        """Fits the head.

        Args:
            x: (n, d) rows, or (n, v, d): v views of each image, the plain one first; any float.
            y: (n,) labels of any kind, one per image.
            groups: (n,) equal values for images that must be held out together (a patient, a video).
            shared: Keeps the principal components for further heads on the same rows, which saves each of them
                most of a second on 2,000 rows of 2,048.
            texts: (k, d) of the names of the classes, in the order of the sorted labels; for heads from texts.

        Raises:
            TrainingError: Fewer than two classes, rows that are all equal, or rows that the head cannot be fitted to.
            OptionError: A parameter is out of range.
        """
        rows = self._training_rows(x, y, groups, shared)
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
        self.chosen_ = fit.chosen
        self.network_, self.held_out_ = _calibrated(fit, rows)
        return self

    @abstractmethod
    def _fit(self, rows: TrainingRows) -> Fit:
        """Tunes on the folds as far as there are any, and fits on all rows."""

    @one_blas_thread
    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, k) probabilities in the order of `classes_`; averaged over v views of (n, v, d)."""
        check_is_fitted(self, "network_")
        return self.network_.probabilities(self._with_views(x))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, d) or (n, v, d) rows -> (n,) the most probable label of each."""
        probabilities = self.predict_proba(x)
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])

    def memory_needed(self, images: int, views: int, width: int) -> int:
        """Bytes that fitting takes at its peak, roughly: a few copies of the rows, some in double precision."""
        return 9 * 4 * images * views * width

    def _training_rows(
        self, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, shared: SharedComponents | None = None
    ) -> TrainingRows:
        self._check()
        _, y = validate_data(self, x[:, 0] if _has_views(x) else x, y, dtype=np.float32)
        rows = self._labelled_rows(self._with_views(x), y, groups)
        return replace(rows, shared=shared) if shared else rows

    def _labelled_rows(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> TrainingRows:
        """What a head is fitted on: (n, v, d) rows, their labels and groups, and the folds that follow from these."""
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
        if groups is not None and len(groups) != len(y):
            raise OptionError(
                f"there are {len(groups)} groups for {len(y)} images; needed: one for each image.",
                groups=len(groups),
                images=len(y),
            )
        fold_of = np.full(len(y), -1)
        if self.tune != "none":
            fold_of = assign_folds(positions, groups=groups, seed=self.seed)
        return TrainingRows(
            x=x,
            y=positions,
            weights=self._class_weights(y),
            groups=np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1],
            held_out=fold_masks(fold_of),
            thorough=self.tune == "thorough",
            deadline=time.monotonic() + (float("inf") if self.time_limit is None else self.time_limit),
        )

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


def _calibrated(fit: Fit, rows: TrainingRows) -> tuple[Network, np.ndarray | None]:
    """The network with the temperature that suits the held-out rows, and their probabilities at it."""
    if fit.held_out is None:
        return fit.network, None
    scored = rows.scored
    scores, y = fit.held_out[scored].astype(np.float64), rows.y[scored]
    inverse_temperature = best_inverse_temperature(scores, y, rows.weights[y])
    probabilities = np.full(fit.held_out.shape, np.nan)
    probabilities[scored] = softmax(inverse_temperature * scores)
    return fit.network.scaled(inverse_temperature), probabilities


def _has_views(x: np.ndarray) -> bool:
    return getattr(x, "ndim", 2) == 3
