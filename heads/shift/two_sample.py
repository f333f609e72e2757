"""Do new rows come from the distribution of old ones? A classifier is asked, and permutations say what luck gives."""

import math
from dataclasses import dataclass

import numpy as np

from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.folds import FOLDS
from onepass.heads.fitting.pca import principal_axes
from onepass.heads.inference.network import standardisation
from onepass.heads.stats.detectable import POWER
from onepass.heads.stats.intervals import ALPHA

AXES = 64
"""Most principal axes along which rows are compared."""

PERMUTATIONS = 999
_AT_ONCE = 250
"""Permutations held at a time."""


@dataclass(frozen=True)
class Detectable:
    """The smallest shift that would have been found in four of five cases.

    Attributes:
        auc: What the classifier would reach on it; infinite if not even 1 would be found.
        move: The same as a move of all new rows in one direction, in standard deviations along it; for a direction
            that favours no principal axis.
    """

    auc: float
    move: float


@dataclass(frozen=True, eq=False)
class TwoSampleTest:
    """A classifier two-sample test of rows.

    Attributes:
        auc: Share of the pairs of an old and a new image in which the classifier, out of fold, gives the new one the
            higher score; 0.5 if it cannot tell.
        p: Of "old and new images come from one distribution", by permutations.
        axes: Principal axes that the rows were compared along.
        scores: (n,) float64 out of fold, in standard deviations of the old images of the fold from their mean; the
            higher the more an image looks new. NaN where the fold holds fewer than two old images.
        spread: Standard deviation of the AUC where nothing is shifted.
        detectable: Which shift would have been found.
    """

    auc: float
    p: float
    axes: int
    scores: np.ndarray
    spread: float
    detectable: Detectable

    @property
    def found(self) -> bool:
        """Whether there is a shift, at the level `ALPHA`."""
        return self.p <= ALPHA


@one_blas_thread
def two_sample_test(
    x: np.ndarray, is_new: np.ndarray, groups: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> TwoSampleTest:
    """Tests whether new rows come from the distribution of old ones.

    Ridge regression on 0 for old and 1 for new is fitted on four fifths of the groups, along the leading principal axes
    of all rows together, and scores the other fifth. Neither axes nor folds know which rows are new, so the same
    fits serve any permutation: one product a fold gives the scores under all of them. Permutations exchange the sides
    of whole groups; in a group with both sides, such as an image and its copy, they exchange those of its images.
    AUCs are taken within folds, whose scores have no common zero.

    Args:
        x: (n, d) float32.
        is_new: (n,) bool, of both kinds.
        groups: (n,) integers, equal for images that stay in one fold.
        permutations: How many; the smallest p is 1 / (permutations + 1).
        seed: Of folds and permutations.

    Source: D. Lopez-Paz, M. Oquab (2017), Revisiting Classifier Two-Sample Tests, ICLR; p by permutation: I. Kim,
    A. Ramdas, A. Singh, L. Wasserman (2021), Ann. Stat. 49(1), 411-434.
    """
    generator = np.random.default_rng(seed)
    _, member = np.unique(groups, return_inverse=True)
    fold_of = _label_free_folds(member, generator)
    rotated = _components(x)
    axes = rotated.shape[1]
    ridge = float(np.square(rotated).sum(axis=0).mean() / len(rotated))
    fits = [_Fold.of(rotated, fold_of == fold, ridge) for fold in range(int(fold_of.max()) + 1)]
    sides = is_new.astype(np.float64)[:, None]
    observed = _aucs(fits, sides)[0]
    drawn = [
        _aucs(fits, _permuted(is_new, member, min(_AT_ONCE, permutations - start), generator))
        for start in range(0, permutations, _AT_ONCE)
    ]
    null = np.concatenate(drawn)
    # Rounding must not tell equal sums apart.
    p = (1 + int((null >= observed - 1e-12).sum())) / (permutations + 1)
    variances = np.square(rotated).sum(axis=0) / len(rotated)
    detectable = detectable_shift_of(null, variances, ridge, int(is_new.sum()), int((~is_new).sum()))
    return TwoSampleTest(float(observed), p, axes, _scores(fits, is_new), float(null.std()), detectable)


def _label_free_folds(member: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(n,) folds of whole groups, about equally large, without a look at what is new."""
    sizes = np.bincount(member)
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    count = min(FOLDS, len(sizes))
    filled, fold_of = np.zeros(count), np.empty(len(sizes), np.int64)
    for group in order:
        fold_of[group] = fold = int(filled.argmin())
        filled[fold] += sizes[group]
    return np.asarray(fold_of[member])


def _components(x: np.ndarray) -> np.ndarray:
    """(n, r) float64: standardised rows along their leading principal axes, centred."""
    mean, scale = standardisation(x)
    rotated = principal_axes((x - mean) / scale)[1]
    return np.asarray(rotated[:, : max(1, min(AXES, len(x) // 4))])


@dataclass(frozen=True, eq=False)
class _Fold:
    """A fold, and how its scores follow from the sides of the others.

    Attributes:
        held: (n,) bool, the images that it holds out.
        rows: (h, r) of these, less the mean of the others.
        fit: (r, n - h): the weights of the scores from the centred sides of the others.
    """

    held: np.ndarray
    rows: np.ndarray
    fit: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, held: np.ndarray, ridge: float) -> "_Fold":
        mean = x[~held].mean(axis=0)
        train = x[~held] - mean
        inner = train.T @ train
        inner[np.diag_indices(len(inner))] += ridge * len(train)
        return cls(held, x[held] - mean, np.linalg.solve(inner, train.T))

    def scores(self, sides: np.ndarray) -> np.ndarray:
        """(n, m) sides, 1 for new -> (h, m) scores of the held-out images."""
        train = sides[~self.held]
        return np.asarray(self.rows @ (self.fit @ (train - train.mean(axis=0))))


def _aucs(fits: list[_Fold], sides: np.ndarray) -> np.ndarray:
    """(n, m) sides -> (m,) shares of the pairs within folds that are in order."""
    from scipy.stats import rankdata

    ordered, pairs = np.zeros(sides.shape[1]), np.zeros(sides.shape[1])
    for fold in fits:
        # Equal rows have equal scores but for rounding.
        ranks = rankdata(np.round(fold.scores(sides), 10), axis=0)
        new = sides[fold.held]
        count = new.sum(axis=0)
        ordered += (ranks * new).sum(axis=0) - count * (count + 1) / 2
        pairs += count * (len(new) - count)
    return np.where(pairs > 0, ordered / np.maximum(pairs, 1), 0.5)


def _permuted(is_new: np.ndarray, member: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """(n, count) sides, exchanged between groups that have one side, and within those that have both."""
    sizes, new = np.bincount(member), np.bincount(member, is_new)
    pure = (new == 0) | (new == sizes)
    side_of, mixed = (new > 0).astype(np.float64), np.flatnonzero(~pure)
    within = [np.flatnonzero(member == group) for group in mixed]
    sides = np.empty((len(member), count))
    for column in range(count):
        drawn = side_of.copy()
        drawn[pure] = generator.permutation(drawn[pure])
        sides[:, column] = drawn[member]
        for images in within:
            sides[images, column] = generator.permutation(is_new[images])
    return sides


def _scores(fits: list[_Fold], is_new: np.ndarray) -> np.ndarray:
    found = np.full(len(is_new), np.nan)
    for fold in fits:
        own = fold.scores(is_new.astype(np.float64)[:, None])[:, 0]
        old = own[~is_new[fold.held]]
        if len(old) > 1 and (spread := old.std()) > 0:
            found[fold.held] = (own - old.mean()) / spread
    return found


def detectable_shift_of(null: np.ndarray, variances: np.ndarray, ridge: float, new: int, old: int) -> Detectable:
    """Which shift the test at `ALPHA` finds in four of five cases.

    The AUC has to exceed what luck reaches in one case of twenty. Around its true value it spreads as it does without
    a shift, times what J. A. Hanley and B. J. McNeil's formula says of the spread at that value against that at 0.5.

    How large a move gives such an AUC follows for normal rows with variances s_j along the axes and the ridge l, with
    h_j = s_j / (s_j + l). The fitted direction is (S + l)^-1 of the difference of the means, which is off by noise of
    variance s_j / m along axis j, where 1 / m = 1 / old + 1 / new for the four fifths that are fitted on. For a move
    of d standard deviations that favours no axis its mean gain is d^2 mean(h), and the variance of a score
    d^2 mean(h^2) + sum(h^2) / m; so AUC = Phi(gain / sqrt(2 variance)).

    Args:
        null: (m,) AUCs of permutations.
        variances: (r,) along the axes.
        ridge: Added to each of them.
        new: Images.
        old: Images.

    Source: J. A. Hanley, B. J. McNeil (1982), Radiology 143(1), 29-36.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    critical, spread, quantile = float(np.quantile(null, 1 - ALPHA)), float(null.std()), float(ndtri(POWER))
    flat = _hanley_mcneil(0.5, new, old)

    def short(auc: float) -> float:
        return critical + quantile * spread * _hanley_mcneil(auc, new, old) / flat - auc

    never = float((null >= null.max() - 1e-12).mean()) > ALPHA  # luck reaches the highest value too often
    if never or critical >= 1 or short(1 - 1e-9) > 0:
        return Detectable(math.inf, math.inf)
    auc = float(brentq(short, 0.5, 1 - 1e-9)) if short(0.5) > 0 else 0.5
    kept = variances / (variances + ridge)
    fitted = (FOLDS - 1) / FOLDS
    noise = float(np.square(kept).sum()) * (1 / new + 1 / old) / fitted

    def reached(move: float) -> float:
        gain = move**2 * float(kept.mean())
        return float(ndtr(gain / math.sqrt(2 * (move**2 * float(np.square(kept).mean()) + noise)))) - auc

    return Detectable(auc, float(brentq(reached, 0.0, 100.0)) if auc > 0.5 and reached(100.0) > 0 else math.inf)


def _hanley_mcneil(auc: float, new: int, old: int) -> float:
    """Standard deviation of an AUC of so many images, whatever the distribution of the scores."""
    one, other = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (new - 1) * (one - auc**2) + (old - 1) * (other - auc**2)
    return math.sqrt(max(variance, 0.0) / (new * old))
