"""What the README's commands print on photos that are there: the example that stands in it.

    python benchmarks/first_run.py PHOTOS WEIGHTS

PHOTOS holds class folders, WEIGHTS is ResNet50's weights file. Runs `extract`, `compare-heads` and
`train-head --head svm` in a folder of its own and keeps what each prints. Writes
benchmarks/results/first-run-<PHOTOS>.json.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import typer
from common import versions, write_result

from onepass.extract import machine


def main(photos: Path, weights: Path) -> None:
    commands = [
        ["extract", str(photos.resolve()), "--backbone", "resnet50", "--weights", str(weights.resolve())],
        ["compare-heads"],
        ["train-head", "--head", "svm"],
    ]
    printed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        for command in commands:
            done = subprocess.run(
                ["onepass", *command],
                cwd=place,
                env={**os.environ, "COLUMNS": "1000"},
                capture_output=True,
                text=True,
                check=True,
            )
            printed[command[0]] = done.stdout
            print(done.stdout)
    facts = {"photos": photos.name, "machine": machine(), "versions": versions("onepass", "openvino", "keras")}
    write_result(f"first-run-{photos.name}", {**facts, "printed": printed})


if __name__ == "__main__":
    typer.run(main)
