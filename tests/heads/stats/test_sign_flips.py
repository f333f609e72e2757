import numpy as np
import pytest
from scipy.stats import binomtest

from onepass.heads.stats.sign_flips import FLIPS, best_of_several


def differences(first: int, second: int, n: int = 200) -> np.ndarray:
    """(n,) of a candidate that is right alone on `first` images, and wrong alone on `second`."""
    found = np.zeros(n, int)
    found[:first], found[first : first + second] = 1, -1
    return found


@pytest.mark.parametrize(("first", "second"), [(5, 0), (10, 2), (12, 5), (30, 14), (7, 7), (3, 9)])
def test_a_single_candidate_has_the_one_sided_p_of_mcnemar(first: int, second: int):
    found = best_of_several(differences(first, second)[None], 0)
    exact = binomtest(first, first + second, alternative="greater").pvalue
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / FLIPS) + 1e-3)
    assert found.gain == pytest.approx((first - second) / 200)
    assert found.error == pytest.approx(np.sqrt(first + second) / 200)


def test_equal_candidates_cost_nothing_and_different_ones_do():
    alone = differences(12, 4)
    others = np.random.default_rng(0).permuted(np.tile(alone, (9, 1)), axis=1)
    p = best_of_several(alone[None], 0).p
    assert best_of_several(np.tile(alone, (10, 1)), 3).p == p
    assert 4 * p < best_of_several(np.vstack([alone, others]), 0).p < 10 * p + 0.02


def test_images_of_one_group_count_once():
    gains = np.repeat(differences(4, 0, 20), 5)[None]  # twenty images better, of four videos
    groups = np.repeat(np.arange(20), 5)
    assert best_of_several(gains, 0).p < 0.001
    assert best_of_several(gains, 0, groups=groups).p == pytest.approx(1 / 16, abs=0.02)


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_the_best_of_ten_that_are_no_better_is_called_better_in_one_of_twenty(alike: float):
    random, called = np.random.default_rng(1), 0
    for _ in range(200):
        shared = random.choice([-1, 0, 0, 0, 1], size=150)
        own = random.choice([-1, 0, 0, 0, 1], size=(10, 150))
        gains = np.where(random.random((10, 150)) < alike, shared, own)
        called += best_of_several(gains, int(gains.sum(axis=1).argmax()), flips=499).p <= 0.05
    assert 0.015 <= called / 200 <= 0.1  # 0.05 give or take three standard errors


@pytest.mark.parametrize("shape", [(3, 10), (3, 0)])
def test_candidates_that_change_nothing_are_no_better(shape: tuple[int, int]):
    assert best_of_several(np.zeros(shape), 1) == (0.0, 1.0, 0.0)
