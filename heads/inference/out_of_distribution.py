"""Which images belong to none of the classes: split conformal prediction on held-out rows, per class.

An image is strange to class k by two measures: its row lies far from what training rows span, or the head
gives k little probability. Each is ranked among the training images as they were when they were held out,
and the larger rank counts. Of the images of class k the share that is stranger than the threshold is alpha at
most, if they come as the training images came; so whoever calls unknown what is too strange to every class
wrongs at most that share of each class. Images of other things have no such promise; how many are found
depends on how other they are.

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
"""Training images that are looked at."""

USUAL_ALPHA = 0.05
"""Share that abstention is measured at when a head is trained."""

_ROUNDS = 3

Strange = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) distances and (n, k) probabilities -> (n, k) bool: too strange to be of that class; unknown if to all."""


@dataclass(frozen=True)
class Abstention:
    """How calling images unknown went on images of the classes, held out from training.

    Attributes:
        alpha: Share of each class that may be called too strange to it.
        n: Images.
        coverage: Share of them that were not too strange to their own class; 1 - alpha or more is promised.
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
    """What rows of training images span, but for noise.

    Attributes:
        centre: (d,) float32.
        axes: (d, r) float32, orthonormal columns but for what half precision leaves.
    """

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, roots: np.ndarray) -> Self:
        """The leading principal axes of the signed square roots of (n, d) rows, at most `AXES` and n / 4 of them."""
        centre = roots.mean(axis=0)
        roots = roots - centre
        count = max(1, min(AXES, len(roots) // 4, roots.shape[1] // 2))
        # Subspace iteration: of a gap between the axes that are kept and the next, nothing is asked.
        axes = np.random.default_rng(0).normal(size=(roots.shape[1], count)).astype(np.float32)
        for _ in range(_ROUNDS):
            axes = np.linalg.qr(roots.T @ (roots @ axes))[0]
        return cls(centre, axes.astype(np.float16).astype(np.float32))

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n,) float32, how far they lie outside."""
        return self.distances_of(signed_roots(rows))

    def distances_of(self, roots: np.ndarray) -> np.ndarray:
        """The same for signed square roots."""
        around = roots - self.centre
        outside = around - (around @ self.axes) @ self.axes.T
        return np.asarray(np.linalg.norm(outside, axis=1), np.float32)


@dataclass(frozen=True, eq=False)
class OutOfDistribution:
    """What is known of held-out training images, so that others can be called unknown.

    Attributes:
        subspace: Of all training images.
        distances: (m,) float32, each image's distance from the subspace of images that it was not among.
        doubts: (m,) float32, 1 - the probability of its class by a head that has not seen it, 1 where there was
            no such head; all 0 if heads were not asked, so that distance alone counts.
        labels: (m,) int32 classes.
    """

    subspace: Subspace
    distances: np.ndarray
    doubts: np.ndarray
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

    def doubting(self, held_out: np.ndarray) -> Self:
        """With what heads said of the same images that had not seen them: (m, k) probabilities, NaN if nobody did."""
        own = held_out[np.arange(len(self.labels)), self.labels]
        return replace(self, doubts=(1 - np.nan_to_num(own, nan=0.0)).astype(np.float32))

    def at(self, alpha: float, classes: int) -> Strange:
        """What calls images too strange to a class, wronging at most a share alpha of each.

        A class with fewer than 1 / alpha - 1 held-out images shares the threshold of all of them together.

        Args:
            alpha: Between 0 and 1.
            classes: Number of classes.

        Raises:
            OptionError: alpha is not between 0 and 1, or too small for so few images.
        """
        if not 0 < alpha < 1:
            raise OptionError(f"{opt.unknown} is {alpha}; needed: a share between 0 and 1, such as 0.05.")
        doubted = bool(self.doubts.any())
        far, unsure = np.sort(self.distances), np.sort(self.doubts)

        def nonconformity(distances: np.ndarray, doubts: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
            ranks = np.searchsorted(far, distances, side) / len(far)
            others = np.searchsorted(unsure, doubts, side) / len(unsure) if doubted else 0 * doubts
            return np.asarray(np.maximum(ranks, others))

        # They count themselves and a further image does not, or the largest of two ranks would wrong too many of few.
        known = nonconformity(self.distances, self.doubts, "right")
        every = threshold(known, alpha)
        if not np.isfinite(every):
            raise OptionError(
                f"{opt.unknown} is {alpha:g}, and training held out {len(known)} images; needed: "
                f"{int(np.ceil(1 / alpha)) - 1} images for such a share, or a larger one."
            )
        limits = np.array([threshold(known[self.labels == k], alpha) for k in range(classes)])
        limits = np.where(np.isfinite(limits), limits, every)

        def strange(distances: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
            found = nonconformity(distances[:, None], 1 - probabilities, "left")
            return np.asarray(found > limits)

        return strange

    def measured(
        self, alpha: float, distances: np.ndarray, probabilities: np.ndarray, y: np.ndarray, class_names: Sequence[str]
    ) -> Abstention:
        """How it goes on held-out images.

        Args:
            alpha: Between 0 and 1.
            distances: (n,), from `subspace`.
            probabilities: (n, k).
            y: (n,) classes.
            class_names: k names.
        """
        strange = self.at(alpha, len(class_names))(distances, probabilities)
        unknown = np.asarray(strange.all(axis=1))
        return Abstention(
            alpha=alpha,
            n=len(y),
            coverage=1 - float(np.mean(strange[np.arange(len(y)), y])),
            abstained=float(np.mean(unknown)),
            per_class={name: float(np.mean(unknown[y == k])) for k, name in enumerate(class_names) if (y == k).any()},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by the names it has in the head file."""
        return {
            "unknown.centre": self.subspace.centre,
            "unknown.axes": self.subspace.axes.astype(np.float16),
            "unknown.distances": self.distances,
            "unknown.doubts": self.doubts,
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
