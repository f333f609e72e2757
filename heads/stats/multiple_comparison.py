"""The best of several heads, and the heads that do not differ significantly from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from onepass.features.errors import TrainingError
from onepass.heads.stats.intervals import ALPHA, Difference


@dataclass(frozen=True)
class PairedTest:
    """A test of any two of several heads, by their places, at a level of the caller's choice.

    Attributes:
        difference: (i, j, alpha) -> head i minus head j, with an interval that covers 1 - alpha and leaves out 0
            exactly where p <= alpha.
        detectable: (i, j, alpha) -> the smallest true difference between the two, in units of the score, that the
            test at alpha finds in four of five cases; infinite where it never does.
    """

    difference: Callable[[int, int, float], Difference]
    detectable: Callable[[int, int, float], float]


@dataclass(frozen=True)
class Comparison:
    """Every head against every other one.

    Attributes:
        names: The heads, in the order given.
        best: The head with the best score; of equal ones the first.
        ties: Heads that are not significantly worse than the best, the best included, in the order of `names`:
            those whose interval in `to_best` holds 0.
        to_best: Name -> the head minus the best. The intervals hold for all pairs together: with 95 % probability
            each of them covers its true difference. p is that of the pair alone; `adjusted_p` counts.
        adjusted_p: (first, second) in the order of `names` -> p of the pair after Bonferroni over all pairs.
        detectable: Name -> the smallest true difference to the best that would have been found in four of five
            cases, > 0; for all but the best.
    """

    names: tuple[str, ...]
    best: str
    ties: tuple[str, ...]
    to_best: dict[str, Difference]
    adjusted_p: dict[tuple[str, str], float]
    detectable: dict[str, float] = field(default_factory=dict)


def compare_all(
    names: Sequence[str],
    test: PairedTest,
    *,
    higher_is_better: bool = True,
    alpha: float = ALPHA,
) -> Comparison:
    """Finds the best head and all those that may well be as good.

    The best head is known only after looking, and of equally good heads the luckiest looks best. Were
    only its own m - 1 comparisons corrected for, that luck would count as evidence. So each of all
    m (m - 1) / 2 pairs is tested, and has its interval, at alpha divided by their number (Bonferroni): with
    probability 1 - alpha no two equally good heads are called different, whichever turns out best, and all intervals
    cover their true differences. The price is some power, which `detectable` tells.

    Holm's step-down method would call a few more pairs different, but no informative simultaneous
    intervals agree with its decisions: those of the pairs it rejects end at 0. Tukey's range would gain little:
    for nine equally good heads its critical value is 3 % below Bonferroni's.

    Args:
        names: m different names, m >= 1; put the cheapest first and `ties[0]` is the cheapest that will do.
        test: Of places in `names`, such as `paired_test` makes.
        higher_is_better: False for a log-loss.
        alpha: Chance of any false claim.

    Raises:
        TrainingError: There are no heads.

    Source: O. J. Dunn (1961), J. Am. Stat. Assoc. 56(293), 52-64; K. Strassburger, F. Bretz (2008), Stat. Med. 27(24),
    4914-4927, on the intervals that agree with Holm's method.

    >>> far, near = Difference(0.2, (0.1, 0.3), 0.001), Difference(0.01, (-0.02, 0.04), 0.5)
    >>> test = PairedTest(lambda i, j, alpha: near if (i, j) == (0, 1) else far, lambda i, j, alpha: 0.05)
    >>> compare_all(["ridge", "knn", "svm"], test).ties
    ('ridge', 'knn')
    """
    if not names:
        raise TrainingError("there are no heads to compare; needed: at least 1.")
    pairs = list(combinations(range(len(names)), 2))
    level = alpha / max(len(pairs), 1)
    found = {pair: test.difference(*pair, level) for pair in pairs}
    gains = [0.0] + [-found[0, i].difference for i in range(1, len(names))]
    merits = np.array(gains) if higher_is_better else -np.array(gains)
    # Equal scores differ by rounding; the first of them is the best.
    best = int(np.flatnonzero(merits >= merits.max() - 1e-12)[0])
    others = {i: (min(i, best), max(i, best)) for i in range(len(names)) if i != best}
    to_best = {
        name: Difference(0.0, (0.0, 0.0), 1.0) if i == best else found[i, best] if i < best else -found[best, i]
        for i, name in enumerate(names)
    }
    return Comparison(
        names=tuple(names),
        best=names[best],
        ties=tuple(name for i, name in enumerate(names) if i == best or found[others[i]].p > level),
        to_best=to_best,
        adjusted_p={(names[i], names[j]): min(1.0, len(pairs) * gap.p) for (i, j), gap in found.items()},
        detectable={names[i]: test.detectable(*pair, level) for i, pair in others.items()},
    )
