from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta, binom, binomtest, nct, norm, t
from sklearn.metrics import accuracy_score

from onepass.features.errors import OptionError, TrainingError
from onepass.heads import wilson_interval
from onepass.heads.stats.bootstrap import (
    bootstrap_interval,
    effective_size,
    paired_difference,
    resample,
    resamples_for,
)
from onepass.heads.stats.cross_validation_tests import corrected_interval, corrected_resampled_t, corrected_t_test
from onepass.heads.stats.detectable import detectable_accuracy, detectable_shift, mcnemar_power, shift_of_t
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.metrics import HIGHER_IS_BETTER, METRICS, metric
from onepass.heads.stats.multiple_comparison import PairedTest, compare_all
from onepass.heads.stats.paired_tests import mcnemar, paired_accuracy, paired_balanced, paired_test


def paired_bootstrap(name: str, a: np.ndarray, b: np.ndarray, y: np.ndarray, **options) -> Difference:
    first, second = (resample(name, p, y, **options) for p in (a, b))
    return paired_difference(first, second)


def table(first: int, second: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two heads on n images, of which `first` and `second` are right for one of them alone."""
    a, b = np.ones(n, bool), np.ones(n, bool)
    b[:first] = False
    a[first : first + second] = False
    return a, b


@pytest.mark.parametrize(
    ("first", "second", "p"),
    # statsmodels 0.15.0: mcnemar([[10, first], [second, 10]], exact=True).pvalue
    [
        (5, 0, 0.0625),
        (6, 0, 0.03125),
        (10, 2, 0.03857421875),
        (12, 5, 0.143463134765625),
        (30, 14, 0.022628841205914796),
        (121, 59, 4.4344492637551645e-06),
        (7, 7, 1.0),
        (600, 500, 0.0028195449914364284),
    ],
)
def test_mcnemar_is_statsmodels(first: int, second: int, p: float):
    a, b = table(first, second, 1500)
    assert mcnemar(a, b) == pytest.approx(p, rel=1e-10)
    assert mcnemar(b, a) == pytest.approx(p, rel=1e-10)


def test_mcnemar_is_the_binomial_test_of_the_images_that_differ():
    for first, second in [(0, 1), (3, 1), (0, 9), (250, 200), (0, 1100), (5000, 5200)]:
        a, b = table(first, second, first + second + 10)
        expected = binomtest(first, first + second).pvalue
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_heads_that_are_right_on_the_same_images_do_not_differ():
    right = np.array([True, False, True])
    assert mcnemar(right, right) == 1
    found = paired_accuracy(right, right)
    assert found.difference == 0
    assert found.interval[0] == pytest.approx(-found.interval[1])
    assert found.interval[1] > 0.1


def test_the_paired_interval_is_that_of_bonett_and_price():
    # The R function Wald_CI_BonettPrice_paired_2x2 of CRAN's contingencytables 3.0.0, by hand: 1 and 7 of 21
    # images give (2/23 - 8/23) +- 1.96 sqrt((10/23 - (6/23)^2) / 23) = -0.508 to -0.013. McNemar's p is
    # 0.0703, so the interval is extended to 0.
    found = paired_accuracy(*table(1, 7, 21))
    assert found.difference == pytest.approx(-6 / 21)
    assert found.p == pytest.approx(0.0703125)
    assert found.interval == (pytest.approx(-0.50836, abs=5e-5), 0.0)
    clear = paired_accuracy(*table(30, 10, 200))
    half = 1.959964 * np.sqrt((31 + 11) / 202**2 - (20 / 202) ** 2 / 202)
    assert clear.interval == (pytest.approx(20 / 202 - half, abs=1e-7), pytest.approx(20 / 202 + half, abs=1e-7))


@pytest.mark.parametrize("n", [20, 50, 200])
def test_interval_and_p_of_paired_accuracies_never_contradict(n: int):
    for first in range(min(n, 40) + 1):
        for second in range(min(n - first, 40) + 1):
            found = paired_accuracy(*table(first, second, n))
            low, high = found.interval
            assert (found.p <= 0.05) == (not low <= 0 <= high), (first, second)
            assert low <= found.difference <= high


def test_the_paired_interval_covers_the_true_difference():
    # Exact, over all tables of 100 images: coverage is a sum of multinomial probabilities.
    n = 100
    for first_rate, second_rate in [(0.05, 0.05), (0.09, 0.01), (0.2, 0.1)]:
        covered = 0.0
        for first in range(60):
            chance = binom.pmf(first, n, first_rate)
            for second in range(60 - first):
                low, high = paired_accuracy(*table(first, second, n)).interval if chance > 1e-6 else (0, 0)
                if low <= first_rate - second_rate <= high:
                    covered += chance * binom.pmf(second, n - first, second_rate / (1 - first_rate))
        assert covered > 0.945


def test_the_balanced_difference_is_the_mean_over_classes():
    y = np.repeat([0, 1], [80, 20])
    a, b = (np.concatenate(parts) for parts in zip(table(8, 4, 80), table(5, 0, 20), strict=True))
    found = paired_balanced(a, b, y)
    assert found.difference == pytest.approx((4 / 80 + 5 / 20) / 2)
    shares = np.array([[8.25, 4.25], [5.25, 0.25]]) / [[80.5], [20.5]]
    gaps = shares[:, 0] - shares[:, 1]
    error = np.sqrt(((shares.sum(axis=1) - gaps**2) / [80.5, 20.5]).sum()) / 2
    assert found.interval == pytest.approx((gaps.mean() - 1.959964 * error, gaps.mean() + 1.959964 * error))
    assert found.p == pytest.approx(2 * norm.sf(gaps.mean() / error))
    assert paired_balanced(b, a, y) == Difference(
        -found.difference, pytest.approx((-found.interval[1], -found.interval[0])), pytest.approx(found.p)
    )


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_its_test(name: str, rng: np.random.Generator):
    y, heads = draw_heads(rng, 60, 3)
    groups, right = np.arange(60) // 2, [p.argmax(axis=1) == y for p in heads]
    found = paired_test(name, heads, y).difference(0, 2, 0.05)
    if name == "accuracy":
        assert found == paired_accuracy(right[0], right[2])
    elif name == "balanced":
        assert found == paired_balanced(right[0], right[2], y)
    else:
        assert found == paired_bootstrap(name, heads[0], heads[2], y)
    grouped = paired_test(name, heads, y, groups=groups).difference(0, 2, 0.05)
    assert grouped == paired_bootstrap(name, heads[0], heads[2], y, groups=groups)


def test_a_difference_can_be_turned_round():
    assert -Difference(0.1, (-0.1, 0.3), 0.2) == Difference(-0.1, (-0.3, 0.1), 0.2)


def test_no_images_are_refused():
    with pytest.raises(TrainingError, match=r"^there are no images to compare heads on; needed: at least 1\.$"):
        paired_accuracy(np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(TrainingError, match=r"^there are no images to compare heads on; needed: at least 1\.$"):
        paired_balanced(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, int))


def test_the_corrected_t_is_that_of_nadeau_and_bengio(rng: np.random.Generator):
    values = rng.normal(0.02, 0.03, 10)
    found = corrected_resampled_t(values, test_share=0.2)
    error = np.sqrt((1 / 10 + 20 / 80) * values.var(ddof=1))
    assert found.p == pytest.approx(2 * t.sf(abs(values.mean()) / error, 9))
    assert found.interval == pytest.approx(t.interval(0.95, 9, values.mean(), error))
    assert found.difference == pytest.approx(values.mean())
    assert corrected_interval(values, test_share=0.2, most=None) == pytest.approx(found.interval)


def test_folds_that_all_agree_leave_the_sign_test():
    assert corrected_resampled_t(np.zeros(10), test_share=0.2) == Difference(0.0, (0.0, 0.0), 1.0)
    assert corrected_resampled_t(np.full(10, 0.1), test_share=0.2) == Difference(
        pytest.approx(0.1), (pytest.approx(0.1), pytest.approx(0.1)), 2**-9
    )
    few = corrected_resampled_t(np.full(3, -0.1), test_share=0.2)
    assert few == Difference(pytest.approx(-0.1), (pytest.approx(-0.1), 0.0), 0.25)
    assert corrected_interval(np.full(5, 0.9), test_share=0.2, most=None) == pytest.approx((0.9, 0.9))


def test_impossible_folds_are_refused():
    with pytest.raises(
        OptionError, match=r"^test_share is 1\.0; needed: above 0 and below 1, such as 0\.2 for 5 folds\.$"
    ):
        corrected_resampled_t(np.zeros(5), test_share=1.0)
    with pytest.raises(
        TrainingError, match=r"^there are scores of 1 folds; needed: at least 2 to see how they vary\.$"
    ):
        corrected_interval(np.zeros(1), test_share=0.2, most=None)


@given(
    scores=arrays(float, st.integers(2, 20), elements=st.floats(0, 1)),
    most=st.floats(1, 1e5),
)
def test_the_interval_of_folds_stays_within_the_score_and_holds_its_mean(scores: np.ndarray, most: float):
    low, high = corrected_interval(scores, test_share=0.2, most=most)
    assert 0 <= low <= scores.mean() + 1e-12
    assert scores.mean() - 1e-12 <= high <= 1


def test_the_interval_of_folds_is_wilsons_of_as_many_images_as_make_a_share_that_sure(rng: np.random.Generator):
    """The number solves p (1 - p) / n = error^2, with the quantile of the normal in place of that of t."""
    scores = np.clip(rng.normal(0.95, 0.02, 10), 0, 1)
    mean, error = scores.mean(), np.sqrt((1 / 10 + 0.25) * scores.var(ddof=1))
    n = mean * (1 - mean) / (error * t.ppf(0.975, 9) / 1.96) ** 2
    for most, size in ((1e9, n), (n / 2, n / 2)):
        # Its ends solve (x - mean)^2 = z^2 x (1 - x) / n.
        ends = np.sort(np.roots([1 + 1.96**2 / size, -2 * mean - 1.96**2 / size, mean**2]))
        assert corrected_interval(scores, test_share=0.2, most=most) == pytest.approx(tuple(ends))


def test_the_interval_of_folds_is_that_of_t_where_a_share_is_sure_and_far_from_the_ends():
    scores = 0.5 + 0.001 * np.arange(-4, 5)
    within = corrected_interval(scores, test_share=0.2, most=1e9)
    assert within == pytest.approx(corrected_interval(scores, test_share=0.2, most=None), abs=1e-5)


def test_folds_without_a_mistake_leave_the_doubt_of_so_many_images():
    assert corrected_interval(np.ones(10), test_share=0.2, most=50) == wilson_interval(50, 50)


def compare_constants(scores: list[float], p: dict[tuple[int, int], float], **options: bool):
    return compare_all(
        [f"head{i}" for i in range(len(scores))],
        PairedTest(
            lambda i, j, alpha: Difference(scores[i] - scores[j], (-alpha, alpha), p.get((i, j), 1.0)),
            lambda i, j, alpha: 10 * i + j,
        ),
        **options,
    )


def test_the_tie_set_holds_what_cannot_be_told_from_the_best():
    found = compare_constants([0.7, 0.9, 0.88, 0.89], {(0, 1): 0.001, (1, 2): 0.008, (1, 3): 0.2, (0, 2): 0.04})
    assert (found.best, found.ties) == ("head1", ("head1", "head3"))
    assert found.adjusted_p["head0", "head1"] == pytest.approx(0.006)
    assert found.adjusted_p["head1", "head2"] == pytest.approx(0.048)
    assert found.adjusted_p["head1", "head3"] == 1
    assert list(found.adjusted_p) == [(f"head{i}", f"head{j}") for i in range(4) for j in range(i + 1, 4)]
    assert found.to_best["head0"].difference == pytest.approx(-0.2)
    assert found.to_best["head3"] == Difference(pytest.approx(-0.01), pytest.approx((-0.05 / 6, 0.05 / 6)), 0.2)
    assert found.to_best["head1"] == Difference(0.0, (0.0, 0.0), 1.0)
    assert found.detectable == {"head0": 1, "head2": 12, "head3": 13}


def test_the_correction_is_for_all_pairs():
    # Alone, and among the two comparisons with the best, 0.02 would do; among three pairs it does not.
    found = compare_constants([0.9, 0.8, 0.8], {(0, 1): 0.02, (0, 2): 0.3})
    assert found.adjusted_p["head0", "head1"] == pytest.approx(0.06)
    assert found.ties == ("head0", "head1", "head2")


def test_a_low_loss_is_best_and_the_first_of_equals_wins():
    assert compare_constants([0.5, 0.2, 0.4], {}, higher_is_better=False).best == "head1"
    assert compare_constants([0.3, 0.1 + 0.2, 0.3], {}).best == "head0"
    alone = compare_constants([0.3], {})
    assert (alone.ties, alone.adjusted_p, alone.detectable) == (("head0",), {}, {})


def test_nothing_to_compare_is_refused():
    with pytest.raises(TrainingError, match=r"^there are no heads to compare; needed: at least 1\.$"):
        compare_constants([], {})


def draw_heads(
    rng: np.random.Generator, n: int, heads: int, *, signal: float = 1.5, shares: tuple[float, ...] = (0.4, 0.35, 0.25)
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Heads of equal quality whose mistakes go together: what is hard for one is hard for the others."""
    k = len(shares)
    y = rng.choice(k, n, p=shares)
    common = signal * np.eye(k)[y] + rng.normal(size=(n, k))
    scores = np.exp(common + 0.7 * rng.normal(size=(heads, n, k)))
    return y, list(scores / scores.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("name", METRICS)
def test_interval_and_p_of_a_bootstrap_never_contradict(name: str):
    verdicts = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y, (a, b) = draw_heads(rng, 60, 2)
        b += seed / 200 * (np.eye(3)[y] - b)
        found = paired_bootstrap(name, a, b, y, resamples=400)
        low, high = found.interval
        verdicts.append(found.p <= 0.05)
        assert verdicts[-1] == (not low <= 0 <= high)
        assert low <= found.difference <= high
        assert found.difference == pytest.approx(metric(name, a, y) - metric(name, b, y), abs=1e-11)
    assert any(verdicts)
    assert not all(verdicts)


@pytest.mark.parametrize("name", METRICS)
def test_a_bootstrap_is_the_same_whichever_head_comes_first(name: str, rng: np.random.Generator):
    y, (a, b) = draw_heads(rng, 80, 2)
    forth, back = paired_bootstrap(name, a, b, y), paired_bootstrap(name, b, a, y)
    assert back == Difference(-forth.difference, pytest.approx((-forth.interval[1], -forth.interval[0])), forth.p)


def test_the_same_head_twice_does_not_differ(rng: np.random.Generator):
    y, (a,) = draw_heads(rng, 80, 1)
    assert paired_bootstrap("log-loss", a, a, y) == Difference(0.0, (0.0, 0.0), 1.0)


def test_the_seed_decides_the_resamples(rng: np.random.Generator):
    y, (a, b) = draw_heads(rng, 80, 2)
    once = paired_bootstrap("log-loss", a, b, y, seed=1)
    assert once == paired_bootstrap("log-loss", a, b, y, seed=1)
    assert once != paired_bootstrap("log-loss", a, b, y, seed=2)
    assert once == paired_difference(resample("log-loss", a, y, seed=1), resample("log-loss", b, y, seed=1))


def test_a_bootstrapped_mean_has_the_interval_of_t(rng: np.random.Generator):
    y, (a, b) = draw_heads(rng, 300, 2)
    found = paired_bootstrap("log-loss", a, b, y, resamples=20000)
    rows = np.arange(300)
    gaps = np.log(b[rows, y]) - np.log(a[rows, y])
    expected = t.interval(0.95, 299, gaps.mean(), gaps.std(ddof=1) / np.sqrt(300))
    np.testing.assert_allclose(found.interval, expected, atol=0.05 * np.ptp(expected))


def test_whole_groups_are_drawn(rng: np.random.Generator):
    y, (a, b) = draw_heads(rng, 40, 2)
    groups = np.repeat([f"patient{i:02}" for i in range(40)], 5)
    alone = paired_bootstrap("balanced", a, b, y)
    copied = paired_bootstrap("balanced", *(np.repeat(v, 5, axis=0) for v in (a, b, y)), groups=groups)
    assert copied.difference == alone.difference
    assert copied.interval == pytest.approx(alone.interval)
    assert copied.p == alone.p


def test_a_perfect_score_has_an_interval_all_the_same():
    y = np.arange(40) % 2
    for name in ("accuracy", "balanced", "macro-f1"):
        assert bootstrap_interval(name, np.eye(2)[y], y) == pytest.approx(wilson_interval(40, 40))
    assert bootstrap_interval("auroc", np.eye(2)[y], y) == pytest.approx(wilson_interval(20, 20))
    groups = np.arange(40) // 4
    assert bootstrap_interval("accuracy", np.eye(2)[y], y, groups=groups) == pytest.approx(wilson_interval(10, 10))


def test_the_interval_of_an_accuracy_is_wilsons(rng: np.random.Generator):
    y, (p,) = draw_heads(rng, 90, 1)
    right = int(accuracy_score(y, p.argmax(axis=1), normalize=False))
    assert bootstrap_interval("accuracy", p, y) == pytest.approx(wilson_interval(right, 90))


def test_the_effective_size_is_that_of_even_classes():
    assert effective_size("balanced", np.arange(90) % 3, classes=3) == pytest.approx(90)
    # One class of 10: the variance of (r_0 + r_1) / 2 is p (1 - p) (1 / 90 + 1 / 10) / 4 = p (1 - p) / 36.
    assert effective_size("balanced", np.repeat([0, 1], [90, 10]), classes=2) == pytest.approx(36)
    assert effective_size("auroc", np.repeat([0, 1], [90, 10]), classes=2) == 10
    assert effective_size("log-loss", np.repeat([0, 1], [90, 10]), classes=2) == 100


@pytest.mark.parametrize(("name", "signal", "lowest"), [("balanced", 3.5, 0.92), ("log-loss", 1.5, 0.91)])
def test_intervals_cover_the_true_score(name: str, signal: float, lowest: float):
    rng = np.random.default_rng(7)
    y, (p,) = draw_heads(rng, 200_000, 1, signal=signal)
    truth, covered = metric(name, p, y), 0
    for _ in range(200):
        y, (p,) = draw_heads(rng, 100, 1, signal=signal)
        low, high = bootstrap_interval(name, p, y, resamples=500)
        covered += low <= truth <= high
    assert covered / 200 > lowest - 0.03


def test_impossible_resamples_are_refused(rng: np.random.Generator):
    y, (p,) = draw_heads(rng, 30, 1)
    refusals: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (
            OptionError,
            "unknown metric 'f1'; there are accuracy, balanced, macro-f1, log-loss, auroc.",
            lambda: resample("f1", p, y),
        ),
        (OptionError, "resamples is 10; needed: at least 200.", lambda: resample("accuracy", p, y, resamples=10)),
        (
            TrainingError,
            "auroc needs images of two classes; all 30 are of one. Score more images.",
            lambda: resample("auroc", p, np.zeros(30, int)),
        ),
        (
            TrainingError,
            "there is 1 image; needed: at least 2, to see how much the score depends on them.",
            lambda: resample("accuracy", p[:1], y[:1]),
        ),
        (
            TrainingError,
            "all images are of one group; needed: at least 2, to see how much the score depends on them.",
            lambda: resample("accuracy", p, y, groups=np.zeros(30)),
        ),
    ]
    for kind, message, call in refusals:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "balanced", "log-loss"])
def test_equally_good_heads_are_rarely_told_apart(name: str):
    rng, wrong, any_wrong, alone, parts = np.random.default_rng(11), 0, 0, 0, 400
    names = [f"head{i}" for i in range(5)]
    for _ in range(parts):
        y, heads = draw_heads(rng, 200, 5)
        # A bootstrap where the balanced accuracy's own test would serve, too.
        groups = np.arange(200) if name == "balanced" else None
        difference = paired_test(name, heads, y, resamples=1000, groups=groups)
        found = compare_all(names, difference)
        wrong += sum(p <= 0.05 for p in found.adjusted_p.values())
        any_wrong += any(p <= 0.05 for p in found.adjusted_p.values())
        alone += difference.difference(0, 1, 0.05).p <= 0.05
    # If the rate is 0.05 at most, counts above these come up once in 1,000 times.
    assert any_wrong <= binom.ppf(0.999, parts, 0.05)
    assert wrong <= 0.05 * 10 * parts
    assert alone <= binom.ppf(0.999, parts, 0.05)


@pytest.mark.parametrize("name", METRICS)
def test_ten_points_are_nearly_always_found_with_500_images(name: str):
    rng, found = np.random.default_rng(5), 0
    for _ in range(20):
        y, (good, bad) = draw_heads(rng, 500, 2, signal=3.0)
        at_random = rng.random(500) < 0.15  # of these two in three become wrong: 10 points fewer
        bad = np.where(at_random[:, None], bad[rng.permutation(500)], bad)
        difference = paired_test(name, [good, bad], y, resamples=500)
        found += compare_all(["good", "bad"], difference, higher_is_better=HIGHER_IS_BETTER[name]).ties == ("good",)
    assert found >= 19


@pytest.mark.parametrize("n", [100, 200, 500])
def test_heads_that_err_in_different_classes_are_balanced_fairly(n: int):
    rng, called = np.random.default_rng(9), 0
    for _ in range(300):
        y = (rng.random(n) < 0.1).astype(int)
        # Each head is right on all images of one class and on 98 % of the other's: equal balanced accuracy.
        slips = rng.random(n) < 0.02
        called += paired_balanced(~(slips & (y == 0)), ~(slips & (y == 1)), y).p <= 0.05
    assert called <= binom.ppf(0.999, 300, 0.05)


def fold_differences(rng: np.random.Generator, *, n: int = 60, edge: float = 0.0) -> np.ndarray:
    """Five folds twice: accuracy of nearest centroids on five features minus those on five others, as informative."""
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, 10)) + (2 * y - 1)[:, None] * 0.3
    x[:, :5] += (2 * y - 1)[:, None] * edge
    differences = []
    for _ in range(2):
        fold = rng.permutation(np.arange(n) % 5)
        for i in range(5):
            train, test = fold != i, fold == i
            ones, zeros = (x[train & (y == label)].mean(axis=0) for label in (1, 0))
            pull = (x[test] - (ones + zeros) / 2) * (ones - zeros)
            right = [(part.sum(axis=1) > 0) == y[test] for part in (pull[:, :5], pull[:, 5:])]
            differences.append(right[0].mean() - right[1].mean())
    return np.array(differences)


def test_equally_good_refitted_classifiers_are_rarely_told_apart_in_cross_validation():
    rng, runs = np.random.default_rng(3), 500
    called = sum(corrected_resampled_t(fold_differences(rng), test_share=0.2).p <= 0.05 for _ in range(runs))
    assert called <= binom.ppf(0.999, runs, 0.05)
    # Without the correction, t over the ten folds errs several times as often.
    plain = 0
    for _ in range(200):
        values = fold_differences(rng)
        plain += abs(values.mean()) / max(values.std(ddof=1), 1e-9) * np.sqrt(10) > t.isf(0.025, 9)
    assert plain > binom.ppf(0.999, 200, 0.05)


def test_a_better_classifier_is_found_in_cross_validation():
    rng = np.random.default_rng(3)
    called = [corrected_resampled_t(fold_differences(rng, n=300, edge=0.4), test_share=0.2) for _ in range(20)]
    assert sum(found.p <= 0.05 and found.difference > 0 for found in called) >= 18


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 36, 0.05 / 120])
def test_at_any_level_an_interval_of_accuracies_leaves_out_0_exactly_where_mcnemar_rejects(alpha: float):
    n, verdicts = 60, set()
    for discordant in range(31):
        for first in range(discordant + 1):
            found = paired_accuracy(*table(first, discordant - first, n), alpha=alpha)
            low, high = found.interval
            rejected = found.p <= alpha
            assert rejected == (not low <= 0 <= high), (first, discordant)
            assert low <= found.difference <= high
            verdicts.add(rejected)
    assert verdicts == {True, False}


def test_where_the_exact_test_alone_rejects_the_interval_ends_where_it_does():
    alpha = 0.05 / 36
    low, high = paired_accuracy(*table(11, 0, 153), alpha=alpha).interval
    share = beta.ppf(alpha / 2, 11, 1)  # Clopper and Pearson
    assert low == pytest.approx(11 * (2 * share - 1) / 153)
    assert high > 11 / 153
    turned = paired_accuracy(*table(0, 11, 153), alpha=alpha).interval
    assert turned == pytest.approx((-high, -low))


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 36])
def test_the_other_intervals_agree_with_their_p_at_any_level(alpha: float):
    rng, verdicts = np.random.default_rng(3), set()
    for edge in np.linspace(0, 0.25, 12):
        y, (a, b) = draw_heads(rng, 150, 2, signal=3.0)
        b = np.where((rng.random(150) < edge)[:, None], 1 / 3, b)
        for name in METRICS[1:]:
            found = paired_test(name, [a, b], y, resamples=4000).difference(0, 1, alpha)
            verdicts.add(found.p <= alpha)
            assert (found.p <= alpha) == (not found.interval[0] <= 0 <= found.interval[1])
        folds = corrected_t_test([rng.normal(0.3 * edge, 0.01, 10), np.zeros(10)], test_share=0.2)
        found = folds.difference(0, 1, alpha)
        assert (found.p <= alpha) == (not found.interval[0] <= 0 <= found.interval[1])
    assert verdicts == {True, False}


def test_too_few_resamples_for_the_level_call_nothing_different(rng: np.random.Generator):
    y, (a, _) = draw_heads(rng, 200, 2, signal=4.0)
    found = paired_difference(
        resample("log-loss", a, y, resamples=200), resample("log-loss", 1 - a / 2, y, resamples=200), alpha=1e-4
    )
    assert found.p > 1e-4
    assert found.interval[0] <= 0 <= found.interval[1]
    assert resamples_for(2) == 5000
    assert resamples_for(18) >= 2 * 5 * 153 / 0.05


@pytest.mark.parametrize(("n", "psi", "alpha"), [(153, 0.1, 0.05 / 36), (60, 0.2, 0.05)])
def test_the_power_of_mcnemars_test_is_summed_over_all_tables(n: int, psi: float, alpha: float):
    gap, power = 0.08, 0.0
    for discordant in range(n + 1):
        better = np.arange(discordant + 1)
        p = 2 * binom.cdf(discordant - better, discordant, 0.5)
        found = (p <= alpha) & (better > discordant / 2)
        power += binom.pmf(discordant, n, psi) * binom.pmf(better, discordant, (1 + gap / psi) / 2)[found].sum()
    assert mcnemar_power(gap, psi, n, alpha=alpha) == pytest.approx(power, abs=1e-6)


def test_a_detectable_difference_is_found_in_four_of_five_cases():
    found = detectable_accuracy(15, 153, alpha=0.05 / 36)
    assert mcnemar_power(found, 16 / 155 + found / 2, 153, alpha=0.05 / 36) == pytest.approx(0.8, abs=0.002)
    assert detectable_accuracy(15, 153, alpha=0.05) < found < detectable_accuracy(30, 153, alpha=0.05 / 36)
    assert detectable_accuracy(1, 5, alpha=0.05 / 36) == np.inf
    assert detectable_accuracy(0, 153, alpha=0.05) < 0.1
    normal = norm.isf(0.025) + norm.ppf(0.8)
    assert shift_of_t(10_000, alpha=0.05) == pytest.approx(normal, rel=0.01)
    assert detectable_shift(normal, lambda gap: 0.02**2 + gap**2 / 100) == pytest.approx(
        0.02 * normal / np.sqrt(1 - normal**2 / 100)
    )
    shift = shift_of_t(9, alpha=0.01)
    assert nct.sf(t.isf(0.005, 9), 9, shift) == pytest.approx(0.8, abs=0.001)


def alike_heads(rng: np.random.Generator, n: int, heads: int, *, lost: float = 0.0) -> np.ndarray:
    """(heads, n) right or not, at true accuracies of 0.85; the last head has `lost` less."""
    accuracies = np.full(heads, 0.85)
    accuracies[-1] -= lost
    latent = np.sqrt(0.8) * rng.normal(size=n) + np.sqrt(0.2) * rng.normal(size=(heads, n))
    return latent < norm.ppf(accuracies)[:, None]


def probabilities_of(right: np.ndarray) -> list[np.ndarray]:
    """Answers of two classes to images of class 0."""
    return [np.stack([one, ~one], axis=1).astype(float) for one in right]


def test_no_interval_of_the_family_leaves_out_0_when_nine_heads_are_equally_good():
    rng, n, runs, names = np.random.default_rng(1), 153, 60, [f"head{i}" for i in range(9)]
    joint, alone = 0, 0
    for _ in range(runs):
        test = paired_test("accuracy", probabilities_of(alike_heads(rng, n, 9)), np.zeros(n, int))
        found = compare_all(names, test)
        joint += any(not gap.interval[0] <= 0 <= gap.interval[1] for gap in found.to_best.values())
        best = names.index(found.best)
        alone += any(test.difference(*sorted((i, best)), 0.05).p <= 0.05 for i in range(9) if i != best)
        assert all((gap.interval[0] <= 0 <= gap.interval[1]) == (k in found.ties) for k, gap in found.to_best.items())
    assert joint <= binom.ppf(0.999, runs, 0.05)
    assert alone > binom.ppf(0.999, runs, 0.1)


def test_the_difference_that_is_stated_is_seen_in_four_of_five_cases():
    rng, n, runs = np.random.default_rng(2), 153, 200
    y, level = np.zeros(n, int), 0.05 / 36
    stated = [
        paired_test("accuracy", probabilities_of(alike_heads(rng, n, 2)), y).detectable(0, 1, level) for _ in range(30)
    ]
    lost = float(np.mean(stated))
    worse = (alike_heads(rng, n, 2, lost=lost) for _ in range(runs))
    seen = sum(paired_accuracy(good, bad, alpha=level).interval[0] > 0 for good, bad in worse)
    assert 0.72 <= seen / runs <= 0.88
