"""What the boundary cache saves: seconds an epoch of `fine-tune` from the cache and end to end, and accuracies.

    python benchmarks/fine_tuning.py HEAD --unfreeze conv5 --lr 1e-5 --epochs 3

HEAD was written by train-head beside its feature file, whose images must be there. Both runs train the same
layers on the same images in the same order. The first epoch of each, in which TensorFlow compiles, does not
count. Writes benchmarks/results/fine-tuning-<head>.json.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from common import versions, write_result

from onepass.extract.machine import machine


def main(
    head: Annotated[Path, typer.Argument(help="Head file.")],
    unfreeze: Annotated[str, typer.Option(help="As for fine-tune.")] = "conv5",
    lr: Annotated[str, typer.Option(help="As for fine-tune.")] = "1e-5",
    epochs: Annotated[int, typer.Option(help="Of each run, two at least.")] = 3,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        runs = {cache: run(head.resolve(), Path(name), cache, unfreeze, lr, epochs) for cache in ("auto", "off")}
    result = {
        "head": head.stem,
        "unfreeze": unfreeze,
        "lr": float(lr),
        "machine": machine(),
        "versions": versions("onepass", "keras", "tensorflow", "openvino"),
        "boundary cache": runs["auto"],
        "end to end": runs["off"],
        "times_faster": round(runs["off"]["seconds_per_epoch"] / runs["auto"]["seconds_per_epoch"], 2),
    }
    write_result(f"fine-tuning-{head.stem}", result)
    print(json.dumps(result, indent=1))


def run(head: Path, folder: Path, cache: str, unfreeze: str, lr: str, epochs: int) -> dict[str, Any]:
    """One fine-tuning as a process of its own."""
    options = [
        "--unfreeze",
        unfreeze,
        "--lr",
        lr,
        "--epochs",
        str(epochs),
        "--patience",
        str(epochs),
        "--keep",
        "never",
    ]
    program, out = Path(sys.executable).parent / "fine-tune", folder / f"{cache}.keras"
    began = time.perf_counter()
    done = subprocess.run(
        [program, str(head), *options, "--boundary-cache", cache, "--out", str(out), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    found = json.loads(done.stdout)
    with open(out.with_suffix(".history.csv"), newline="") as file:
        history = list(csv.DictReader(file))
    return {
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(statistics.median(float(epoch["seconds"]) for epoch in history[2:]), 2),
        "epochs": [float(epoch["seconds"]) for epoch in history[1:]],
        "val_accuracy": [round(float(epoch["val_accuracy"]), 4) for epoch in history],
        "test_accuracy": {"frozen": found["before"][0], "fine-tuned": found["after"][0]},
    }


if __name__ == "__main__":
    typer.run(main)
