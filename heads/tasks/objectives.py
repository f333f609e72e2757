"""What heads are fitted to: classes, one of several per image; the seam that every head is written against."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from onepass.heads.fitting.temperature import best_inverse_temperature, calibrated_loss, log_loss
from onepass.heads.inference.network import Network, softmax


class Objective(ABC):
    """What the labels of images are to a head.

    Labels come encoded: (n,) classes 0 to k - 1, (n, k) of 0 and 1 for several labels, or (n, 1) numbers of mean 0 and
    standard deviation 1. A head gives k scores a row.

    Attributes:
        task: One of `features.TASKS`.
        output: What a network makes of scores; see `Network`.
        outputs: Number k of scores.
    """

    task: ClassVar[str]
    output: ClassVar[str]
    outputs: int

    def encoded(self, y: np.ndarray) -> np.ndarray:
        """Labels as they are given -> as heads have them."""
        return y

    @abstractmethod
    def strata(self, y: np.ndarray) -> np.ndarray:
        """(n,) int64: what folds are to have their share of."""

    def by_image(self, class_weights: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) how much each image counts by its class."""
        return np.asarray(class_weights[y]) if self.task == "classes" else np.ones(len(y))

    @abstractmethod
    def targets(self, y: np.ndarray) -> np.ndarray:
        """(n, k) float64: what least squares are fitted to."""

    @abstractmethod
    def votes(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """What neighbours of (n,) weights say, float32; see `NeighbourTable`."""

    @abstractmethod
    def loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        """Mean loss of (m, k) held-out scores of any size, by which heads are tuned."""

    @abstractmethod
    def own_loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        """The same of scores that are log probabilities, or numbers, as they stand."""

    @abstractmethod
    def finished(
        self, network: Network, scores: np.ndarray, y: np.ndarray, weights: np.ndarray
    ) -> tuple[Network, np.ndarray]:
        """Makes a fitted network say what it is to say.

        Args:
            network: As fitted.
            scores: (m, k) float64 of held-out images; m may be 0.
            y: Their labels.
            weights: (m,) of the images.

        Returns:
            The network, and what it would have said of the held-out images: (m, k).
        """


class Classes(Objective):
    """One of k classes per image; probabilities at the temperature that suits the held-out images."""

    task, output = "classes", "softmax"

    def __init__(self, classes: int) -> None:
        self.outputs = classes

    def strata(self, y: np.ndarray) -> np.ndarray:
        return y

    def targets(self, y: np.ndarray) -> np.ndarray:
        return np.asarray(2.0 * (y[:, None] == np.arange(self.outputs)) - 1)

    def votes(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.asarray(np.eye(self.outputs, dtype=np.float32)[y] * weights[:, None].astype(np.float32))

    def loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        return calibrated_loss(scores, y, weights)

    def own_loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        return log_loss(scores, y, weights)

    def finished(
        self, network: Network, scores: np.ndarray, y: np.ndarray, weights: np.ndarray
    ) -> tuple[Network, np.ndarray]:
        if not len(y):
            return network, scores
        factor = best_inverse_temperature(scores, y, weights)
        return network.scaled(factor), softmax(factor * scores)
