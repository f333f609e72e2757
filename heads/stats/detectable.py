"""The smallest true difference between two heads that a test would have found in four of five cases."""

import math
from collections.abc import Callable

import numpy as np

POWER = 0.8


def detectable_accuracy(discordant: int, n: int, *, alpha: float) -> float:
    """Smallest true difference of accuracy that McNemar's exact test finds in four of five cases.

    Its power is summed exactly: the number of images that one head alone gets right is binomial with rate psi,
    and given that number, how many of them the better head gets right is binomial with (1 + difference / psi) / 2.
    psi grows with the difference: three quarters of what a head falls behind are mistakes that it alone makes now, one
    quarter are mistakes that the other alone made; of those at least a quarter stay. The rate observed, from which
    it grows, has one image added. For two normal variables of correlation 0.6 to 0.9 cut at accuracies of 0.7 to
    0.93 that is psi to about a tenth.

    Args:
        discordant: Images that exactly one of the two heads gets right.
        n: Images, n >= 1.
        alpha: Two-sided level of the test, already divided by the number of pairs.

    Returns:
        A fraction in (0, 1], or infinity where not even a difference of 1 is found.

    Source: S. W. Duffy (1984), Biometrics 40(4), 1005-1015 (power of McNemar's test given the discordant pairs).
    """

    def power(difference: float) -> float:
        alike = (discordant + 1) / (n + 2)
        psi = min(difference + max(alike - difference / 2, alike / 4), 1.0)
        return mcnemar_power(difference, psi, n, alpha=alpha)

    return _smallest(power, 1.0)


def mcnemar_power(difference: float, psi: float, n: int, *, alpha: float) -> float:
    """Probability that McNemar's exact test at alpha calls the better of two heads better.

    Args:
        difference: Between their true accuracies, 0 <= difference <= psi.
        psi: Share of images that exactly one of the two gets right, above 0.
        n: Images.
        alpha: Two-sided level.
    """
    from scipy.stats import binom

    spread = 6 * math.sqrt(n * psi * (1 - psi)) + 8
    counts = np.arange(max(0, math.floor(n * psi - spread)), min(n, math.ceil(n * psi + spread)) + 1)
    needed = binom.isf(alpha / 2, counts, 0.5)  # p <= alpha where the better head is right on more of them
    found = binom.sf(needed, counts, min(1.0, (1 + difference / psi) / 2))
    return float(binom.pmf(counts, n, psi) @ found)


def more_discordant(difference: float) -> float:
    """By how much a true difference raises the variance of one image's difference above that of equally good heads."""
    return max(difference / 2 - difference**2, 0.0)


def shift_of_t(df: int, *, alpha: float) -> float:
    """Noncentrality at which a t test at alpha finds a difference in four of five cases.

    Args:
        df: Degrees of freedom, >= 1.
        alpha: Two-sided level.
    """
    from scipy.special import stdtrit
    from scipy.stats import nct

    critical = float(stdtrit(df, 1 - alpha / 2))
    return _smallest(lambda shift: float(nct.sf(critical, df, shift)), 4 * critical + 10)


def detectable_shift(shift: float, variance: Callable[[float], float]) -> float:
    """True difference that is so many of its standard errors.

    Args:
        shift: How many.
        variance: True difference -> variance of the estimated one.
    """
    gap = shift * math.sqrt(variance(0.0))
    for _ in range(50):
        gap = shift * math.sqrt(variance(min(gap, 1.0)))
    return gap


def _smallest(power: Callable[[float], float], largest: float) -> float:
    """Smallest x in (0, largest] at which a growing function reaches `POWER`; infinity if it does not."""
    if power(largest) < POWER:
        return math.inf
    low, high = 0.0, largest
    while high - low > 1e-4 * largest:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high
