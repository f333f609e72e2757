"""What all heads share: scikit-learn's manners around a network of plain arrays."""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from features.errors import OptionError, TrainingError
from heads.network import DenseNetwork


class Head(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of all heads. A subclass turns rows and class positions into a `DenseNetwork`.

    Attributes after `fit`:
        classes_: (k,) the labels seen, sorted.
        network_: The fitted arrays; every prediction comes from them.
        chosen_: Parameters that were tuned or came out of training, by name.
    """

    kind = ""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        """Fits the head.

        Args:
            x: (n, d) rows, or (n, v, d): v views of each image, the plain one first; float.
            y: (n,) labels of any kind, one per image.

        Raises:
            TrainingError: Fewer than two classes.
            OptionError: A parameter is out of range.
        """
        _, y = validate_data(self, x[:, 0] if _has_views(x) else x, y, dtype=np.float32)
        self.classes_, positions = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise TrainingError(f"all {len(y)} training rows are of one class; a head needs two or more classes.")
        seed = self.get_params().get("seed", 0)
        if not 0 <= seed < 2**32:
            raise OptionError(f"seed is {seed}; needed: 0 to {2**32 - 1}.")
        self.chosen_: dict[str, Any] = {}
        self.network_ = self._fit(self._with_views(x), positions)
        if not self.network_.is_finite():
            raise TrainingError(
                "training diverged to infinite or undefined weights. Try a smaller learning rate (--lr)."
            )
        return self

    @abstractmethod
    def _fit(self, x: np.ndarray, y: np.ndarray) -> DenseNetwork:
        """(n, v, d) float32 rows and (n,) positions in `classes_` -> the fitted arrays."""

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, k) probabilities in the order of `classes_`; averaged over v views of (n, v, d)."""
        check_is_fitted(self, "network_")
        return self.network_.probabilities(self._with_views(x))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, d) or (n, v, d) rows -> (n,) the most probable label of each."""
        return np.asarray(self.classes_[self.predict_proba(x).argmax(axis=1)])

    def _with_views(self, x: np.ndarray) -> np.ndarray:
        """(n, d) or (n, v, d) -> (n, v, d) float32, checked by scikit-learn, which takes tables alone."""
        if not _has_views(x):
            return np.asarray(validate_data(self, x, dtype=np.float32, reset=False))[:, None]
        n, views, width = x.shape
        rows = validate_data(self, x.reshape(n * views, width), dtype=np.float32, reset=False)
        return np.asarray(rows).reshape(n, views, width)


def _has_views(x: np.ndarray) -> bool:
    return getattr(x, "ndim", 2) == 3


def require_positive(**values: float | None) -> None:
    """Refuses parameters that are not above zero.

    Raises:
        OptionError: Naming the first.
    """
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise OptionError(f"{name} is {value}; needed: a finite number above 0.")
