"""The best of several heads, and the heads that do not differ significantly from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from onepass.features.errors import TrainingError
from onepass.heads.stats.intervals import ALPHA, Difference


@dataclass(frozen=True)
class Comparison:
    """Every head against every other one.

    Attributes:
        names: The heads, in the order given.
        best: The head with the best score; of equal ones the first.
        ties: Heads that are not significantly worse than the best, the best included, in the order of `names`.
        to_best: Name -> the head minus the best. Interval and p are for that pair alone, so a head can
            be in `ties` though its interval leaves out 0; `adjusted_p` decides.
        adjusted_p: (first, second) in the order of `names` -> p of the pair after Holm over all pairs.
    """

    names: tuple[str, ...]
    best: str
    ties: tuple[str, ...]
    to_best: dict[str, Difference]
    adjusted_p: dict[tuple[str, str], float]


def compare_all(
    names: Sequence[str],
    difference: Callable[[int, int], Difference],
    *,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
) -> Comparison:
    """Finds the best head and all those that may well be as good.

    The best head is known only after looking, and of equally good heads the luckiest looks best. Were
    only its own m - 1 comparisons corrected for, that luck would count as evidence. So Holm's method
    runs over all m (m - 1) / 2 pairs: with probability 1 - alpha no two equally good heads are called
    different, whichever turns out best. The price is some power; a head may stay in the tie set that a
    plan made beforehand, with a single comparison, would have found worse than the best.

    Args:
        names: m different names, m >= 1; put the cheapest first and `ties[0]` is the cheapest that will do.
        difference: (i, j) with i < j -> head i minus head j, such as `paired_accuracy` of the two.
        higher_is_better: False for a log-loss.
        alpha: Chance of any false claim.

    Raises:
        TrainingError: There are no heads.

    >>> far, near = Difference(0.2, (0.1, 0.3), 0.001), Difference(0.01, (-0.02, 0.04), 0.5)
    >>> compare_all(["ridge", "knn", "svm"], lambda i, j: near if (i, j) == (0, 1) else far).ties
    ('ridge', 'knn')
    """
    if not names:
        raise TrainingError("there are no heads to compare; needed: at least 1.")
    pairs = list(combinations(range(len(names)), 2))
    found = {pair: difference(*pair) for pair in pairs}
    adjusted = dict(zip(pairs, holm(np.array([found[pair].p for pair in pairs])).tolist(), strict=True))
    gains = [0.0] + [-found[0, i].difference for i in range(1, len(names))]
    merits = np.array(gains) if higher_is_better else -np.array(gains)
    # Equal scores differ by rounding; the first of them is the best.
    best = int(np.flatnonzero(merits >= merits.max() - 1e-12)[0])
    tied = [i for i in range(len(names)) if i == best or adjusted[min(i, best), max(i, best)] > alpha]
    to_best = {
        name: Difference(0.0, (0.0, 0.0), 1.0) if i == best else found[i, best] if i < best else -found[best, i]
        for i, name in enumerate(names)
    }
    return Comparison(
        names=tuple(names),
        best=names[best],
        ties=tuple(names[i] for i in tied),
        to_best=to_best,
        adjusted_p={(names[i], names[j]): p for (i, j), p in adjusted.items()},
    )


def holm(p: np.ndarray) -> np.ndarray:
    """p values adjusted for their number, so that the chance of any false claim stays below alpha.

    The smallest is multiplied by m, the next by m - 1, and so on; none falls below the one before it
    or rises above 1. It holds for any dependence between the tests.

    Args:
        p: (m,) in [0, 1], any order.

    Returns:
        (m,) adjusted p values, in the order given.

    Source: S. Holm (1979), Scand. J. Stat. 6(2), 65-70.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted
