"""Exports heads and fine-tuned models to every format, through the gate, and says what came out.

    python benchmarks/exporting.py HEAD... [--weights FILE] [--data PHOTOS] [--to onnx,tflite] [--name exporting]

Each HEAD is a head file or a .keras model that fine-tune wrote. Every export is a whole process; the model is
proven on held-out photos from their files and removed again. Adds to benchmarks/results/NAME.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from common import RESULTS, versions, write_result

from onepass.extract.machine import machine
from onepass.heads.export.certificate import SUFFIXES


def main(
    heads: Annotated[list[Path], typer.Argument(help="Head files and models.")],
    weights: Annotated[Path | None, typer.Option(help="Where the backbone's weights lie now.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the photos lie now.")] = None,
    to: Annotated[str, typer.Option(help="Formats, with commas; all by default.")] = ",".join(SUFFIXES),
    name: Annotated[str, typer.Option(help="Of the file of results.")] = "exporting",
) -> None:
    path = RESULTS / f"{name}.json"
    known: dict[str, Any] = json.loads(path.read_text())["exports"] if path.exists() else {}
    for head in heads:
        for format_name in to.split(","):
            found = exported(head, format_name, weights, data)
            known.setdefault(head.name, {})[format_name] = found
            print(head.name, format_name, found, flush=True)
            packages = ("onepass", "tensorflow", "keras", "openvino", "tf2onnx", "onnxruntime", "ai-edge-litert")
            write_result(name, {"machine": machine(), "versions": versions(*packages), "exports": known})


def exported(head: Path, to: str, weights: Path | None, data: Path | None) -> dict[str, Any]:
    """What one export came to, or the error that it ended in."""
    options = [*(["--weights", str(weights.resolve())] if weights else [])]
    options += ["--data", str(data.resolve())] if data else []
    program = Path(sys.executable).parent / "onepass"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [str(program), "export", str(head.resolve()), "--to", to, "--json", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds = round(time.perf_counter() - began, 1)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1], "seconds": seconds}
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    facts = json.loads(done.stdout)
    latency = {str(one["batch"]): one["milliseconds"] for one in facts["latency"]}
    kept = ("images", "takes", "flips", "largest", "accuracy", "before")
    told = {**{name: facts[name] for name in kept}, "ties": len(facts["ties"]), "tie_gap": facts["tie_gap"]}
    return {**told, "milliseconds": latency, "bytes": size, "seconds": seconds}


if __name__ == "__main__":
    typer.run(main)
