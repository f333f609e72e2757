"""Means and spreads of new rows mapped to those of the training, folded into a head; kept where labels prove it."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from onepass.features import content_split
from onepass.features.errors import MissingSideWarning
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.inference.network import Network
from onepass.heads.shift.accuracy import Share
from onepass.heads.stats.intervals import ALPHA

FEWEST = 20
"""Labelled new images to decide by, at least; as many others are reported."""

_STEADY = 0.05
"""Of the average deviation: added, so that features that hardly move are not blown up."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Where rows lie, feature by feature.

    Attributes:
        mean: (d,) float64.
        deviation: (d,) float64, above 0.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[np.ndarray]) -> Self:
        """Of rows that come as (m, d) pieces."""
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for rows in pieces:
            wide = rows.astype(np.float64)
            count, total, squares = count + len(rows), total + wide.sum(axis=0), squares + np.square(wide).sum(axis=0)
        mean = total / count
        variance = np.maximum(squares / count - np.square(mean), 0)
        floor = _STEADY**2 * float(variance.mean()) or 1.0
        return cls(mean, np.sqrt(variance + floor))


def recentred(network: Network, old: Spread, new: Spread) -> Network:
    """A head for new rows that sees them where the old ones lay.

    A new row x counts as (x - new mean) * old / new deviation + old mean. Every head begins with (x - mean) / scale,
    which takes that in exactly: with r = new / old deviation its mean becomes new mean - (old mean - mean) r, and its
    scale r times as large.

    Args:
        network: Fitted on old rows.
        old: Of these.
        new: Of the new rows.

    Source: Y. Li, N. Wang, J. Shi, J. Liu, X. Hou (2016), Revisiting Batch Normalization for Practical Domain
    Adaptation, arXiv:1603.04779; here for frozen rows in place of inner activations.
    """
    ratio = new.deviation / old.deviation
    mean = new.mean - (old.mean - network.mean) * ratio
    moved = {"mean": mean.astype(np.float32), "scale": (network.scale * ratio).astype(np.float32)}
    return type(network).restore({**network.arrays(), **moved}, network.settings())


@dataclass(frozen=True)
class Recentring:
    """What recentring did, and whether it is kept.

    Attributes:
        kept: Whether it is better on the images that decide, by the test.
        reason: Why it is not, in words; "" if it is.
        decided_on: New images that decided.
        p: Of "it is as good as the head as it is" there, by the sign test of groups; None if nothing could decide.
        before: Accuracy of the head as it is, on other new images, which decided nothing; None without such.
        after: Accuracy of the recentred head on the same.
    """

    kept: bool
    reason: str
    decided_on: int = 0
    p: float | None = None
    before: Share | None = None
    after: Share | None = None

    def __str__(self) -> str:
        if self.before is None:
            return f"recentred: not kept; {self.reason}"
        verdict = "kept" if self.kept else f"not kept; {self.reason}"
        chance = "" if self.p is None else f" (p {self.p:.2g} on {self.decided_on} others, which decided)"
        return f"recentred: {self.after} against {self.before}{chance}: {verdict}"


@dataclass(frozen=True, eq=False)
class Recentred:
    """A recentred head, and the images that were used for it.

    Attributes:
        network: The head.
        decided: (a,) positions of the images whose rows it was fitted to and that decided.
        reported: (b,) positions of the others.
        found: What came out.
    """

    network: Network
    decided: np.ndarray
    reported: np.ndarray
    found: Recentring


def unlabelled_recentring() -> Recentring:
    """What there is to say where nothing can decide."""
    return Recentring(
        kept=False, reason="only labels of new images can show that it is better, and these have none for the head"
    )


def try_recentring(
    network: Network,
    old: Spread,
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray,
    hashes: np.ndarray,
    seed: int = 0,
) -> Recentred | Recentring:
    """Recentres a head on half of some labelled new images, asks these whether it is better, and scores the others.

    Where it decides, each image is seen by a head that was recentred without its fold.

    Args:
        network: Fitted on old rows.
        old: Where these lie.
        x: (n, d) float32, new rows.
        y: (n,) their classes.
        groups: (n,) integers, equal for images that must stay together.
        hashes: (n, 32) uint8, of their files, by which they are halved.
        seed: Of the halves and folds.

    Returns:
        The head, or why there is none.
    """
    with warnings.catch_warnings():  # that a class lies on one side of these halves alone is nobody's business
        warnings.simplefilter("ignore", MissingSideWarning)
        side = content_split(hashes, y, copies=groups, test=0.5, seed=seed)
    decided, reported = np.flatnonzero(~side), np.flatnonzero(side)
    if min(len(decided), len(reported)) < FEWEST:
        return Recentring(
            kept=False,
            reason=f"{len(y)} labelled new images that the head has not seen are too few; needed: {2 * FEWEST} or more",
        )
    here, wanted = x[decided], y[decided]
    fold_of = assign_folds(np.zeros(len(decided), np.int64), groups=groups[decided], seed=seed)
    plain, moved = _right(network, here, wanted), np.zeros(len(decided), bool)
    for fold in np.unique(fold_of):
        out = fold_of == fold
        moved[out] = _right(recentred(network, old, Spread.of([here[~out]])), here[out], wanted[out])
    p, better = sign_test_of_groups(moved, plain, groups[decided])
    head = recentred(network, old, Spread.of([here]))
    kept = better and p <= ALPHA
    found = Recentring(
        kept=kept,
        reason="" if kept else "it is not measurably better",
        decided_on=len(decided),
        p=p,
        before=Share.of(_right(network, x[reported], y[reported])),
        after=Share.of(_right(head, x[reported], y[reported])),
    )
    return Recentred(head, decided, reported, found)


def sign_test_of_groups(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> tuple[float, bool]:
    """Two-sided sign test of two heads on the same images, each group a single witness.

    Args:
        first: (n,) bool, which images the first head gets right.
        second: (n,) bool, the same for the second.
        groups: (n,) integers; where each image is alone, this is McNemar's exact test.

    Returns:
        p, and whether the first is ahead.
    """
    from scipy.stats import binomtest

    _, member = np.unique(groups, return_inverse=True)
    gains = np.bincount(member, first.astype(np.float64) - second)
    ahead, behind = int((gains > 0).sum()), int((gains < 0).sum())
    p = float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0
    return p, ahead > behind


def _right(network: Network, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(network.outputs(x).argmax(axis=1) == y)
