"""Forecasts of learning curves of numbers and labels against what was then measured, on real rows.

    python benchmarks/task_forecasts.py FEATURES --images 400 --test 500 --runs 12

As `forecasts.py` does for classes, with ridge and knn, for the facts of `image_facts`: per run a test part, training
images and as many new ones are drawn; the curve of the former is forecast to both together, which is then measured.
Counted is how often the interval of what will be measured held it, and how often the interval of the mean gain held
the mean over the runs. Writes benchmarks/results/task-forecasts-<file>.json.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from against_scikit_learn import photos_of
from common import versions, write_result
from image_facts import numbers_of
from multi_label import labels_of

from onepass.features import FeatureFile
from onepass.features.tasks import strata_of_labels, strata_of_numbers
from onepass.heads.classifiers.base import Head
from onepass.heads.compare.learning_curves import SHARES, nested_parts
from onepass.heads.fitting.blas import one_blas_thread
from onepass.heads.fitting.memory import some_of
from onepass.heads.stats.power_law import Forecast, forecast_error, forecast_gain
from onepass.heads.training import make_head

NUMBERS = ("brightness", "colourfulness", "edges", "kilobytes")
KINDS = ("ridge", "knn")


@one_blas_thread
def main(
    features: Annotated[Path, typer.Argument(help="Feature file whose photos are where they were.")],
    images: Annotated[int, typer.Option(help="Training images at hand; as many are new.")] = 400,
    test: Annotated[int, typer.Option(help="Test images.")] = 500,
    runs: Annotated[int, typer.Option(help="Draws of all three.")] = 12,
) -> None:
    with FeatureFile(features) as file:
        facts = [numbers_of(photo) for photo in photos_of(file)]
        _, several = labels_of(file, facts)
        x = file.read(np.arange(len(file)))[0]
    cases: dict[str, tuple[str, np.ndarray]] = {n: ("number", np.array([one[n] for one in facts])) for n in NUMBERS}
    cases["labels"] = ("labels", several)
    found: dict[str, Any] = {}
    for kind in KINDS:
        for name, (task, y) in cases.items():
            found[f"{kind}, {name}"] = judged([one(kind, task, x, y, images, test, run) for run in range(runs)])
            print(kind, name, found[f"{kind}, {name}"], flush=True)
    facts_of_it = {"features": features.stem, "images": images, "test": test, "runs": runs}
    packages = versions("onepass", "numpy", "scikit-learn")
    write_result(f"task-forecasts-{features.stem}", {**facts_of_it, "versions": packages, "cases": found})


def one(kind: str, task: str, x: np.ndarray, y: np.ndarray, images: int, test: int, run: int) -> tuple[Forecast, float]:
    """A forecast, and what was then measured."""
    strata = strata_of_numbers(y) if task == "number" else strata_of_labels(y)
    every = np.arange(len(y))
    scored = some_of(every, strata, test, seed=run)
    rest = np.setdiff1d(every, scored)
    both = some_of(rest, strata[rest], 2 * images, seed=run + 500)
    first = some_of(both, strata[both], len(both) // 2, seed=run + 900)

    def fitted(part: np.ndarray, seed: int) -> np.ndarray:
        head: Head = make_head(kind, task=task, seed=seed).fit(x[part], y[part])
        told = head.predict(x[scored])
        right = np.abs(told - y[scored]) if task == "number" else (told == y[scored]).mean(axis=1)
        return np.asarray(right)

    sizes, each = [], []
    for share in SHARES:
        parts = nested_parts(strata, first, share)
        each.append(np.broadcast_to([fitted(part, seed) for seed, part in enumerate(parts)], (3, len(scored))))
        sizes.append(len(parts[0]))
    forecast: Callable[..., Forecast] = forecast_error if task == "number" else forecast_gain
    return forecast(np.array(sizes), np.stack(each, axis=1).astype(float)), float(fitted(both, 0).mean())


def judged(runs: list[tuple[Forecast, float]]) -> dict[str, Any]:
    gains = [(found.scores[-1] - then) * (1 if found.is_error else -1) for found, then in runs]
    held = sum(found.doubled_interval[0] <= then <= found.doubled_interval[1] for found, then in runs)  # type: ignore[index]
    mean = float(np.mean(gains))
    of_mean = sum(found.gain_interval[0] <= mean <= found.gain_interval[1] for found, _ in runs)
    shown = partial(np.format_float_positional, precision=4, fractional=False)
    return {
        "measured_interval_held": f"{held} of {len(runs)}",
        "mean_curve_interval_held_mean": f"{of_mean} of {len(runs)}",
        "score": shown(float(np.mean([found.scores[-1] for found, _ in runs]))),
        "gain": shown(mean),
        "gain_forecast": shown(float(np.mean([found.gain for found, _ in runs]))),
    }


if __name__ == "__main__":
    typer.run(main)
