"""How many images of other things are called unknown, and how many held-out images of the classes are.

    python benchmarks/unknown.py trashnet.resnet50.h5 cats_dogs.resnet50.h5 hymenoptera.resnet50.h5 --alpha 0.05

Trains a head on the first feature file, asks about all images of the others, and about its own held-out part. Then
each class in turn is left out of training, and its held-out images are asked about: the hard case. Writes
benchmarks/results/unknown-<stem>.json.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.heads.classifiers.kinds import HEADS
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.inference.out_of_distribution import OutOfDistribution
from onepass.heads.training import training_parts


def main(
    features: Annotated[Path, typer.Argument(help="Feature file of the classes.")],
    others: Annotated[list[Path], typer.Argument(help="Feature files of other things, of the same spec.")],
    head: Annotated[str, typer.Option(help="Kind of head.")] = "logreg",
    alpha: Annotated[float, typer.Option(help="As for predict --unknown.")] = 0.05,
) -> None:
    with FeatureFile(features) as file:
        trained, scored, part = training_parts(file)
        (x, y), (asked, labels) = file.read(trained), file.read(scored)
        groups, names, spec = file.group_ids()[trained], file.class_names, str(file.spec)
    elsewhere = {path.stem: _rows(path) for path in others}
    unknown = _fitted(head, x, y, groups, alpha)
    found = unknown(asked)
    result: dict[str, Any] = {
        "features": features.stem,
        "spec": spec,
        "head": head,
        "alpha": alpha,
        "machine": machine(),
        "versions": versions("onepass", "scikit-learn", "numpy"),
        "measured_on": part,
        "kept": round(float(1 - found.mean()), 4),
        "kept_per_class": {name: round(float(1 - found[labels == k].mean()), 4) for k, name in enumerate(names)},
        "unknown": {name: round(float(unknown(rows).mean()), 4) for name, rows in elsewhere.items()},
        "left_out_class_unknown": {},
    }
    for k, name in enumerate(names):
        rest = y != k
        without = _fitted(head, x[rest], np.unique(y[rest], return_inverse=True)[1], groups[rest], alpha)
        result["left_out_class_unknown"][name] = round(float(without(asked[labels == k]).mean()), 4)
    write_result(f"unknown-{features.stem}", result)
    print(json.dumps(result, indent=1))


def _rows(path: Path) -> np.ndarray:
    with FeatureFile(path) as file:
        return file.read(np.flatnonzero(file.committed))[0]


def _fitted(kind: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray, alpha: float) -> Any:
    """What tells unknown rows after training on some."""
    estimator = HEADS[kind]().fit(x, y, groups=groups)
    fold_of = assign_folds(y, groups=groups)
    held = fold_of >= 0
    out_of_distribution = OutOfDistribution.of(x[held], y[held], fold_of[held]).with_probabilities(
        np.asarray(estimator.held_out_)[held]
    )
    strange = out_of_distribution.at(alpha, int(y.max()) + 1)
    return lambda rows: strange(out_of_distribution.subspace.distances(rows), estimator.predict_proba(rows)).all(axis=1)


if __name__ == "__main__":
    typer.run(main)
