"""Golden rows: do the same test images still give the same rows, on this machine and with these versions?"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onepass.features.errors import DriftError

LOWEST_COSINE = {"float32": 0.9999, "bfloat16": 0.995, "int8": 0.99}
"""Lowest cosine between a golden row and its recomputation that counts as the same, by precision."""


@dataclass(frozen=True)
class Drift:
    """How far recomputed golden rows lie from the stored ones.

    Attributes:
        cosine: Lowest cosine over the test images.
        difference: Largest absolute difference of one feature.
        tolerance: Lowest cosine that is accepted.
        images: Test images compared.
        flips: Test images that a head would label differently; None without a head.
    """

    cosine: float
    difference: float
    tolerance: float
    images: int
    flips: int | None = None

    @property
    def accepted(self) -> bool:
        """True if it lies within the tolerance."""
        return self.cosine >= self.tolerance

    def record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "accepted": self.accepted}

    def __str__(self) -> str:
        flips = "" if self.flips is None else f", {self.flips} labels flip"
        return (
            f"cosine {self.cosine:.6f} (needed {self.tolerance}), largest difference {self.difference:.3g}{flips}, "
            f"on {self.images} test images"
        )


def measure_drift(stored: np.ndarray, found: np.ndarray, precision: str, *, head: Any = None) -> Drift:
    """Compares golden rows with those of the accepted environment that is nearest.

    Args:
        stored: (e, g, d) float32, golden rows in e environments.
        found: (g, d) float32, computed now.
        precision: Of the spec; it decides the tolerance.
        head: Anything with `predict`, to count labels that flip.
    """
    if stored.shape[1:] != found.shape:
        raise DriftError(
            f"the golden rows stored are {stored.shape[1:]}, those computed now {found.shape}: another version of "
            "onepass wrote them. Use that one, or extract again to another file."
        )
    lowest = [cosines(rows, found).min() for rows in stored]
    nearest = stored[int(np.argmax(lowest))]
    flips = None if head is None else int((head.predict(nearest) != head.predict(found)).sum())
    difference = float(np.abs(nearest - found).max())
    return Drift(float(max(lowest)), difference, LOWEST_COSINE[precision], len(found), flips)


def require_no_drift(drift: Drift, *, name: str, remedy: str) -> None:
    """Refuses rows that are not what they were.

    Args:
        drift: From `measure_drift`.
        name: Whose golden rows they are: a file's name.
        remedy: What else the user can do; the last sentence.

    Raises:
        DriftError: The cosine lies below the tolerance.
    """
    if not drift.accepted:
        raise DriftError(
            f"this machine does not compute the rows of {name}: {drift}. Use the versions and the engine that "
            f"`onepass info {name}` lists. {remedy}",
            drift=drift,
        )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between the rows of two (m, d) arrays, (m,) float64 in [-1, 1].

    Rows of zeros are equal to each other and to nothing else.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
