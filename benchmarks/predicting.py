"""How long `onepass predict` takes for one photo, and its rate for many beside that of `extract`.

    python benchmarks/predicting.py HEAD PHOTOS --rounds 3

HEAD was trained on rows of a backbone that is converted already; PHOTOS is a folder with classes. Whole processes
each time, the two rates in turn. Writes benchmarks/results/predicting-<head>.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from common import ratios, versions, write_result

from onepass.extract.data.watch import find_images
from onepass.extract.machine import machine
from onepass.heads import load_head


def main(
    head: Annotated[Path, typer.Argument(help="Head file.")],
    photos: Annotated[Path, typer.Argument(help="Folder of class folders.")],
    rounds: Annotated[int, typer.Option(help="Of each measurement.")] = 3,
    weights: Annotated[str | None, typer.Option(help="As for extract.")] = None,
) -> None:
    saved, files = load_head(head), list(find_images([photos]))
    spec, given = saved.spec, ["--weights", weights] if weights else []
    settings = ["--backbone", spec.backbone, "--precision", spec.precision, "--resize", spec.resize, *given]
    predict = ["onepass", "predict", str(head), *given]
    with tempfile.TemporaryDirectory() as name:
        one = [timed([*predict, str(files[0])]) for _ in range(2 * rounds + 1)][1:]
        rates: dict[str, list[float]] = {"predict": [], "extract": []}
        for turn in range(rounds):
            out = Path(name) / str(turn)
            rates["predict"].append(len(files) / timed([*predict, str(photos), "--out", f"{out}.csv"]))
            rates["extract"].append(len(files) / timed(["extract", str(photos), *settings, "--out", f"{out}.h5"]))
    result = {
        "head": head.stem,
        "images": len(files),
        "machine": machine(),
        "versions": versions("onepass", "openvino", "numpy"),
        "seconds_for_one": [round(seconds, 3) for seconds in one],
        "images_per_second": {name: [round(rate, 2) for rate in some] for name, some in rates.items()},
        "times_extract": ratios(rates["predict"], rates["extract"]),
    }
    write_result(f"predicting-{head.stem}", result)
    print(json.dumps(result, indent=1))


def timed(command: list[str]) -> float:
    """Seconds of a whole process."""
    began = time.perf_counter()
    program = Path(sys.executable).parent / command[0]
    subprocess.run([str(program), *command[1:]], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
