"""Forecasts of learning curves against what was then measured, on real rows.

    python benchmarks/forecasts.py FEATURES --images 400 --test 500 --runs 24

Per run a test part, a set of training images and as many new ones are drawn from the feature file. Heads are trained on
subsets of the first as `compare-heads --learning-curve` does, the forecast is made, and then the
head is trained on both sets and scored on the same test images. Counted is how often the interval of what will be
measured held that, how often the interval of the mean curve did (which is not for that), and how often the latter held
the mean over all runs; beside the mean gain and its forecast stands that of the best fit, which was the forecast
before curves were averaged. Trained heads' answers are kept in --cache, if given. Writes
benchmarks/results/forecasts-<file>-<images>.json.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.features import FeatureFile
from onepass.heads.compare.learning_curves import SHARES, nested_parts
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.memory import some_of
from onepass.heads.stats.power_law import forecast_gain
from onepass.heads.training import fit_on, make_head

Answers = dict[str, np.ndarray]
"""HEAD/RUN/right (r, s, n), HEAD/RUN/sizes (s + 1,) and HEAD/RUN/new (n,)."""


@one_blas_thread
def main(
    features: Annotated[Path, typer.Argument(help="Feature file.")],
    images: Annotated[int, typer.Option(help="Training images at hand; as many are new.")] = 400,
    test: Annotated[int, typer.Option(help="Test images.")] = 500,
    runs: Annotated[int, typer.Option(help="Draws of all three.")] = 24,
    heads: Annotated[str, typer.Option(help="Kinds, with commas.")] = "logreg,ridge,knn",
    cache: Annotated[Path | None, typer.Option(help="Folder for the answers of trained heads.")] = None,
) -> None:
    kept = cache / f"{features.stem}-{images}.npz" if cache else None
    answers: Answers = dict(np.load(kept)) if kept and kept.exists() else {}
    kinds = heads.split(",")
    with FeatureFile(features) as file:
        for run in range(runs):
            if missing := [kind for kind in kinds if f"{kind}/{run}/new" not in answers]:
                answers |= learned(file, missing, run, images, test)
                if kept:
                    np.savez_compressed(kept, **answers)  # type: ignore[arg-type]
    figures = {kind: judged(kind, answers, runs) for kind in kinds}
    facts = {"features": features.stem, "images": images, "test": test, "runs": runs}
    result = facts | {"versions": versions("onepass", "numpy", "scikit-learn"), "heads": figures}
    write_result(f"forecasts-{features.stem}-{images}", result)
    print(result)


def learned(file: FeatureFile, kinds: list[str], run: int, images: int, test: int) -> Answers:
    """Trains heads on subsets of some images, and on these with as many new ones."""
    labels, committed = file.table.labels, np.flatnonzero(file.committed)
    scored = some_of(committed, labels[committed], test, seed=run)
    rest = np.setdiff1d(committed, scored)
    both = some_of(rest, labels[rest], 2 * images, seed=run + 500)
    first = some_of(both, labels[both], len(both) // 2, seed=run + 900)
    x, y = file.read(scored)
    found: Answers = {}
    for kind in kinds:
        right, sizes = [], []
        for share in SHARES:
            parts = nested_parts(labels, first, share)
            heads = [fit_on(make_head(kind, seed=seed), file, part) for seed, part in enumerate(parts)]
            right.append(np.broadcast_to([head.predict(x) == y for head in heads], (3, len(y))))
            sizes.append(len(parts[0]))
        found[f"{kind}/{run}/right"] = np.stack(right, axis=1)
        found[f"{kind}/{run}/sizes"] = np.array([*sizes, len(both)])
        found[f"{kind}/{run}/new"] = fit_on(make_head(kind, seed=0), file, both).predict(x) == y
        print(kind, run, [round(float(one.mean()), 3) for one in right], flush=True)
    return found


def judged(kind: str, answers: Answers, runs: int) -> dict[str, Any]:
    """How the forecasts of one head fared, in points."""
    measured, gains, best_fits, expected, held, mean_held, widths = [], [], [], [], 0, [], []
    for run in range(runs):
        right, sizes = answers[f"{kind}/{run}/right"].astype(float), answers[f"{kind}/{run}/sizes"][:-1]
        then = float(answers[f"{kind}/{run}/new"].mean())
        found = forecast_gain(sizes, right)
        assert found.doubled is not None
        assert found.doubled_interval is not None
        low, high = found.doubled_interval
        held += low <= then <= high
        widths.append(high - low)
        measured.append(then - found.scores[-1])
        gains.append(found.gain)
        expected.append(found.doubled - then)
        best_fits.append(forecast_gain(sizes, right.mean(axis=0), resamples=200).gain)
        mean_held.append(found.gain_interval)
    mean = float(np.mean(measured))
    return {
        "measured_interval_held": f"{held} of {runs}",
        "mean_curve_interval_held_measured": f"{_holding(mean_held, measured)} of {runs}",
        "mean_curve_interval_held_mean": f"{_holding(mean_held, [mean] * runs)} of {runs}",
        "gain": _points(mean),
        "gain_standard_error": _points(float(np.std(measured, ddof=1)) / runs**0.5),
        "gain_forecast": _points(float(np.mean(gains))),
        "gain_of_best_fit": _points(float(np.mean(best_fits))),
        "expected_minus_measured": _points(float(np.mean(expected))),
        "interval_width": _points(float(np.mean(widths))),
    }


def _holding(intervals: list[tuple[float, float]], values: list[float]) -> int:
    return sum(low <= value <= high for (low, high), value in zip(intervals, values, strict=True))


def _points(share: float) -> float:
    return round(100 * share, 2)


if __name__ == "__main__":
    typer.run(main)
