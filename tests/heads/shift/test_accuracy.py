"""Accuracy after a shift: intervals and p against independent formulas, the estimate without labels on known cases."""

import numpy as np
import pytest
from scipy.stats import binom

from onepass.heads.shift.accuracy import detectable_difference, estimated_accuracy, unpaired_difference


def test_the_difference_of_two_accuracies_is_newcombes_example():
    # Newcombe (1998), table II, example (a): 56/70 and 48/80, method 10.
    found = unpaired_difference(np.arange(70) < 56, np.arange(80) < 48)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_p_is_the_sum_over_tables_that_are_no_likelier():
    from scipy.stats import hypergeom

    found = unpaired_difference(np.arange(20) < 17, np.arange(30) < 15)
    chances = hypergeom.pmf(np.arange(21), 50, 32, 20)
    assert found.p == pytest.approx(chances[chances <= chances[17] * (1 + 1e-9)].sum())


def test_an_interval_leaves_out_0_only_where_p_is_small():
    for right in range(20, 31):
        found = unpaired_difference(np.arange(30) < right, np.arange(30) < 24)
        assert found.p <= 0.05 or found.interval[0] <= 0 <= found.interval[1]


@pytest.mark.parametrize(("n", "m"), [(100, 150), (400, 60)])
def test_the_detectable_difference_is_found_in_about_four_of_five_cases(n: int, m: int):
    gap = detectable_difference(0.9, n, m)
    one, other = np.arange(n + 1), np.arange(m + 1)
    from scipy.stats import fisher_exact

    likely = [(a, b) for a in one for b in other]
    chance = binom.pmf(one, n, 0.9)[:, None] * binom.pmf(other, m, 0.9 - gap)[None]
    found = (
        sum(
            chance[a, b]
            for a, b in likely
            if chance[a, b] > 1e-4 and fisher_exact([[a, n - a], [b, m - b]]).pvalue <= 0.05
        )
        / chance[chance > 1e-4].sum()
    )
    assert 0.68 < found < 0.92


def test_without_a_shift_the_estimate_is_the_accuracy(rng):
    def told(n: int) -> tuple[np.ndarray, np.ndarray]:
        share = rng.uniform(0.3, 1, n)
        return np.stack([share, 1 - share], axis=1), rng.random(n) < np.maximum(share, 1 - share)

    known, right = told(4000)
    new, true = told(4000)
    found = estimated_accuracy(known, right, new)
    assert found.interval[0] <= true.mean() <= found.interval[1]
    assert found.accuracy == pytest.approx(true.mean(), abs=0.03)


def test_less_confidence_is_less_accuracy(rng):
    share = rng.uniform(0.5, 1, 2000)
    known = np.stack([share, 1 - share], axis=1)
    right = share > 0.6  # confidence tells right from wrong: then the estimate is exact
    less = 0.5 + (share - 0.5) / 2
    found = estimated_accuracy(known, right, np.stack([less, 1 - less], axis=1))
    assert found.accuracy == pytest.approx((less > 0.6).mean(), abs=0.01)


def test_a_head_that_was_never_wrong_is_expected_to_stay_so(rng):
    p = np.tile([0.9, 0.1], (30, 1))
    assert estimated_accuracy(p, np.ones(30, bool), p[:, ::-1]).accuracy == 1.0
