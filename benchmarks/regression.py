"""Heads of numbers against scikit-learn's own searches: the same rows, folds and grids; error and time.

    python benchmarks/regression.py FEATURES --images 1000

The numbers are facts on the photos, see `image_facts`: brightness, colourfulness, share of edge pixels, kilobytes. One
round a number and head, ours and theirs in turn: ridge against RidgeCV, which leaves out one image at a time as ours
does, and against GridSearchCV(Ridge); kernel-ridge, knn, mlp and linear against GridSearchCV of KernelRidge,
KNeighborsRegressor, MLPRegressor and SGDRegressor. A paired bootstrap on the held-out fifth tests the difference of the
mean absolute errors. The first fit of a process is left out. Writes benchmarks/results/regression-<file>.json.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from against_scikit_learn import Duel, Scores, drawn, photos_of
from common import results_so_far, versions, write_result
from image_facts import numbers_of
from sklearn.compose import TransformedTargetRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge, RidgeCV, SGDRegressor
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.heads.classifiers.knn import _COUNTS, _DECAYS
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.fitting.net_settings import LINEAR_GRIDS, NUMBER_GRIDS
from onepass.heads.tasks.numbers import Numbers
from onepass.heads.training import make_head

NUMBERS = ("brightness", "colourfulness", "edges", "kilobytes")
DUELS = ("ridge", "ridge, 5 folds", "kernel-ridge", "knn", "linear", "mlp")


def main(
    features: Annotated[Path, typer.Argument(help="Feature file whose photos are where they were.")],
    images: Annotated[int, typer.Option(help="Training images, at most.")] = 1000,
    heads: Annotated[str, typer.Option(help="Some of the heads.")] = ";".join(DUELS),
) -> None:
    with FeatureFile(features) as file:
        train, test = drawn(file, images, 0)
        photos = photos_of(file)
        facts = {i: numbers_of(photos[i]) for i in np.concatenate([train, test]).tolist()}
        x, x_test = file.read(train)[0], file.read(test)[0]
        spec = str(file.spec)
    make_head("ridge", task="number").fit(x, np.array([facts[i]["contrast"] for i in train.tolist()]))
    result: dict[str, Any] = {
        "features": f"{features.stem}: {spec}",
        "training images": len(train),
        "machine": {**machine(), "shared": "other work ran beside it, two processes at most"},
        "versions": versions("onepass", "scikit-learn", "numpy", "scipy", "keras"),
        "heads": {},
    }
    result = results_so_far(f"regression-{features.stem}", result)
    for name in heads.split(";"):
        kind = name.split(",")[0]
        duel = Duel("mae", partial(make_head, kind, task="number"), THEIRS[name])
        for number in NUMBERS:
            y, y_test = (np.array([facts[i][number] for i in part.tolist()]) for part in (train, test))
            print(name, number, flush=True)
            duel.round(number, (x, y), (x_test, y_test))
        result["heads"][name] = duel.record()
        write_result(f"regression-{features.stem}", result)


def folds(y: np.ndarray) -> PredefinedSplit:
    return PredefinedSplit(assign_folds(Numbers.of(y).strata(Numbers.of(y).encoded(y)), rare=True))


def scaled(search: Any, x: np.ndarray, y: np.ndarray) -> Scores:
    """A search on standardised rows and numbers, as a regression in any of these units needs it."""
    whole = TransformedTargetRegressor(make_pipeline(StandardScaler(), search), transformer=StandardScaler())
    scores: Scores = whole.fit(x, y).predict
    return scores


def alphas(x: np.ndarray, exponents: np.ndarray) -> list[float]:
    return [float(x.size * 10.0**e) for e in exponents]  # standardised, the squares of the rows sum up to that


def ridge(x: np.ndarray, y: np.ndarray) -> Scores:
    return scaled(RidgeCV(alphas(x, np.arange(0, -6.1, -0.5))), x, y)


def ridge_folds(x: np.ndarray, y: np.ndarray) -> Scores:
    return scaled(GridSearchCV(Ridge(), {"alpha": alphas(x, np.arange(0, -6.1, -0.5))}, cv=folds(y)), x, y)


def kernel_ridge(x: np.ndarray, y: np.ndarray) -> Scores:
    grid = {
        "alpha": [10.0**e for e in np.arange(1, -4.1, -0.5)],
        "gamma": [factor / x.shape[1] for factor in (0.5, 0.125, 2.0)],
    }
    return scaled(GridSearchCV(KernelRidge(kernel="rbf"), grid, cv=folds(y)), x, y)


def nearness(decay: float, distances: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-(distances - distances.min(axis=1, keepdims=True)) / decay))


def knn(x: np.ndarray, y: np.ndarray) -> Scores:
    grid = {"n_neighbors": _COUNTS, "weights": [partial(nearness, decay) for decay in _DECAYS]}
    return scaled(GridSearchCV(KNeighborsRegressor(metric="cosine"), grid, cv=folds(y)), x, y)


def mlp(x: np.ndarray, y: np.ndarray) -> Scores:
    """As many settings: dropout, which it has not, becomes the strength of the penalty."""
    settings = NUMBER_GRIDS["fast"]
    grid = [{"learning_rate_init": [rate], "alpha": [10.0 * dropped]} for rate, dropped, _ in settings]
    net = MLPRegressor((256,), max_iter=40, n_iter_no_change=5, early_stopping=True, random_state=0)
    return scaled(GridSearchCV(net, grid, cv=folds(y)), x, y)


def linear(x: np.ndarray, y: np.ndarray) -> Scores:
    count = len(LINEAR_GRIDS["fast"])
    net = SGDRegressor(learning_rate="adaptive", eta0=1e-4, max_iter=60, n_iter_no_change=5, random_state=0)
    return scaled(GridSearchCV(net, {"alpha": np.logspace(-4, 1, count)}, cv=folds(y)), x, y)


THEIRS = dict(zip(DUELS, (ridge, ridge_folds, kernel_ridge, knn, linear, mlp), strict=True))

if __name__ == "__main__":
    typer.run(main)
