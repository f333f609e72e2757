"""Images that belong to none of the classes: split conformal prediction on held-out rows, per class.

The nonconformity of an image to class k is the larger of two ranks among held-out training images: that of its row's
distance from the subspace of the training rows, and that of how little probability the head gives to k. Of the
images of class k a share of at most alpha lies above the threshold, if they come from the distribution of the
training images; so at most that share of each class is called unknown, where an image is unknown if it lies above
the thresholds of all classes. For out-of-distribution images nothing is guaranteed; how many are found depends
on how far out they are.

Source: V. Vovk, A. Gammerman and G. Shafer (2005), Algorithmic Learning in a Random World, 4.5 (conformal
prediction per class); the distance to the principal subspace: H. Wang et al. (2022), ViM, CVPR.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from onepass.features.errors import OptionError, opt
from onepass.heads.inference.network import require_shapes

AXES = 64
MOST_IMAGES = 5000
"""Most training images that are used."""

USUAL_ALPHA = 0.05
"""The alpha that abstention is measured at when a head is trained."""

_ROUNDS = 3
_ROUNDED = 0.01
"""How far from 1 the squared length of an axis may lie for being kept in half precision."""

Nonconforming = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) distances and (n, k) probabilities -> (n, k) bool, above the threshold of a class; unknown if above all."""


@dataclass(frozen=True)
class Abstention:
    """What calling images unknown does to held-out images of the classes.

    Attributes:
        alpha: Share of each class that may lie above its threshold.
        n: Images.
        coverage: Share of them below the threshold of their own class; 1 - alpha or more is guaranteed.
        abstained: Share called unknown.
        per_class: Class name -> share of its images called unknown.
    """

    alpha: float
    n: int
    coverage: float
    abstained: float
    per_class: dict[str, float]

    def __str__(self) -> str:
        return (
            f"unknown={self.alpha:g} calls {self.abstained:.1%} of {self.n} held-out images unknown, and takes "
            f"{self.coverage:.1%} for possible members of their class"
        )


@dataclass(frozen=True, eq=False)
class Subspace:
    """The subspace of the leading principal axes of training rows.

    Attributes:
        centre: (d,) float32.
        axes: (d, r) float32, orthonormal columns within half precision.
    """

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, roots: np.ndarray) -> Self:
        """The leading principal axes of the signed square roots of (n, d) rows, at most `AXES` and n / 4 of them."""
        centre = roots.mean(axis=0)
        roots = roots - centre
        count = max(1, min(AXES, len(roots) // 4, roots.shape[1] // 2))
        # By a power of two, which changes no digit: squares of huge rows would be infinite.
        roots = np.ldexp(roots, -np.frexp(np.abs(roots).max())[1])
        # Subspace iteration; it needs no gap between the axes that are kept and the next.
        axes = np.random.default_rng(0).normal(size=(roots.shape[1], count)).astype(np.float32)
        for _ in range(_ROUNDS):
            axes = np.linalg.qr(roots.T @ (roots @ axes))[0]
        return cls(centre, axes.astype(np.float16).astype(np.float32))

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n,) float32 distances from the subspace."""
        return self.distances_of(signed_roots(rows))

    def distances_of(self, roots: np.ndarray) -> np.ndarray:
        """The same for signed square roots."""
        around = roots - self.centre
        outside = around - (around @ self.axes) @ self.axes.T
        return np.asarray(np.linalg.norm(outside, axis=1), np.float32)


@dataclass(frozen=True, eq=False)
class OutOfDistribution:
    """Nonconformity of held-out training images, against which others are judged.

    Attributes:
        subspace: Of all training images.
        distances: (m,) float32, each image's distance from the subspace of the folds that it is not in.
        improbabilities: (m,) float32, 1 - the probability of its class by a head not trained on it, 1 where there is
            no such head; all 0 without probabilities, so that only distances count. "doubts" in the head file.
        labels: (m,) int32 classes.
    """

    subspace: Subspace
    distances: np.ndarray
    improbabilities: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, y: np.ndarray, fold_of: np.ndarray) -> Self:
        """Learns distances from training images.

        Args:
            rows: (n, d) float32, plain views.
            y: (n,) classes.
            fold_of: (n,) which fold holds each image out; two or more.
        """
        roots, distances = signed_roots(rows), np.empty(len(y), np.float32)
        for fold in np.unique(fold_of):
            held = fold_of == fold
            distances[held] = Subspace.of(roots[~held]).distances_of(roots[held])
        return cls(Subspace.of(roots), distances, np.zeros(len(y), np.float32), y.astype(np.int32))

    def with_probabilities(self, held_out: np.ndarray) -> Self:
        """The same with (m, k) held-out probabilities of the images, NaN where no fold holds one out."""
        own = held_out[np.arange(len(self.labels)), self.labels]
        return replace(self, improbabilities=(1 - np.nan_to_num(own, nan=0.0)).astype(np.float32))

    def at(self, alpha: float, classes: int) -> Nonconforming:
        """The test of whether images lie above the thresholds at which a share alpha of each class does, at most.

        A class with fewer than 1 / alpha - 1 held-out images takes the threshold of all of them together.

        Args:
            alpha: Between 0 and 1.
            classes: Number of classes.

        Raises:
            OptionError: alpha is not between 0 and 1, or too small for so few images.
        """
        require_alpha(alpha)
        both = bool(self.improbabilities.any())
        far, improbable = np.sort(self.distances), np.sort(self.improbabilities)

        def nonconformity(distances: np.ndarray, others: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
            ranks = np.searchsorted(far, distances, side) / len(far)
            second = np.searchsorted(improbable, others, side) / len(improbable) if both else 0 * others
            return np.asarray(np.maximum(ranks, second))

        # They count themselves and a new image does not, or the larger of two ranks would exceed alpha for few images.
        known = nonconformity(self.distances, self.improbabilities, "right")
        every = threshold(known, alpha)
        if not np.isfinite(every):
            raise OptionError(
                f"{opt.unknown} is {alpha:g}, and training held out {len(known)} images; needed: "
                f"{int(np.ceil(1 / alpha)) - 1} images for such a share, or a larger one.",
                unknown=alpha,
                images=len(known),
            )
        limits = np.array([threshold(known[self.labels == k], alpha) for k in range(classes)])
        limits = np.where(np.isfinite(limits), limits, every)

        def nonconforming(distances: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
            found = nonconformity(distances[:, None], 1 - probabilities, "left")
            return np.asarray(found > limits)

        return nonconforming

    def measured(
        self, alpha: float, distances: np.ndarray, probabilities: np.ndarray, y: np.ndarray, class_names: Sequence[str]
    ) -> Abstention:
        """The effect on held-out images.

        Args:
            alpha: Between 0 and 1.
            distances: (n,), from `subspace`.
            probabilities: (n, k).
            y: (n,) classes.
            class_names: k names.
        """
        above = self.at(alpha, len(class_names))(distances, probabilities)
        unknown = np.asarray(above.all(axis=1))
        return Abstention(
            alpha=alpha,
            n=len(y),
            coverage=1 - float(np.mean(above[np.arange(len(y)), y])),
            abstained=float(np.mean(unknown)),
            per_class={name: float(np.mean(unknown[y == k])) for k, name in enumerate(class_names) if (y == k).any()},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by the names it has in the head file."""
        return {
            "unknown.centre": self.subspace.centre,
            "unknown.axes": self.subspace.axes.astype(np.float16),
            "unknown.distances": self.distances,
            "unknown.doubts": self.improbabilities,
            "unknown.labels": self.labels,
        }

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], width: int, classes: int) -> Self:
        """What `arrays` gave.

        Raises:
            ValueError, KeyError: They do not fit each other.
        """
        axes, labels = arrays["unknown.axes"].astype(np.float32), arrays["unknown.labels"]
        (m,), (_, r) = labels.shape, axes.shape
        arrays = {**arrays, "unknown.axes": axes}
        require_shapes(
            arrays,
            **{
                "unknown.centre": (width,),
                "unknown.axes": (width, r),
                "unknown.distances": (m,),
                "unknown.doubts": (m,),
            },
        )
        if labels.dtype != np.int32 or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"labels of held-out images, {labels.dtype}")
        if not all(np.isfinite(arrays[f"unknown.{name}"]).all() for name in ("centre", "axes", "distances", "doubts")):
            raise ValueError("numbers that are not finite")
        doubts = arrays["unknown.doubts"]
        if not ((arrays["unknown.distances"] >= 0).all() and (doubts > -1e-6).all() and (doubts < 1 + 1e-6).all()):
            raise ValueError("distances below 0, or doubts that are no shares")
        if not (np.abs(np.square(axes, dtype=np.float64).sum(axis=0) - 1) < _ROUNDED).all():
            raise ValueError("axes that are not of length 1")
        subspace = Subspace(arrays["unknown.centre"], axes)
        return cls(subspace, arrays["unknown.distances"], arrays["unknown.doubts"], labels)


def threshold(nonconformity: np.ndarray, alpha: float) -> float:
    """The value that a further image exceeds with a chance of alpha at most; infinite if there are too few.

    Args:
        nonconformity: (m,) of held-out images.
        alpha: Between 0 and 1.
    """
    place = int(np.ceil((1 - alpha) * (len(nonconformity) + 1))) - 1
    return float(np.sort(nonconformity)[place]) if place < len(nonconformity) else float("inf")


def signed_roots(rows: np.ndarray) -> np.ndarray:
    """Signed square roots, so that a few large features do not decide alone."""
    return np.asarray(np.sign(rows) * np.sqrt(np.abs(rows)), np.float32)


def require_alpha(alpha: float) -> None:
    """Refuses what is no share of the images that may be called unknown.

    Raises:
        OptionError: It is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise OptionError(f"{opt.unknown} is {alpha}; needed: a share between 0 and 1, such as 0.05.", unknown=alpha)
