"""What pretraining is worth: the same network from random weights, frozen with a head, and fine-tuned.

    python benchmarks/pretraining.py DATA --backbone mobilenetv2 --weights FILE [--epochs 10] [--unfreeze block_14]

All three are whole commands on the same split of the same photos; training from scratch gets as many epochs as
fine-tuning, of all layers. Scores are of the test part, or of val where there is none. Writes
benchmarks/results/pretraining-<backbone>-<data>.json, from which the table in docs/recipes.md is taken.
"""

import json
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
    data: Annotated[Path, typer.Argument(help="Class folders.")],
    backbone: str = "mobilenetv2",
    weights: Annotated[str | None, typer.Option(help="File; by default Keras's download.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels; by default the network's.")] = None,
    head: str = "logreg",
    unfreeze: str = "auto",
    lr: float = 1e-4,
    epochs: int = 10,
) -> None:
    given = ["--weights", str(Path(weights).resolve())] if weights else []
    size = ["--image-size", str(image_size)] if image_size else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = ["--backbone", backbone, "--precision", "float32", *size, *given]
        rows, extracting = run(folder, "extract", str(data.resolve()), *network, "--out", "x.h5")
        frozen, training = run(folder, "train-head", "x.h5", "--head", head, "--out", "x.head")
        tuning = ["fine-tune", "x.head", "--keep", "never", "--epochs", str(epochs), *given]
        tuned, fine = run(folder, *tuning, "--unfreeze", unfreeze, "--lr", str(lr))
        random, scratch = run(folder, *tuning, "--from-scratch")
    result = {
        "backbone": backbone,
        "data": data.name,
        "head": head,
        "unfreeze": unfreeze,
        "epochs": epochs,
        "images": rows["images"],
        "measured_on": tuned["measured_on"],
        "n": tuned["n"],
        "machine": machine(),
        "versions": versions("onepass", "tensorflow", "keras", "openvino"),
        "scratch": {"accuracy": random["after"], "seconds": scratch, "epochs": len(random["history"]) - 1},
        "frozen": {"accuracy": [frozen["accuracy"], frozen["interval"]], "seconds": round(extracting + training, 1)},
        "fine-tuned": {
            "accuracy": tuned["after"],
            "seconds": round(extracting + training + fine, 1),
            "gain": tuned["gain"],
            "better": tuned["better"],
        },
    }
    write_result(f"pretraining-{backbone}-{data.name}", result)
    print(json.dumps(result, indent=1))


def run(folder: Path, *command: str) -> tuple[dict[str, Any], float]:
    """One command as a whole process: what it says as JSON, and its seconds."""
    began = time.perf_counter()
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:], "--json"], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout), round(time.perf_counter() - began, 1)


if __name__ == "__main__":
    typer.run(main)
