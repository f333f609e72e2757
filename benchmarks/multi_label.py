"""Heads of several labels against scikit-learn's own searches: the same rows, folds and grids; precision and time.

    python benchmarks/multi_label.py FEATURES --images 1000

The labels are facts on the photos, see `image_facts`: bright, colourful, contrasty, reddish (the upper third each),
portrait where some photos are; and their class. One round a draw of the held-out fifth, ours and theirs in turn:
logreg, svm and linear against GridSearchCV over OneVsRestClassifier of LogisticRegression, LinearSVC and SGDClassifier;
ridge against RidgeCV of all labels at once; kernel-ridge, knn and mlp against GridSearchCV of KernelRidge,
KNeighborsClassifier and MLPClassifier. A paired bootstrap tests the difference of the mean average precisions.

Then what 100 labels cost: whether patches of the photo are bright in a channel. Fits with one label and with 100 of
them in turn, and the whole `train-head --head ridge` as a process. Writes benchmarks/results/multi_label-<file>.json.
"""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from against_scikit_learn import Duel, Scores, drawn, photos_of
from common import ratios, results_so_far, versions, write_result
from image_facts import numbers_of, patches_of
from regression import alphas, nearness
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, RidgeCV, SGDClassifier
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import LogisticHead, SVMHead
from onepass.heads.classifiers.knn import _COUNTS, _DECAYS
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.fitting.net_settings import LINEAR_GRIDS, MLP_GRIDS
from onepass.heads.tasks.labels import Labels
from onepass.heads.training import make_head

FACTS = {"bright": "brightness", "colourful": "colourfulness", "contrasty": "contrast", "reddish": "red"}
MANY = 100


def main(
    features: Annotated[Path, typer.Argument(help="Feature file whose photos are where they were.")],
    images: Annotated[int, typer.Option(help="Training images, at most.")] = 1000,
    draws: Annotated[int, typer.Option(help="Held-out fifths.")] = 3,
    heads: Annotated[str, typer.Option(help="Some of the heads; many for what 100 labels cost.")] = "",
) -> None:
    asked = heads.split(",") if heads else [*THEIRS, "many"]
    with FeatureFile(features) as file:
        photos = photos_of(file)
        names, y = labels_of(file, [numbers_of(photo) for photo in photos])
        result: dict[str, Any] = {
            "features": f"{features.stem}: {file.spec}",
            "labels": {name: int(count) for name, count in zip(names, y.sum(axis=0), strict=True)},
            "training images": images,
            "machine": {**machine(), "shared": "other work ran beside it, two processes at most"},
            "versions": versions("onepass", "scikit-learn", "numpy", "scipy", "keras"),
            "heads": {},
            "many labels": {},
        }
        name = f"multi_label-{features.stem}"
        result = results_so_far(name, result)
        make_head("ridge", task="labels").fit(file.read(np.arange(200))[0], y[:200])  # what is imported late
        for kind in (kind for kind in asked if kind != "many"):
            duel = Duel("map", partial(make_head, kind, task="labels"), THEIRS[kind])
            for draw in range(draws):
                train, test = drawn(file, images, draw)
                print(kind, draw, flush=True)
                duel.round(f"draw {draw}", (file.read(train)[0], y[train]), (file.read(test)[0], y[test]))
            result["heads"][kind] = duel.record()
            write_result(name, result)
        if "many" in asked:
            for kind, costs_of_it in many(file, np.array([patches_of(photo) for photo in photos])):
                result["many labels"][kind] = costs_of_it
                write_result(name, result)
                print(kind, costs_of_it, flush=True)


def labels_of(file: FeatureFile, facts: list[dict[str, float]]) -> tuple[list[str], np.ndarray]:
    """Names, and (n, k) of 0 and 1."""
    columns = {}
    for name, fact in FACTS.items():
        values = np.array([one[fact] for one in facts])
        columns[name] = values > np.quantile(values, 2 / 3)
    portrait = np.array([one["portrait"] > 1 for one in facts])
    if 0.02 < portrait.mean() < 0.98:
        columns["portrait"] = portrait
    columns |= {name: file.table.labels == i for i, name in enumerate(file.class_names)}
    return list(columns), np.stack(list(columns.values()), axis=1).astype(np.float64)


def many(file: FeatureFile, patches: np.ndarray, rounds: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """Seconds with one label and with 100: of `train-head --head ridge` as a process, and of a fit per head."""
    rng = np.random.default_rng(0)
    columns = rng.choice(patches.shape[1], MANY, replace=False)
    starts = [np.quantile(patches[:, i], share) for i, share in zip(columns, rng.uniform(0.5, 0.95, MANY), strict=True)]
    y = (patches[:, columns] > starts).astype(np.float64)
    train, _ = file.split(seed=0)
    x = file.read(train)[0]
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, MANY):
            write_labels(file, Path(folder) / f"{count}.h5", y[:, :count])

        def whole(count: int) -> None:
            command = [sys.executable, "-m", "onepass", "train-head", f"{count}.h5", "--head", "ridge"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

        yield "train-head --head ridge", costs(whole, rounds)
    for kind in ("ridge", "logreg", "svm", "knn", "kernel-ridge", "linear", "mlp"):

        def fitted(count: int, kind: str = kind) -> None:
            make_head(kind, task="labels").fit(x, y[train, :count])

        yield kind, costs(fitted, rounds)


def costs(work: Callable[[int], None], rounds: int) -> dict[str, Any]:
    """Seconds with one label and with `MANY`, in turn."""
    seconds: dict[int, list[float]] = {1: [], MANY: []}
    for count in (1, MANY) * rounds:
        started = time.perf_counter()
        work(count)
        seconds[count].append(round(time.perf_counter() - started, 2))
    return {
        "median_seconds": {f"{count}": round(statistics.median(taken), 2) for count, taken in seconds.items()},
        f"{MANY} labels in times one": ratios(seconds[MANY], seconds[1]),
        "seconds": {f"{count}": taken for count, taken in seconds.items()},
    }


def write_labels(file: FeatureFile, path: Path, y: np.ndarray) -> None:
    """The same rows with other labels."""
    table = dataclasses.replace(
        file.table,
        class_names=tuple(f"label {i}" for i in range(y.shape[1])),
        labels=np.zeros(len(y), np.int32),
        task="labels",
        targets=y,
    )
    write_feature_file(path, file.spec, table, file.provenance, file.golden_rows)
    kept = np.flatnonzero(file.committed)
    with RowWriter(path) as writer:
        writer.commit([(position, 0) for position in kept.tolist()], file.read(kept)[0])


def folds(y: np.ndarray) -> PredefinedSplit:
    return PredefinedSplit(assign_folds(Labels(y.shape[1]).strata(y)))


def mean_log_loss(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    told = model.predict_proba(x)
    return -float(np.mean([log_loss(y[:, i], told[:, i], labels=[0, 1]) for i in range(y.shape[1])]))


def precision(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float(average_precision_score(y, told_by(model)(x)))


def told_by(model: Any) -> Scores:
    """The scores of a classifier of several labels, whichever way it gives them."""
    if hasattr(model, "decision_function"):
        return lambda x: np.asarray(model.decision_function(x))
    if not hasattr(model, "predict_proba"):
        return lambda x: np.asarray(model.predict(x))

    def positive(x: np.ndarray) -> np.ndarray:
        found = model.predict_proba(x)
        return np.stack([one[:, 1] for one in found], axis=1) if isinstance(found, list) else np.asarray(found)

    return positive


def searched(model: Any, grid: Any, score: Any, x: np.ndarray, y: np.ndarray) -> Scores:
    search = GridSearchCV(model, grid, cv=folds(y), scoring=score)
    whole = make_pipeline(StandardScaler(), search).fit(x, y)
    best, scale = whole[-1].best_estimator_, whole[0]
    return lambda rows: told_by(best)(scale.transform(rows))


def logreg(x: np.ndarray, y: np.ndarray) -> Scores:
    model = OneVsRestClassifier(LogisticRegression(max_iter=1000))
    return searched(model, {"estimator__C": LogisticHead.strengths()}, mean_log_loss, x, y)


def svm(x: np.ndarray, y: np.ndarray) -> Scores:
    model = OneVsRestClassifier(LinearSVC(dual="auto"))
    return searched(model, {"estimator__C": SVMHead.strengths()}, precision, x, y)


def linear(x: np.ndarray, y: np.ndarray) -> Scores:
    model = OneVsRestClassifier(SGDClassifier("log_loss", max_iter=60, random_state=0))
    return searched(model, {"estimator__alpha": np.logspace(-4, 1, len(LINEAR_GRIDS["fast"]))}, mean_log_loss, x, y)


def ridge(x: np.ndarray, y: np.ndarray) -> Scores:
    search = RidgeCV(alphas(x, np.arange(0, -6.1, -0.5)))
    scores: Scores = make_pipeline(StandardScaler(), search).fit(x, 2 * y - 1).predict
    return scores


def kernel_ridge(x: np.ndarray, y: np.ndarray) -> Scores:
    grid = {
        "alpha": [10.0**e for e in np.arange(1, -4.1, -0.5)],
        "gamma": [factor / x.shape[1] for factor in (0.5, 0.125, 2.0)],
    }
    return searched(KernelRidge(kernel="rbf"), grid, precision, x, y)


def knn(x: np.ndarray, y: np.ndarray) -> Scores:
    grid = {"n_neighbors": _COUNTS, "weights": [partial(nearness, decay) for decay in _DECAYS]}
    return searched(KNeighborsClassifier(metric="cosine"), grid, precision, x, y)


def mlp(x: np.ndarray, y: np.ndarray) -> Scores:
    """As many settings: dropout, which it has not, becomes the strength of the penalty."""
    grid = [{"learning_rate_init": [rate], "alpha": [10.0 * dropped]} for rate, dropped, _ in MLP_GRIDS["fast"]]
    net = MLPClassifier((256,), max_iter=40, n_iter_no_change=5, early_stopping=True, random_state=0)
    return searched(net, grid, mean_log_loss, x, y)


THEIRS = {
    "ridge": ridge,
    "logreg": logreg,
    "svm": svm,
    "kernel-ridge": kernel_ridge,
    "knn": knn,
    "linear": linear,
    "mlp": mlp,
}

if __name__ == "__main__":
    typer.run(main)
