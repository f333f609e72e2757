"""The test for a shift: uniform p without one, power as it says, folds and permutations that keep groups whole."""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from onepass.heads.shift.two_sample import _aucs, _Fold, _permuted, two_sample_test


def drawn(seed: int, n: int, d: int) -> np.ndarray:
    """Normal rows with other spreads along other axes, none of which is a feature."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(d, d)))[0]
    return (generator.normal(size=(n, d)) * np.linspace(0.3, 2, d) @ turn).astype(np.float32)


def p_values(times: int, groups: np.ndarray, new: np.ndarray) -> np.ndarray:
    tests = []
    for seed in range(times):
        x = drawn(seed, len(groups), 8)
        _, member = np.unique(groups, return_inverse=True)
        x += 3 * drawn(seed + 10**6, len(groups), 8)[member]  # images of one group are alike
        tests.append(two_sample_test(x, new, groups, permutations=99, seed=seed).p)
    return np.array(tests)


@pytest.mark.parametrize("size", [1, 4])
def test_without_a_shift_p_is_uniform(size: int):
    groups = np.arange(120) // size
    found = p_values(150, groups, groups < 40 // size)
    low, high = binom.ppf([0.0005, 0.9995], len(found), 0.05)
    assert low <= (found <= 0.05).sum() <= high
    assert kstest(found, "uniform").pvalue > 0.001


def test_a_known_shift_is_found_as_often_as_the_power_says():
    n, d = 240, 12
    new = np.arange(n) < 80
    detectable = two_sample_test(drawn(0, n, d), new, np.arange(n), permutations=299).detectable
    spread = np.cov(drawn(1, 20000, d).T)
    root = np.linalg.cholesky(spread)
    tests = []
    for seed in range(80):
        direction = np.random.default_rng(seed).normal(size=d)
        x = drawn(100 + seed, n, d)
        x[new] += (detectable.move * root @ direction / np.linalg.norm(direction)).astype(np.float32)
        tests.append(two_sample_test(x, new, np.arange(n), permutations=99, seed=seed))
    assert 0.65 < np.mean([test.found for test in tests]) < 0.95
    assert np.mean([test.auc for test in tests]) == pytest.approx(detectable.auc, abs=0.02)


def test_a_large_shift_is_found_and_the_images_that_moved_stand_out():
    x, new = drawn(0, 200, 10), np.arange(200) >= 150
    x[190:] += 4
    test = two_sample_test(x, new, np.arange(200))
    assert test.found
    assert test.auc > 0.5
    assert set(np.argsort(-test.scores)[:8]) <= set(range(190, 200))


def test_copies_on_both_sides_are_no_shift():
    x = drawn(0, 100, 6)
    both, new = np.concatenate([x, x]), np.arange(200) >= 100
    test = two_sample_test(both, new, np.tile(np.arange(100), 2))
    assert test.auc == pytest.approx(0.5, abs=0.02)
    assert not test.found


def test_auc_is_the_share_of_pairs_within_folds():
    x, new = drawn(3, 60, 4).astype(np.float64), np.arange(60) % 3 == 0
    folds = [_Fold.of(x, np.arange(60) % 2 == side, 0.1) for side in (0, 1)]
    sides = new.astype(float)[:, None]
    ordered = [
        (scores[new[fold.held], None] > scores[None, ~new[fold.held]]).ravel()
        for fold in folds
        if (scores := fold.scores(sides)[:, 0]) is not None
    ]
    assert _aucs(folds, sides)[0] == pytest.approx(np.concatenate(ordered).mean())


def test_scores_of_a_fold_are_those_of_ridge_regression_on_the_others():
    from sklearn.linear_model import Ridge

    x, side = drawn(3, 60, 4).astype(np.float64), (np.arange(60) % 3 == 0).astype(float)
    held = np.arange(60) < 20
    fitted = Ridge(alpha=0.1 * 40).fit(x[~held], side[~held])
    expected = fitted.predict(x[held]) - side[~held].mean()
    np.testing.assert_allclose(_Fold.of(x, held, 0.1).scores(side[:, None])[:, 0], expected, rtol=1e-8, atol=1e-10)


def test_permutations_keep_groups_whole_and_mixed_groups_mixed():
    member = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4])
    new = np.array([0, 0, 0, 1, 1, 0, 0, 1, 1], bool)  # group 3 has both sides
    drawn_sides = _permuted(new, member, 200, np.random.default_rng(0))
    for column in drawn_sides.T:
        assert all(len(set(column[member == group])) == 1 for group in (0, 1, 2, 4))
        assert column[member == 3].sum() == 1
        assert sum(column[member == group][0] for group in (0, 1, 2, 4)) == 2
    assert len({tuple(column) for column in drawn_sides.T}) == 12  # 4 choose 2, times 2


def test_so_few_images_that_nothing_could_be_found_are_told_of():
    x, new = drawn(0, 12, 3), np.arange(12) < 2
    assert two_sample_test(x, new, np.arange(12) // 6).detectable.auc == float("inf")
