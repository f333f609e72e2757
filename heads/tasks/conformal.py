"""Prediction intervals: how far from what a head says the number of a further image may lie.

The absolute errors of training images, by fits that did not see them, say how far off the head is; an interval
reaches as far as all but a share alpha of them. Such intervals hold 1 - alpha of further images like those of the
training, up to what the fits, each on fewer images, are worse or better than the head. That is no bound for every data
set, so what they hold is measured on images that training did not see.

Source: V. Vovk, A. Gammerman and G. Shafer (2005), Algorithmic Learning in a Random World, 2.2; R. F. Barber et al.
(2021), Predictive inference with the jackknife+, Ann. Stat. 49(1), 486-507 (what can be proven of it, and what not).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from onepass.heads.inference.network import require_shapes
from onepass.heads.stats.intervals import wilson_interval

USUAL_ALPHA = 0.05
"""Share of further images that may lie outside."""


@dataclass(frozen=True)
class Coverage:
    """What prediction intervals do on held-out images.

    Attributes:
        alpha: Share of images that may lie outside.
        n: Images.
        coverage: Share of them inside.
        interval: 95 % Wilson interval of the coverage.
        half_width: The intervals reach so far on either side of what the head says, in units of the number.
    """

    alpha: float
    n: int
    coverage: float
    interval: tuple[float, float]
    half_width: float

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"within {self.half_width:.4g} of what is predicted lie {self.coverage:.1%} ({low:.1%} to {high:.1%}) of "
            f"{self.n} held-out images; {1 - self.alpha:.0%} are wanted"
        )


@dataclass(frozen=True, eq=False)
class Residuals:
    """Errors of training images by fits that did not see them.

    Attributes:
        sizes: (m,) float32, absolute errors in ascending order.
        weights: (m,) float32, how much each image counts.
    """

    sizes: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, told: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Self | None:
        """The errors of (n,) held-out numbers, NaN where none is told; None if none at all is."""
        known = np.isfinite(told)
        sizes = np.abs(told - y)[known]
        order = np.argsort(sizes, kind="stable")
        found = sizes[order].astype(np.float32), weights[known][order].astype(np.float32)
        return cls(*found) if len(sizes) else None

    def half_width(self, alpha: float = USUAL_ALPHA) -> float:
        """The least size that all but a share alpha of the errors are within, that of a further image included.

        Infinite for fewer than 1 / alpha - 1 images, since then the further one alone may be that share.

        >>> Residuals(np.arange(1, 20, dtype=np.float32), np.ones(19, np.float32)).half_width(0.1)
        18.0
        """
        total = self.weights.sum(dtype=np.float64)
        needed = (1 - alpha) * (total + total / len(self.weights))
        place = int(np.searchsorted(np.cumsum(self.weights, dtype=np.float64), needed * (1 - 1e-9)))
        return float(self.sizes[place]) if place < len(self.sizes) else float("inf")

    def measured(self, told: np.ndarray, y: np.ndarray, alpha: float = USUAL_ALPHA) -> Coverage | None:
        """How many of (n,) held-out numbers lie within; None if there are too few errors for an interval."""
        width = self.half_width(alpha)
        if not np.isfinite(width) or not len(y):
            return None
        inside = int((np.abs(told - y) <= width).sum())
        return Coverage(alpha, len(y), inside / len(y), wilson_interval(inside, len(y)), width)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by the names it has in the head file."""
        return {"interval.sizes": self.sizes, "interval.weights": self.weights}

    def record(self) -> dict[str, str]:
        """All of it as JSON takes it: hexadecimal, in single precision."""
        return {name: array.astype("<f4").tobytes().hex() for name, array in self.arrays().items()}

    @classmethod
    def of_record(cls, found: dict[str, str]) -> Self:
        """What `record` gave.

        Raises:
            ValueError, KeyError, TypeError: It makes no sense.
        """
        return cls.restore({name: np.frombuffer(bytes.fromhex(text), "<f4") for name, text in found.items()})

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray]) -> Self:
        """What `arrays` gave.

        Raises:
            ValueError, KeyError: They do not fit each other.
        """
        sizes, weights = arrays["interval.sizes"], arrays["interval.weights"]
        require_shapes(arrays, **{"interval.sizes": (len(sizes),), "interval.weights": (len(sizes),)})
        if not (np.isfinite(sizes).all() and (sizes >= 0).all() and (np.diff(sizes) >= 0).all()):
            raise ValueError("errors that are below 0 or not in order")
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise ValueError("weights that are not above 0")
        return cls(sizes, weights)
