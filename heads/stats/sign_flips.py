"""Whether the best of several candidates beats a reference, where the images that compare them also chose it."""

from typing import NamedTuple

import numpy as np

FLIPS = 4999
"""Random signs for every image by default; the smallest p is 1 / 5000."""

_SAME = 1e-4
"""Sums that are nearer than this differ by rounding: whole numbers over the root of their number."""


class BestOfSeveral(NamedTuple):
    """How a chosen candidate does against the reference.

    Attributes:
        gain: Mean difference of the chosen candidate.
        p: One-sided p value of "no candidate is better than the reference", in (0, 1].
        error: Standard error of the gain if there is none, in units of the differences.
    """

    gain: float
    p: float
    error: float


def best_of_several(
    differences: np.ndarray, chosen: int, *, groups: np.ndarray | None = None, flips: int = FLIPS, seed: int = 0
) -> BestOfSeveral:
    """Tests a candidate that was chosen by the very images it is tested on, in whatever way it was chosen.

    Where a candidate is as good as the reference, the differences of an image are as likely to have the opposite sign.
    So the sign of each image is drawn at random, for all candidates alike, and counted is how often the best
    of them comes out as far above 0, in its own standard errors, as the chosen one did. Candidates that get the same
    images right cost nothing that way, and the epochs of one training, which get much the same ones right, less than
    a division of alpha among them. With one candidate this is McNemar's exact test, one-sided and sampled.

    Args:
        differences: (m, n) score of m candidates minus that of the reference on each of n images: -1, 0 or 1 for
            accuracy.
        chosen: Position of the chosen candidate.
        groups: (n,) integers, equal for images that belong together and have one sign; by default each is alone.
        flips: How many times signs are drawn.
        seed: Of the signs.

    Source: P. H. Westfall, S. S. Young (1993), Resampling-Based Multiple Testing, section 2.3 (single-step max T).

    >>> alone = best_of_several(np.ones((1, 5)), 0)
    >>> round(alone.p, 2)  # 1 / 2 ** 5
    0.03
    """
    m, n = differences.shape
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    totals = np.zeros((int(units.max()) + 1 if n else 0, m), np.float32)
    np.add.at(totals, units, differences.T.astype(np.float32))
    totals = totals[totals.any(axis=1)]
    lengths = np.sqrt((totals**2).sum(axis=0))
    scaled = totals / np.where(lengths > 0, lengths, 1)
    largest = _largest_sums(scaled, flips, np.random.default_rng(seed))
    reached = int((largest >= scaled[:, chosen].sum() - _SAME).sum())
    return BestOfSeveral(
        gain=float(differences[chosen].mean()) if n else 0.0,
        p=(1 + reached) / (1 + flips),
        error=float(lengths[chosen]) / max(n, 1),
    )


def _largest_sums(scaled: np.ndarray, flips: int, random: np.random.Generator) -> np.ndarray:
    """(flips,) largest of the m sums of (u, m) values whose rows have random signs."""
    units, all_up = len(scaled), scaled.sum(axis=0)
    step = max(1, 2**22 // max(units, 1))
    found = []
    for start in range(0, flips, step):
        draws = random.integers(256, size=(min(step, flips - start), -(-units // 8)), dtype=np.uint8)
        up = np.unpackbits(draws, axis=1, count=units).astype(np.float32)
        found.append((2 * (up @ scaled) - all_up).max(axis=1))
    return np.concatenate(found)
