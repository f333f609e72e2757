"""Numbers per image: how heads are fitted to them, in plain numbers outside and standardised ones inside."""

from typing import Self

import numpy as np

from onepass.features.errors import TrainingError
from onepass.heads.fitting.folds import FOLDS
from onepass.heads.inference.network import Network
from onepass.heads.tasks.objectives import Objective

_MOST_STRATA = 10
_DIGITS = 1e6
"""How many of its standard deviations the mean may be: float32, which networks are kept in, has seven digits."""


class Numbers(Objective):
    """A number per image. Heads see it with mean 0 and standard deviation 1, and answer in its own unit.

    Attributes:
        centre, unit: Mean and standard deviation of the training images' numbers.
    """

    task, output, outputs = "number", "linear", 1

    def __init__(self, centre: float, unit: float) -> None:
        self.centre, self.unit = centre, unit

    @classmethod
    def of(cls, y: np.ndarray) -> Self:
        """What suits (n,) numbers.

        Raises:
            TrainingError: All are equal, or they differ in digits that float32 does not have.
        """
        centre, unit = float(np.mean(y, dtype=np.float64)), float(np.std(y, dtype=np.float64))
        if not unit > 1e-12 * abs(centre):
            raise TrainingError(
                f"all {len(y)} training images have the number {y[0]:g}; there is nothing to learn. Add images with "
                "other numbers.",
                images=len(y),
            )
        if abs(centre) > _DIGITS * unit:
            raise TrainingError(
                f"the numbers lie around {centre:g} and differ by about {unit:g}, which float32 cannot tell apart. "
                f"Subtract {centre:.0f} from all of them.",
                centre=centre,
                unit=unit,
            )
        return cls(centre, unit)

    def encoded(self, y: np.ndarray) -> np.ndarray:
        """(n,) numbers -> (n, 1)."""
        return np.asarray((np.asarray(y, np.float64)[:, None] - self.centre) / self.unit)

    def strata(self, y: np.ndarray) -> np.ndarray:
        count = int(np.clip(len(y) // FOLDS, 1, _MOST_STRATA))
        rank = np.searchsorted(np.sort(y[:, 0]), y[:, 0])
        return np.unique(rank * count // max(len(y), 1), return_inverse=True)[1]

    def targets(self, y: np.ndarray) -> np.ndarray:
        return y

    def votes(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.concatenate([y * weights[:, None], weights[:, None]], axis=1).astype(np.float32)

    def loss(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
        """Mean squared error, in units of the variance."""
        return float(np.average(np.square(scores - y)[:, 0], weights=weights))

    own_loss = loss

    def finished(
        self,
        network: Network,
        scores: np.ndarray,
        y: np.ndarray,  # noqa: ARG002
        weights: np.ndarray,  # noqa: ARG002
    ) -> tuple[Network, np.ndarray]:
        return network.scaled(self.unit, self.centre), scores * self.unit + self.centre
