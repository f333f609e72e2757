"""A quick look at whether another head would do clearly better, on the training rows alone."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from scipy.linalg import lapack

from onepass.features import CLASSES, FeatureFile
from onepass.heads.classifiers.base import Head
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.folds import assign_folds, fold_masks
from onepass.heads.fitting.memory import some_of
from onepass.heads.inference.neighbour_table import nearest_first, vote_scores
from onepass.heads.inference.network import standardisation
from onepass.heads.stats.paired_tests import mcnemar

MOST_IMAGES = 2048
"""Images looked at; of more, a stratified sample. Time grows with their cube, memory with their square: 190 MB here."""
MOST_VALUES = MOST_IMAGES * 2048
"""Features of all images looked at together: of wider rows, fewer images."""

ALPHA = 0.005
"""Largest p, over all heads looked at, of a suggestion.

Far below 0.05: the folds share their training images, so the test is somewhat too sure of itself, and whoever is sent
to another head in vain does not believe the line again.
"""
LEAST_GAIN = 0.01
"""Smallest gain in accuracy that is worth a line."""

LINEAR = ("logreg", "svm", "ridge", "lda", "linear")
"""Heads that differ in how they place the same kind of hyperplane; ridge is not suggested instead of another one."""

_NEIGHBOURS, _DECAY = 20, 0.05
_PENALTIES = (1e-4, 1e-3)
"""Of the ridge, relative to the sum of squares of the rows."""
_INVERSE_WIDTH, _PENALTY = 0.5, 0.1
"""Of the Gaussian kernel, relative to the mean squared length of a row; and of its weights."""


@dataclass(frozen=True)
class Suggestion:
    """Another head that would probably do better.

    Attributes:
        head: Its kind.
        accuracy: Share of the held-out images that a quick version of it names correctly.
        instead_of: Kind of the head that was trained.
        accuracy_now: The same share for that one.
        p: Of McNemar's tests against the trained head and against always naming the largest class, in which a group
            counts once: the larger of the two, times the number of quick versions looked at.
        images: How many were held out, in folds.
        of: Training images in all.
    """

    head: str
    accuracy: float
    instead_of: str
    accuracy_now: float
    p: float
    images: int
    of: int

    @property
    def gain(self) -> float:
        return self.accuracy - self.accuracy_now

    def __str__(self) -> str:
        images = (
            f"{self.of} training images" if self.images == self.of else f"{self.images} of {self.of} training images"
        )
        return (
            f"{self.head} would probably do better: a quick version of it is right on {self.accuracy:.3f} of {images} "
            f"when they are held out, {self.instead_of} on {self.accuracy_now:.3f}; compare-heads tells"
        )

    def record(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "words": str(self)}


@dataclass(frozen=True, eq=False)
class QuickLook:
    """What quick versions of other heads say of training images that they were not fitted on.

    Attributes:
        kind: Of the trained head.
        places: (s,) int64 indices into the training images: those looked at that a fold holds out.
        y: (s,) int64 their classes.
        groups: (s,) equal for images that were held out together.
        named: (head, (s,) int64 classes that it names) for each version; empty where no look was taken.
        total: Training images in all.
    """

    kind: str
    places: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    named: tuple[tuple[str, np.ndarray], ...]
    total: int

    @classmethod
    def at(cls, file: FeatureFile, rows: np.ndarray, *, head: Head) -> Self:
        """Looks at the plain rows of training images; no others are read.

        Args:
            file: The feature file.
            rows: (n,) positions of the training images.
            head: The head that is trained on them, fitted or not. No look is taken where its fit holds nothing out
                (tune="none"), or where classes, images or numbers make something else count than the share of right
                answers.

        Raises:
            FeatureFileError: A row is not committed, or its bytes have changed.
        """
        y, groups = file.table.labels[rows].astype(np.int64), file.group_ids()[rows]
        most = min(MOST_IMAGES, MOST_VALUES // file.spec.width)
        if head.tune == "none" or head.class_weight is not None or file.table.weighted or file.task != CLASSES:
            most = 0
        return cls.of(lambda places: file.read(rows[places])[0], y, groups, kind=head.kind, seed=head.seed, most=most)

    @classmethod
    @one_blas_thread
    def of(
        cls,
        read: Callable[[np.ndarray], np.ndarray],
        y: np.ndarray,
        groups: np.ndarray,
        *,
        kind: str,
        seed: int,
        most: int = MOST_IMAGES,
    ) -> Self:
        """Looks at n training images.

        The folds are those that heads are tuned on: a group is held out as a whole, and the trained head, when it
        was asked about an image, had seen the same others, or more (knn and ridge leave out one group at a time). Of
        more than `most` images a sample is looked at, and the quick versions are fitted on it alone: the trained
        head, which had all of them, is harder to beat then.

        Args:
            read: (s,) indices of images -> their (s, d) float32 plain rows.
            y: (n,) classes 0 to k - 1.
            groups: (n,) equal for images that are held out together.
            kind: Of the head that is trained.
            seed: Of its folds, and of the sample.
            most: Images looked at.
        """
        if not most:
            return cls(kind, np.empty(0, np.int64), y[:0], groups[:0], (), len(y))
        fold_of = assign_folds(y, groups=groups, seed=seed)
        places = some_of(np.arange(len(y)), y, most, seed=seed)
        judged = fold_of[places] >= 0
        if not judged.any() or len(np.unique(fold_of[places])) < 2:
            return cls(kind, places[:0], y[:0], groups[:0], (), len(y))
        quick = QuickHeads.of(read(places), y[places], fold_masks(fold_of[places]))
        named = tuple((head, scores.argmax(axis=1)[judged]) for head, scores in quick.others_than(kind))
        places = places[judged]
        return cls(kind, places, y[places], groups[places], named, len(y))

    def suggestion(self, held_out: np.ndarray | None) -> Suggestion | None:
        """The best of the heads that are clearly better than the trained one, if there is any.

        That is, by `LEAST_GAIN` at least, with a p of `ALPHA` at most.

        Args:
            held_out: (n, k) what the trained head says of each training image without having seen it, see
                `Head.held_out_`; None if nothing was held out, and then nothing is suggested.
        """
        if held_out is None:
            return None
        clear = [one for one in self.versions(held_out) if one.gain >= LEAST_GAIN and one.p <= ALPHA]
        return max(clear, key=lambda one: one.accuracy, default=None)

    def versions(self, held_out: np.ndarray) -> list[Suggestion]:
        """Every quick version against the trained head, whether or not it is better; arguments as above."""
        now = held_out[self.places].argmax(axis=1) == self.y
        # Where there is nothing to learn, some heads are right less often than by chance when rows are held out: the
        # class of what is left out is rarer in the rest. To be better than these is nothing.
        guessed = self.y == np.bincount(self.y).argmax() if len(self.y) else now
        return [
            Suggestion(
                head=head,
                accuracy=float(right.mean()),
                instead_of=self.kind,
                accuracy_now=float(now.mean()),
                p=min(len(self.named) * max(self._p(right, now), self._p(right, guessed)), 1.0),
                images=len(now),
                of=self.total,
            )
            for head, right in ((head, labels == self.y) for head, labels in self.named)
        ]

    def _p(self, right: np.ndarray, other: np.ndarray) -> float:
        """p of McNemar's test, in which a group counts once, for the answer that is right on more of its images."""
        _, member = np.unique(self.groups, return_inverse=True)
        lead = np.bincount(member, weights=right.astype(float) - other)
        return mcnemar(lead > 0, lead < 0)


@dataclass(frozen=True, eq=False)
class QuickHeads:
    """Ridge, a Gaussian kernel machine and nearest neighbours from one product of the rows with themselves.

    Attributes:
        gram: (n, n) float32, products of the standardised rows.
        y: (n,) int64 classes.
        held_out: (n, f) bool, which fold holds which row out. A fold to each row: leave-one-out.
        classes: Their number k.
    """

    gram: np.ndarray
    y: np.ndarray
    held_out: np.ndarray
    classes: int

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> Self:
        """The products of (n, d) rows."""
        mean, scale = standardisation(x)
        z = (x - mean) / scale
        return cls(z @ z.T, y, held_out, int(y.max()) + 1)

    def others_than(self, kind: str) -> Iterator[tuple[str, np.ndarray]]:
        """(head, (n, k) scores) of all versions but those of the given kind; 0 for rows that no fold holds out."""
        if kind not in LINEAR:
            for penalty in _PENALTIES:
                yield "ridge", self.ridge(penalty * float(self.squares.sum()))
        if kind != "rbf-svm":
            yield "rbf-svm", self.gaussian(_INVERSE_WIDTH / max(float(self.squares.mean()), 1e-12), _PENALTY)
        if kind != "knn":
            yield "knn", self.neighbours(_NEIGHBOURS, _DECAY)

    @property
    def squares(self) -> np.ndarray:
        """(n,) squared lengths of the rows."""
        return np.asarray(self.gram.diagonal())

    def ridge(self, alpha: float) -> np.ndarray:
        """(n, k) held-out scores of ridge regression on +1 and -1 with a free intercept, as scikit-learn's."""
        return self._least_squares(self.gram.astype(np.float64), alpha)

    def gaussian(self, gamma: float, penalty: float) -> np.ndarray:
        """(n, k) held-out scores of a least-squares support vector machine with kernel exp(-gamma |x - s|^2)."""
        distances = np.maximum(self.squares[:, None] + self.squares - 2 * self.gram, 0)
        return self._least_squares(np.exp(-gamma * distances.astype(np.float64)), penalty)

    def neighbours(self, count: int, decay: float) -> np.ndarray:
        """(n, k) held-out scores of the rows nearest by cosine, see `vote_scores`."""
        lengths = np.sqrt(np.maximum(self.squares, 1e-24))
        cosines = self.gram / lengths / lengths[:, None]
        for fold in self.held_out.T:
            cosines[np.ix_(fold, fold)] = -np.inf
        count = min(count, len(self.y) - int(self.held_out.sum(axis=0).max()))
        nearest = nearest_first(cosines, count)
        votes = np.eye(self.classes, dtype=np.float32)[self.y]
        return np.asarray(vote_scores(np.take_along_axis(cosines, nearest, axis=1), votes[nearest], decay))

    def _least_squares(self, kernel: np.ndarray, penalty: float) -> np.ndarray:
        """(n, k) held-out scores of least squares on +1 and -1 with a free intercept; the kernel is overwritten.

        With G = kernel + penalty, P = G^-1 - G^-1 1 1' G^-1 / (1' G^-1 1) maps targets to coefficients, and the
        residuals of a fold F by the fit without it are (P_FF)^-1 (P t)_F: exact, from one inverse for all folds.

        Source: G. C. Cawley (2006), Leave-one-out cross-validation based model selection criteria for weighted
        LS-SVMs, IJCNN, 1661-1668.
        """
        kernel[np.diag_indices(len(kernel))] += penalty
        inverse = _inverse(kernel)
        sums = inverse.sum(axis=0)
        inverse -= np.outer(sums, sums / sums.sum())
        targets = 2.0 * (self.y[:, None] == np.arange(self.classes)) - 1
        coefficients = inverse @ targets
        scores = np.zeros_like(targets)
        for fold in self.held_out.T:
            scores[fold] = targets[fold] - np.linalg.solve(inverse[np.ix_(fold, fold)], coefficients[fold])
        return np.asarray(scores)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a symmetric positive definite matrix, which is overwritten; half the work of `np.linalg.inv`."""
    factor, failed = lapack.dpotrf(matrix.T, lower=True, overwrite_a=True)
    if not failed:
        factor, failed = lapack.dpotri(factor, lower=True, overwrite_c=True)
    if failed:
        raise np.linalg.LinAlgError(f"the matrix is not positive definite (LAPACK {failed})")
    lower = np.tril(factor)
    return np.asarray(lower + np.tril(factor, -1).T)
