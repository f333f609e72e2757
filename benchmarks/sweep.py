"""What a sweep of nets costs: 24 mlp settings x 5 folds, in times one plain Keras fit of the same epochs.

    python benchmarks/sweep.py [FEATURES...] --epochs 10

Without feature files on 10,000 x 2,048 made-up rows of 10 classes. The plain fit is what a notebook does:
Dense(256, relu), Dropout(0.5), Dense(k, softmax), Adam and `model.fit` on standardised rows, once with Keras's
own batch size of 32 and once with the batch size of the sweep. The sweep takes the rows as they are, so that
its principal axes count; "whole" is `MLPHead(tune="thorough").fit`, which trains the best setting after it, five
folds and all rows. Nothing stops early. Alternating rounds in one process, after one that compiles and is not
counted for either. Writes benchmarks/results/sweep-<name>.json.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import ratios, versions, write_result
from sklearn.datasets import make_classification

from onepass.extract.frameworks import plain_keras
from onepass.extract.machine import machine
from onepass.features import FeatureFile
from onepass.heads import MLPHead
from onepass.heads.fitting.net_settings import MLP_GRIDS
from onepass.heads.inference.network import standardisation

_FOLDS = 5


def main(
    features: Annotated[list[Path] | None, typer.Argument(help="Feature files.")] = None,
    epochs: Annotated[int, typer.Option(help="Of every net.")] = 10,
    rounds: Annotated[int, typer.Option(help="Alternating timed rounds.")] = 3,
) -> None:
    for name, x, y in rows_of(features or []):
        seconds = measured(x, y, epochs, rounds)
        result = {
            "rows": {"name": name, "shape": list(x.shape), "classes": int(y.max()) + 1},
            "settings": len(MLP_GRIDS["thorough"]),
            "folds": _FOLDS,
            "epochs": epochs,
            "batch_size": batch_size(len(x)),
            "machine": machine(),
            "versions": versions("onepass", "keras", "tensorflow", "numpy"),
            "seconds": seconds,
            "times_a_plain_fit": {
                other: {part: ratios(seconds[part], seconds[other]) for part in ("whole", "best alone")}
                for other in ("keras, batch 32", "keras, same batch")
            },
        }
        write_result(f"sweep-{name}", result)
        print(result)


def rows_of(files: list[Path]) -> "list[tuple[str, np.ndarray, np.ndarray]]":
    """Names, (n, d) rows and (n,) classes."""
    if not files:
        x, y = make_classification(
            10_000, 2048, n_informative=60, n_redundant=500, n_classes=10, class_sep=1.5, flip_y=0.02, random_state=0
        )
        return [("10000x2048", x.astype(np.float32), y)]
    found = []
    for path in files:
        with FeatureFile(path) as file:
            x, labels = file.read(file.split()[0])
        found.append((path.stem, x, np.unique(labels, return_inverse=True)[1]))
    return found


def measured(x: np.ndarray, y: np.ndarray, epochs: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per round."""
    fits: dict[str, Callable[[], Any]] = {
        "keras, batch 32": lambda: plain(x, y, epochs, 32),
        "keras, same batch": lambda: plain(x, y, epochs, batch_size(len(x))),
        "whole": lambda: ours("thorough", x, y, epochs),
        "best alone": lambda: ours("none", x, y, epochs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for round_ in range(rounds + 1):
        for name, fit in fits.items():
            started = time.perf_counter()
            fit()
            if round_:
                seconds[name].append(round(time.perf_counter() - started, 2))
                print(name, seconds[name][-1], flush=True)
    return seconds


def ours(tune: str, x: np.ndarray, y: np.ndarray, epochs: int) -> MLPHead:
    return MLPHead(tune=tune, epochs=epochs, patience=10 * epochs, batch_size=batch_size(len(x))).fit(x, y)


def plain(x: np.ndarray, y: np.ndarray, epochs: int, batch: int) -> None:
    with plain_keras():
        import keras

        mean, scale = standardisation(x)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((x.shape[1],)),
                layers.Dense(256, "relu"),
                layers.Dropout(0.5),
                layers.Dense(int(y.max()) + 1, "softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit((x - mean) / scale, y, batch_size=batch, epochs=epochs, verbose=0)


def batch_size(n: int) -> int:
    return int(np.clip(n / 16, 32, 256))


if __name__ == "__main__":
    typer.run(main)
