"""Suggestions of another head after `train-head`: how often they come, and how often they are wrong.

    python benchmarks/quick_look.py FEATURES... --draws 20

Per draw some images of a feature file are the training images and all others say what is true: head after head is
trained, and where a quick look at the training images suggests another one, that one is trained too. A
suggestion is false if it is no better on the other images. The labels are those of the file ("real"); or the classes
that a logistic head draws by its probabilities ("linear"), so that no head can beat a linear one by more than luck; or
shuffled ("shuffled"), so that no head is better than chance. "own_split" is what train-head suggests on the file as it
is, and what that head scores on the test part. Writes benchmarks/results/quick-look-<file>.json.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.heads import LogisticHead
from onepass.heads.audit.quick_look import ALPHA, LEAST_GAIN, QuickLook
from onepass.heads.evaluation import Evaluation
from onepass.heads.training import TrainedHead, make_head, train_head

LABELS = ("real", "linear", "shuffled")


def accuracy_of(trained: TrainedHead) -> float:
    assert isinstance(trained.head.evaluation, Evaluation)
    return trained.head.evaluation.accuracy


def main(
    features: Annotated[list[Path], typer.Argument(help="Feature files.")],
    draws: Annotated[int, typer.Option(help="Draws of training images, per size.")] = 20,
    sizes: Annotated[str, typer.Option(help="Numbers of training images.")] = "150,400,1000",
    heads: Annotated[str, typer.Option(help="Heads that are trained.")] = "logreg,ridge,knn,centroid,rbf-svm",
    labels: Annotated[str, typer.Option(help="Any of real, linear, shuffled.")] = ",".join(LABELS),
) -> None:
    for path in features:
        with FeatureFile(path) as file:
            positions = np.flatnonzero(file.committed)
            (x, y), groups = file.read(positions), file.group_ids()[positions]
        usable = [int(size) for size in sizes.split(",") if int(size) <= 0.75 * len(y)]
        found = [
            one
            for kind_of_labels in labels.split(",")
            for size in usable
            for seed in range(draws)
            for one in draw(x, y, groups, kind_of_labels, size, heads.split(","), seed)
        ]
        result = {
            "features": path.stem,
            "images": len(y),
            "alpha": ALPHA,
            "least_gain": LEAST_GAIN,
            "draws": draws,
            "machine": machine(),
            "versions": versions("onepass", "numpy", "scipy", "scikit-learn"),
            "own_split": [own_split(path, head) for head in heads.split(",")],
            "table": table(found),
            "by_threshold": by_threshold(found),
        }
        write_result(f"quick-look-{path.stem}", result)
        for part in ("own_split", "table", "by_threshold"):
            print(json.dumps(result[part], indent=1))


def draw(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, labels: str, size: int, heads: list[str], seed: int
) -> list[dict[str, Any]]:
    """Trains heads on some images and says what was suggested, and what the others say of it."""
    generator = np.random.default_rng([seed, size])
    y = relabelled(x, y, labels, generator)
    order = generator.permutation(len(y))
    train, rest = order[:size], order[size:]
    rest = rest[~np.isin(groups[rest], groups[train])]
    train = train[np.isin(y[train], np.flatnonzero(np.bincount(y[train]) > 1))]
    classes = np.unique(y[train], return_inverse=True)[1]
    right: dict[str, float] = {}

    def trained(kind: str) -> Any:
        head = make_head(kind).fit(x[train], y[train], groups=groups[train])
        right[kind] = float((head.predict(x[rest]) == y[rest]).mean())
        return head

    found = []
    for kind in heads:
        head = trained(kind)
        started = time.perf_counter()
        look = QuickLook.of(lambda places: x[train[places]], classes, groups[train], kind=kind, seed=0)
        seconds = time.perf_counter() - started
        suggestion, versions = look.suggestion(head.held_out_), look.versions(head.held_out_)
        for one in versions:
            if one.head not in right:
                trained(one.head)
        named = suggestion or max(versions, key=lambda one: one.accuracy)
        found.append(
            {
                "labels": labels,
                "size": size,
                "head": kind,
                "suggested": suggestion is not None,
                "gain": right[named.head] - right[kind],
                "seconds": seconds,
                "versions": [
                    {"p": one.p, "accuracy": one.accuracy, "lead": one.gain, "gain": right[one.head] - right[kind]}
                    for one in versions
                ],
            }
        )
    return found


def own_split(path: Path, kind: str) -> dict[str, Any]:
    """What train-head suggests on the training part, and how much better that is on the part that is scored."""
    with tempfile.TemporaryDirectory() as folder:
        trained = train_head(path, head=kind, out=Path(folder) / "first.head")
        found: dict[str, Any] = {
            "head": kind,
            "accuracy": round(accuracy_of(trained), 4),
            "suggested": None,
        }
        if suggestion := trained.suggestion:
            better = train_head(path, head=suggestion.head, out=Path(folder) / "second.head")
            found |= {
                "suggested": suggestion.head,
                "p": float(f"{suggestion.p:.2g}"),
                "held_out": [round(suggestion.accuracy_now, 4), round(suggestion.accuracy, 4)],
                "accuracy_of_suggested": round(accuracy_of(better), 4),
            }
    return found


def relabelled(x: np.ndarray, y: np.ndarray, labels: str, generator: np.random.Generator) -> np.ndarray:
    """(n,) labels of the kind asked for."""
    if labels == "shuffled":
        return generator.permutation(y)
    if labels == "linear":
        probabilities = LogisticHead(C=0.01, tune="none").fit(x, y).predict_proba(x)
        return np.asarray((probabilities.cumsum(axis=1) > generator.random((len(y), 1))).argmax(axis=1))
    return y


def table(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each kind of labels, number of training images and head."""
    lines = []
    for key in sorted({(one["labels"], one["size"], one["head"]) for one in found}):
        some = [one for one in found if (one["labels"], one["size"], one["head"]) == key]
        suggested = [one for one in some if one["suggested"]]
        gains = [one["gain"] for one in suggested]
        lines.append(
            {
                **dict(zip(("labels", "size", "head"), key, strict=True)),
                "draws": len(some),
                "suggested": len(suggested),
                "false": sum(gain <= 0 for gain in gains),
                "gain_if_suggested": mean(gains),
                "gain_if_not": mean([one["gain"] for one in some if not one["suggested"]]),
                "seconds": round(float(np.median([one["seconds"] for one in some])), 3),
            }
        )
    return lines


def by_threshold(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many suggestions other values of `ALPHA` would give, over all draws, and how many of them false."""
    lines = []
    for labels in sorted({one["labels"] for one in found}):
        for alpha in (0.05, 0.01, 0.005, 0.001, 0.0001):
            some = [one["versions"] for one in found if one["labels"] == labels]
            clear = [[one for one in versions if one["p"] <= alpha and one["lead"] >= LEAST_GAIN] for versions in some]
            gains = [max(versions, key=lambda one: one["accuracy"])["gain"] for versions in clear if versions]
            false = sum(gain <= 0 for gain in gains)
            lines.append(
                {"labels": labels, "alpha": alpha, "draws": len(some), "suggested": len(gains), "false": false}
            )
    return lines


def mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


if __name__ == "__main__":
    typer.run(main)
