"""How often equally good heads are told apart, and whether a difference that is said to be visible is seen.

    python benchmarks/comparison_power.py --runs 1000 --features trashnet.resnet50.h5

Heads are simulated on images that are easy or hard for all of them alike, with accuracies of 0.75 to 0.95, and answer
by normal variables of correlation 0.8 (nearest relatives) or 0.6. `null`: nine equally good heads; the share of
runs in which the interval of any pair leaves out 0 (allowed: 0.05), the same for the pairs with the best
head alone, and for intervals that are not adjusted. `stated`: the smallest difference that is said to be
found in four of five cases, its mean over runs with equally good heads, and the share of runs in which one head that
is truly worse by that much is told from another one; and how often Holm's method would have told them. `folds`: the
same for 5 folds twice with classifiers that are refitted. `rows`: for real heads, whose answers on held-out
rows of a feature file stand for all images there are; sets of n are drawn from them. Writes
benchmarks/results/comparison-power.json.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import RESULTS, versions, write_result

from onepass.features import FeatureFile
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.stats.cross_validation_tests import corrected_t_test
from onepass.heads.stats.detectable import detectable_accuracy
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.multiple_comparison import Comparison, PairedTest, compare_all
from onepass.heads.stats.paired_tests import accuracy_difference, paired_test
from onepass.heads.training import fit_on, make_head

HEADS = 9
LEVEL = 0.05 / (HEADS * (HEADS - 1) / 2)
SIZES = (153, 500)
NAMES = [str(i) for i in range(HEADS)]

difference_of = lru_cache(None)(accuracy_difference)
detectable_of = lru_cache(None)(detectable_accuracy)


def main(
    runs: Annotated[int, typer.Option(help="Simulated comparisons per setting.")] = 1000,
    features: Annotated[Path | None, typer.Option(help="Feature file for `rows`.")] = None,
    parts: Annotated[str, typer.Option(help="What to measure anew; the rest of the file stays.")] = "null,stated,folds",
    name: Annotated[str, typer.Option(help="Of the result file.")] = "comparison-power",
) -> None:
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    result |= {"runs": runs, "heads": HEADS, "versions": versions("onepass", "numpy", "scipy")}
    if "null" in parts:
        result["null"] = list(null(runs))
    if "stated" in parts:
        result["stated"] = list(stated(runs))
    if "folds" in parts:
        result["folds"] = across_folds(max(runs // 10, 20))
    if features:
        result["rows"] = {"features": features.stem, **by_ratio(list(of_rows(features, runs)))}
    write_result(name, result)


def null(runs: int) -> Iterator[dict[str, Any]]:
    """Nine equally good heads, by accuracy and by the metrics that have other tests."""
    for n in SIZES:
        for accuracy, correlation in ((0.75, 0.8), (0.85, 0.8), (0.85, 0.6), (0.95, 0.8)):
            rng = np.random.default_rng(n)
            sets = (draw(rng, n, [accuracy] * HEADS, correlation) for _ in range(runs))
            yield shown({"metric": "accuracy", "n": n, "accuracy": accuracy, "correlation": correlation} | rates(sets))
    for metric in ("balanced", "log-loss", "macro-f1"):
        for n in SIZES:
            rng, few = np.random.default_rng(n), max(runs // 20, 20)
            tests = (remembered(paired_test(metric, p, y)) for y, p in (graded(rng, n) for _ in range(few)))
            found = [any_leaves_out_0(compare_all(NAMES, test), test) for test in tests]
            yield shown({"metric": metric, "n": n, "runs": few} | means(found))


def stated(runs: int) -> Iterator[dict[str, Any]]:
    """Nine heads of which the last is worse by what the others' comparisons state."""
    for n in SIZES:
        for accuracy, correlation in ((0.75, 0.8), (0.85, 0.8), (0.85, 0.6), (0.95, 0.8)):
            rng = np.random.default_rng(n + 1)
            alike = (draw(rng, n, [accuracy, accuracy], correlation) for _ in range(runs))
            numbers = [detectable_of(int((a != b).sum()), n, alpha=LEVEL) for a, b in alike]
            lost = float(np.mean(numbers))
            accuracies = [accuracy] * (HEADS - 1) + [accuracy - lost]
            seen = [told(draw(rng, n, accuracies, correlation)) for _ in range(runs)]
            facts = {"n": n, "accuracy": accuracy, "correlation": correlation, "stated_points": 100 * lost}
            spread = dict(zip(("p10", "p90"), (100 * np.quantile(numbers, [0.1, 0.9])).tolist(), strict=True))
            yield shown(facts | spread | means(seen))


def told(right: np.ndarray) -> dict[str, bool]:
    """Whether the last head is told from the first, and from the best; and from the first by Holm's method."""
    found = compare_all(NAMES, counted(right))
    pair, others = found.adjusted_p[NAMES[0], NAMES[-1]], sorted(found.adjusted_p.values())
    number = len(others)
    # Holm: the pair and all with smaller p must pass their own step.
    steps = [p * (number - i) / number <= 0.05 for i, p in enumerate(others)]
    passed = all(step for step, p in zip(steps, others, strict=True) if p <= pair)
    return {"seen": pair <= 0.05, "called_worse": NAMES[-1] not in found.ties, "seen_by_holm": passed}


def across_folds(runs: int) -> dict[str, Any]:
    """Nearest centroids on nine sets of features, 5 folds twice, 300 images of two classes."""
    rng = np.random.default_rng(5)
    tests = [corrected_t_test(fold_scores(rng), test_share=0.2, fold_images=60) for _ in range(runs)]
    null_rates = means([any_leaves_out_0(compare_all(NAMES, test), test) for test in tests])
    numbers = [test.detectable(0, HEADS - 1, LEVEL) for test in tests]
    truths = {
        weaker: float(np.mean([gap(rng, weaker) for _ in range(40)])) for weaker in (0.0, 0.2, 0.4, 0.55, 0.7, 0.85)
    }
    wanted = float(np.mean(numbers))
    weaker = float(np.interp(-wanted, [-truths[w] for w in truths], list(truths)))
    seen = []
    for _ in range(runs):
        test = corrected_t_test(fold_scores(rng, weaker=weaker), test_share=0.2)
        seen.append({"seen": test.difference(0, HEADS - 1, LEVEL).interval[0] > 0})  # the first head is the better one
    true = float(np.mean([gap(rng, weaker) for _ in range(200)]))
    found = {"runs": runs, "null": null_rates, "stated_points": 100 * wanted, "true_points": 100 * true}
    return shown(found | means(seen))


def of_rows(path: Path, runs: int) -> Iterator[dict[str, Any]]:
    """Pairs of real heads: true difference over the mean of what is stated, and how often the better one is told."""
    right = held_out_answers(path)
    for n in SIZES:
        for (first, a), (second, b) in combinations(right.items(), 2):
            gap = abs(float(a.mean() - b.mean()))
            rng = np.random.default_rng(n)
            picks = rng.integers(0, len(a), (min(runs, 500), n))
            better, worse = (a, b) if a.mean() >= b.mean() else (b, a)
            only, other = (better & ~worse)[picks].sum(axis=1), (worse & ~better)[picks].sum(axis=1)
            pairs = list(zip(only.tolist(), other.tolist(), strict=True))
            numbers = [detectable_of(x + y, n, alpha=LEVEL) for x, y in pairs]
            seen = [difference_of(x, y, n, alpha=LEVEL).interval[0] > 0 for x, y in pairs]
            facts = {"pair": f"{first} {second}", "n": n, "true_points": 100 * gap}
            if 0.4 <= gap / np.mean(numbers) <= 1.8:
                yield shown(facts | {"stated_points": 100 * float(np.mean(numbers)), "seen": float(np.mean(seen))})


def by_ratio(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """How often the better head was told, by true difference over stated one."""
    ratios = np.array([pair["true_points"] / pair["stated_points"] for pair in pairs])
    seen, edges = np.array([pair["seen"] for pair in pairs]), (0.6, 0.8, 0.9, 1.1, 1.25, 1.5)
    shares = {}
    for low, high in pairwise(edges):
        some = (ratios >= low) & (ratios < high)
        shares[f"{low} to {high}"] = {"pairs": int(some.sum()), "seen": round(float(seen[some].mean()), 3)}
    return {"seen_by_true_over_stated": shares, "pairs": pairs}


def held_out_answers(path: Path) -> dict[str, np.ndarray]:
    """Name -> (m,) right or not, for quick heads trained on parts of the other four folds."""
    found: dict[str, np.ndarray] = {}
    with FeatureFile(path) as file:
        labels = file.table.labels
        images = np.flatnonzero(file.committed)
        fold_of = assign_folds(labels[images], groups=file.group_ids()[images])
        for share in (0.5, 0.25, 0.12, 0.06):
            for kind in ("ridge", "knn", "centroid"):
                right = np.zeros(len(images), bool)
                for fold in range(5):
                    train, test = images[fold_of != fold], images[fold_of == fold]
                    some = np.sort(np.random.default_rng(fold).permutation(train)[: round(share * len(train))])
                    head = fit_on(make_head(kind), file, some)
                    right[fold_of == fold] = head.predict(file.read(test)[0]) == labels[test]
                found[f"{kind} {share}"] = right
                print(kind, share, right.mean(), flush=True)
    return found


def draw(rng: np.random.Generator, n: int, accuracies: list[float], correlation: float) -> np.ndarray:
    """(heads, n) right or not."""
    from scipy.special import ndtri

    own = rng.normal(size=(len(accuracies), n))
    latent = np.sqrt(correlation) * rng.normal(size=n) + np.sqrt(1 - correlation) * own
    return np.asarray(latent < ndtri(np.array(accuracies))[:, None])


def graded(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Classes, and probabilities of nine equally good heads whose mistakes go together."""
    y = rng.choice(3, n, p=(0.4, 0.35, 0.25))
    common = 2.5 * np.eye(3)[y] + rng.normal(size=(n, 3))
    scores = np.exp(common + 0.7 * rng.normal(size=(HEADS, n, 3)))
    return y, list(scores / scores.sum(axis=2, keepdims=True))


def counted(right: np.ndarray) -> PairedTest:
    """The test of accuracies, each table of counts worked out once."""
    only = right.astype(float) @ (~right).T.astype(float)
    n = right.shape[1]

    def difference(i: int, j: int, alpha: float) -> Difference:
        return difference_of(int(only[i, j]), int(only[j, i]), n, alpha=alpha)

    return PairedTest(difference, lambda i, j, alpha: detectable_of(int(only[i, j] + only[j, i]), n, alpha=alpha))


def remembered(test: PairedTest) -> PairedTest:
    """The same test, which works out every difference once."""
    return PairedTest(lru_cache(None)(test.difference), test.detectable)


def rates(sets: Iterator[np.ndarray]) -> dict[str, float]:
    tests = map(counted, sets)
    return means([any_leaves_out_0(compare_all(NAMES, test), test) for test in tests])


def any_leaves_out_0(found: Comparison, test: PairedTest) -> dict[str, bool]:
    """Whether any interval does: of all pairs, of those with the best head, and of the latter unadjusted."""

    def out(gap: Difference) -> bool:
        return not gap.interval[0] <= 0 <= gap.interval[1]

    best = NAMES.index(found.best)
    with_best = [(min(i, best), max(i, best)) for i in range(HEADS) if i != best]
    return {
        "any_pair": any(out(test.difference(i, j, LEVEL)) for i, j in combinations(range(HEADS), 2)),
        "any_with_best": any(out(gap) for gap in found.to_best.values()),
        "unadjusted_with_best": any(out(test.difference(i, j, 0.05)) for i, j in with_best),
    }


def features_of(rng: np.random.Generator, n: int, weaker: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) classes and (n, 9, 5) features: five of each head, and what they share; the last head's tell less."""
    y = rng.permutation(np.arange(n) % 2)
    strength = np.full(HEADS, 0.5)
    strength[-1] *= weaker
    x = rng.normal(size=(n, HEADS, 5)) * 0.7 + rng.normal(size=(n, 1, 5)) * 0.7
    return y, x + (2 * y - 1)[:, None, None] * strength[:, None]


def fold_scores(rng: np.random.Generator, *, n: int = 300, weaker: float = 1.0) -> list[np.ndarray]:
    """(10,) accuracies of nine heads."""
    y, x = features_of(rng, n, weaker)
    scores = []
    for _ in range(2):
        fold = rng.permutation(np.arange(n) % 5)
        scores += [centroid_accuracy(x, y, fold != i, x[fold == i], y[fold == i]) for i in range(5)]
    return list(np.array(scores).T)


def gap(rng: np.random.Generator, weaker: float) -> float:
    """True difference of accuracy, at the size of the training part, between the first head and the last."""
    y, x = features_of(rng, 240, weaker)
    y_new, x_new = features_of(rng, 4000, weaker)
    accuracies = centroid_accuracy(x, y, np.ones(240, bool), x_new, y_new)
    return float(accuracies[:-1].mean() - accuracies[-1])


def centroid_accuracy(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> np.ndarray:
    ones, zeros = (x[train & (y == label)].mean(axis=0) for label in (1, 0))
    pull = ((x_test - (ones + zeros) / 2) * (ones - zeros)).sum(axis=2)
    return np.asarray(((pull > 0) == y_test[:, None].astype(bool)).mean(axis=0))


def means(found: list[dict[str, bool]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def shown(facts: dict[str, Any]) -> dict[str, Any]:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}
    print(rounded, flush=True)
    return rounded


if __name__ == "__main__":
    typer.run(main)
