"""Tuned heads against scikit-learn's own searches: the same rows, folds and grids; time and accuracy.

    python benchmarks/tuning.py FEATURES... --draws 5

logreg against LogisticRegressionCV, rbf-svm against GridSearchCV(SVC).
Per file one timed round each, ours and theirs in turn, a time for each and their ratio; per draw (another
fifth of the images held out) the accuracies of both on the same images with McNemar's exact p. "cold" is
the whole `train-head` process and the whole `compare-heads` process with all heads. Writes
benchmarks/results/tuning-<file>.json.
"""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import ratios, versions, write_result
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.heads import LogisticHead, RBFSVMHead
from onepass.heads.classifiers.base import Head
from onepass.heads.fitting.folds import assign_folds
from onepass.heads.stats.paired_tests import mcnemar

Fitted = Callable[[np.ndarray], np.ndarray]
_NEW_MANNERS: dict[str, Any] = {"l1_ratios": (0,), "use_legacy_attributes": False}
KINDS = ("logreg", "rbf-svm")


def main(
    features: Annotated[list[Path], typer.Argument(help="Feature files.")],
    draws: Annotated[int, typer.Option(help="Held-out fifths to compare accuracies on.")] = 3,
    rounds: Annotated[int, typer.Option(help="Alternating timed rounds.")] = 3,
) -> None:
    warnings.simplefilter("ignore")  # LogisticRegressionCV says that some fits end at max_iter
    for path in features:
        with FeatureFile(path) as file:
            figures = {kind: measured(file, kind, draws, rounds) for kind in KINDS}
        result = {
            "features": path.stem,
            "machine": machine(),
            "versions": versions("onepass", "scikit-learn", "numpy", "scipy", "keras"),
            "heads": figures,
            "cold_seconds": cold(path),
        }
        write_result(f"tuning-{path.stem}", result)
        print(result)


def measured(file: FeatureFile, kind: str, draws: int, rounds: int) -> dict[str, Any]:
    """Times and accuracies of one kind of head and its counterpart."""
    seconds: dict[str, list[float]] = {"onepass": [], "scikit-learn": []}
    accuracies = []
    for draw in range(max(draws, rounds)):
        train, test = file.split(seed=draw)
        (x, y), (x_test, y_test) = file.read(train), file.read(test)
        right = {}
        for name, fit in (("onepass", ours), ("scikit-learn", theirs)):
            started = time.perf_counter()
            predict = fit(kind, x, y)
            if draw < rounds:
                seconds[name].append(round(time.perf_counter() - started, 2))
            right[name] = predict(x_test) == y_test
        p = mcnemar(right["onepass"], right["scikit-learn"])
        accuracies.append({name: round(float(r.mean()), 4) for name, r in right.items()} | {"n": len(test), "p": p})
        print(kind, accuracies[-1], {name: taken[-1] for name, taken in seconds.items()}, flush=True)
    faster = ratios(seconds["scikit-learn"], seconds["onepass"])
    return {"seconds": seconds, "times_faster": faster, "accuracies": accuracies}


def ours(kind: str, x: np.ndarray, y: np.ndarray) -> Fitted:
    head: Head = {"logreg": LogisticHead, "rbf-svm": RBFSVMHead}[kind]()
    return head.fit(x, y).predict


def theirs(kind: str, x: np.ndarray, y: np.ndarray) -> Fitted:
    folds = PredefinedSplit(assign_folds(np.unique(y, return_inverse=True)[1]))
    if kind == "logreg":
        search: Any = LogisticRegressionCV(
            Cs=LogisticHead.strengths(), cv=folds, scoring="neg_log_loss", max_iter=1000, **_NEW_MANNERS
        )
    else:
        scaled = StandardScaler().fit_transform(x)
        usual = 1 / np.square(scaled).sum(axis=1).mean()
        search = GridSearchCV(SVC(), RBFSVMHead.grid(usual), cv=folds)
    fitted: Any = make_pipeline(StandardScaler(), search).fit(x, y)
    return lambda rows: np.asarray(fitted.predict(rows))


def cold(path: Path) -> dict[str, float]:
    """Seconds of whole processes, as a user meets them."""
    bin_folder = Path(sys.executable).parent
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / path.name
        link.symlink_to(path.resolve())
        for name, command in (
            ("train-head logreg", ["train-head", str(link), "--head", "logreg"]),
            ("train-head mlp", ["train-head", str(link), "--head", "mlp"]),
            ("compare-heads all", ["compare-heads", str(link)]),
        ):
            started = time.perf_counter()
            subprocess.run([bin_folder / command[0], *command[1:]], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            found[name] = round(time.perf_counter() - started, 1)
    return found


if __name__ == "__main__":
    typer.run(main)
