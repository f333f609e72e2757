"""How often the interval of a score over folds holds the true accuracy.

    python benchmarks/fold_intervals.py --runs 1000

Two classes of normal variables, `width` wide, whose means lie 2 `gap` apart, are told apart by the nearest of the two
means of the training images, refitted in each fold. Its accuracy is known exactly, and averaged over all runs: the
accuracy of such a classifier, trained on so many images. `plain` is mean +- t * error, `within` is what is reported.
Writes benchmarks/results/fold-intervals.json.
"""

from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from scipy.stats import norm

from onepass.heads.fitting.folds import assign_folds
from onepass.heads.stats.cross_validation_tests import corrected_interval

SIZES = ((50, 5), (200, 20), (800, 20))
"""Images, and the width of their rows."""
GAPS = (0.8, 1.6, 2.4, 3.0)
FOLDS = ((5, 1), (5, 2), (5, 4), (10, 1))
"""Folds and repeats."""


def main(runs: Annotated[int, typer.Option(help="Simulated sets of images per setting.")] = 1000) -> None:
    settings: list[dict[str, Any]] = []
    for images, width in SIZES:
        for gap in GAPS:
            for folds, repeats in FOLDS:
                settings.append(
                    {"images": images, "folds": f"{folds}x{repeats}"}
                    | covered(images, width, gap, folds=folds, repeats=repeats, runs=runs)
                )
                print(settings[-1], flush=True)
    within, plain = ([one[kind]["covers"] for one in settings] for kind in ("within", "plain"))
    summary = {"within": [min(within), max(within)], "plain": [min(plain), max(plain)]}
    used = versions("onepass", "numpy", "scipy")
    write_result("fold-intervals", {"runs": runs, "covers": summary, "settings": settings, "versions": used})


def covered(images: int, width: int, gap: float, *, folds: int, repeats: int, runs: int) -> dict[str, Any]:
    """Coverage and mean width of both intervals in one setting."""
    rng = np.random.default_rng(0)
    both = [scores_of(rng, images, width, gap, folds=folds, repeats=repeats) for _ in range(runs)]
    truth = float(np.mean([true for _, true in both]))
    found: dict[str, Any] = {"accuracy": round(truth, 4)}
    for kind, most in (("plain", None), ("within", float(images))):
        ends = np.array([corrected_interval(scores, test_share=1 / folds, most=most) for scores, _ in both])
        holds = (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
        found[kind] = {"covers": round(float(holds.mean()), 3), "wide": round(float(np.ptp(ends, axis=1).mean()), 4)}
    return found


def scores_of(
    rng: np.random.Generator, images: int, width: int, gap: float, *, folds: int, repeats: int
) -> tuple[np.ndarray, float]:
    """Accuracy in each fold of one drawn set of images, and the mean of their true accuracies."""
    y = np.arange(images) % 2
    x = rng.normal(size=(images, width))
    x[:, 0] += np.where(y == 1, gap, -gap)
    scores, true = [], []
    for repeat in range(repeats):
        fold_of = assign_folds(y, groups=np.arange(images), folds=folds, seed=repeat)
        for fold in range(folds):
            held = fold_of == fold
            first, second = (x[~held & (y == one)].mean(axis=0) for one in (0, 1))
            normal, offset = second - first, (first - second) @ (first + second) / 2
            scores.append(np.mean((x[held] @ normal + offset > 0) == (y[held] == 1)))
            sides = np.array([normal[0] * gap + offset, normal[0] * gap - offset])
            true.append(norm.cdf(sides / np.linalg.norm(normal)).mean())
    return np.array(scores), float(np.mean(true))


if __name__ == "__main__":
    typer.run(main)
