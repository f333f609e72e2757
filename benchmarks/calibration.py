"""What smoothing the temperature's targets by the number of rows does to the calibration of all heads.

    python benchmarks/calibration.py FEATURES [--images 10,40,0] [--heads logreg,svm] [--repeats 5]

Heads are fitted on the first so many training images of each class (0: all), and scored on the test part: at the
temperature that they have, and at the one with the lowest log loss on the same held-out rows, bounded by exp(8) as it
was before. Few images of two classes that lie apart are where held-out rows are separated. Prints and writes
benchmarks/results/calibration-FEATURES.json.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from scipy.optimize import minimize_scalar

from onepass.extract.machine import machine
from onepass.features import CLASSES, FeatureFile
from onepass.heads.fitting.temperature import log_loss
from onepass.heads.head_options import HEADS_OF
from onepass.heads.inference.network import Network
from onepass.heads.stats.metrics import calibration_error
from onepass.heads.training import make_head

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows, classes and groups of images."""


def main(
    features: Annotated[Path, typer.Argument(help="Feature file with a test part.")],
    images: Annotated[str, typer.Option(help="Training images of each class, with commas; 0 for all.")] = "0",
    classes: Annotated[int, typer.Option(help="Only so many classes, the first; 0 for all.")] = 0,
    heads: Annotated[str, typer.Option(help="Kinds, with commas; all by default.")] = ",".join(HEADS_OF[CLASSES]),
    repeats: Annotated[int, typer.Option(help="Draws of the training images.")] = 1,
) -> None:
    found: list[dict[str, Any]] = []
    with FeatureFile(features) as file:
        train, test = (part_of(file, part, classes) for part in ("train", "test"))
    for count in map(int, images.split(",")):
        for kind in heads.split(","):
            runs = [compared(kind, drawn(train, count, seed), test, seed) for seed in range(repeats if count else 1)]
            told = {"head": kind, "images": count or "all", "classes": int(train[1].max()) + 1, "runs": len(runs)}
            found.append(told | {name: round(float(np.mean([run[name] for run in runs])), 4) for name in runs[0]})
            print(found[-1], flush=True)
    name = f"calibration-{features.stem}" + (f"-{classes}" if classes else "")
    write_result(name, {"machine": machine(), "versions": versions("onepass", "numpy", "scipy"), "fits": found})


def part_of(file: FeatureFile, part: str, classes: int) -> Rows:
    rows = file.rows_of(part)
    x, y = file.read(rows)
    kept = y < (classes or len(file.class_names))
    return x[kept], y[kept], file.group_ids()[rows][kept]


def drawn(rows: Rows, count: int, seed: int) -> Rows:
    """So many images of each class."""
    if not count:
        return rows
    random = np.random.default_rng(seed)
    chosen = [random.permutation(np.flatnonzero(rows[1] == c))[:count] for c in np.unique(rows[1])]
    some = np.sort(np.concatenate(chosen))
    return rows[0][some], rows[1][some], rows[2][some]


def compared(kind: str, train: Rows, test: Rows, seed: int) -> dict[str, float]:
    """Of the test rows at both temperatures; and the largest logarithm of odds on them."""
    head = make_head(kind, seed=seed).fit(train[0], train[1], groups=train[2])
    told = np.asarray(head.held_out_)
    held_out = ~np.isnan(told).any(axis=1)
    scores, y = np.log(np.maximum(told[held_out], 1e-300)), train[1][held_out]
    best = minimize_scalar(lambda t: log_loss(scores * np.exp(t), y), bounds=(-8, 8), method="bounded").x
    facts = {"held_out_accuracy": float((scores.argmax(axis=1) == y).mean())}
    for name, network in (("before", head.network_.scaled(float(np.exp(best)))), ("after", head.network_)):
        facts |= {f"{fact}_{name}": value for fact, value in judged(network, *test[:2]).items()}
    return facts


def judged(network: Network, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    scores, p = network.scores(x), network.outputs(x)
    top = np.sort(scores, axis=1)
    return {
        "log_loss": log_loss(scores.astype(np.float64), y),
        "calibration_error": calibration_error(p, y),
        "largest_lead": float((top[:, -1] - top[:, -2]).max()),
    }


if __name__ == "__main__":
    typer.run(main)
