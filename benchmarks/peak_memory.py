"""Peak memory of whole commands, measured for the process itself, and what of it is taken by importing alone.

    python benchmarks/peak_memory.py --data PHOTOS --weights resnet50.weights.h5 [--only extract-photos,train-mlp]

Each case is a process of its own. It first imports the frameworks that the command uses and notes its memory, then
runs the command and asks the kernel for the highest memory it ever had (VmHWM; elsewhere what getrusage says). The
images of extract-tiny are synthetic, 32 x 32 pixels, for the bundled backbone at that size, so that what is measured
is the pass and the file and not the network. The rows of the other cases are synthetic, float32, of ten classes.
A refusal is a result too: logreg needs several copies of its rows, and --memory forbids that.
Writes benchmarks/results/peak_memory.json; cases that are not run keep what the file says of them.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import RESULTS, versions, write_result
from scaling import write_images

from onepass.extract.machine import machine
from onepass.features import ImageTable, Spec
from onepass.features.writer import RowWriter, write_feature_file

_CLASSES = 10
_PIECE = 2000

_CHILD = """
import json, sys
from pathlib import Path

def memory(name):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
    except OSError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

said, name, *arguments = sys.argv[1:]
from onepass import cli
from onepass.extract.frameworks import import_keras, import_openvino
import sklearn.linear_model
import_keras()
if name == "extract":
    import_openvino()
imports = memory("VmRSS")
code = 0
try:
    cli._ALONE[name](arguments, prog_name=name)
except SystemExit as end:
    code = int(end.code or 0)
Path(said).write_text(json.dumps({"exit_code": code, "import_bytes": imports, "peak_bytes": memory("VmHWM")}))
"""


@dataclass(frozen=True)
class Case:
    """A command and what it needs.

    Attributes:
        command: As typed.
        prepare: Writes its input into a folder.
        said: What is known of the input, for the result.
    """

    command: list[str]
    prepare: Callable[[Path], None]
    said: dict[str, Any]


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of photos, for extract-photos.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of ResNet50, for extract-photos.")] = None,
    photos: Annotated[int, typer.Option(help="Photos of extract-photos.")] = 1000,
    tiny: Annotated[int, typer.Option(help="Images of extract-tiny.")] = 100_000,
    rows: Annotated[int, typer.Option(help="Images in the feature file of the other cases.")] = 50_000,
    width: int = 2048,
    memory: Annotated[float, typer.Option(help="GB, as --memory of the commands.")] = 1.0,
    only: Annotated[str, typer.Option(help="Cases, with commas.")] = "",
) -> None:
    cases = cases_of(data, weights, photos, tiny, rows, width, memory)
    chosen = only.split(",") if only else list(cases)
    if unknown := set(chosen) - cases.keys():
        raise SystemExit(f"unknown cases {', '.join(unknown)}; there are {', '.join(cases)} with what was given")
    path = RESULTS / "peak_memory.json"
    found = json.loads(path.read_text())["cases"] if path.exists() else {}
    for name in chosen:
        found[name] = measured(cases[name])
        taken = found[name]
        print(
            f"{name}: {taken['peak_bytes'] / 1e9:.2f} GB at most, {taken['import_bytes'] / 1e9:.2f} of it after "
            f"importing, {taken['seconds']:.0f} s, exit code {taken['exit_code']} {taken['told']}",
            flush=True,
        )
        result = {"machine": machine(), "versions": versions("onepass", "tensorflow", "openvino", "numpy")}
        write_result("peak_memory", result | {"cases": found})


def cases_of(
    data: Path | None, weights: Path | None, photos: int, tiny: int, rows: int, width: int, memory: float
) -> dict[str, Case]:
    """The cases that can be run with what was given."""
    found: dict[str, Case] = {}
    if data and weights:
        command = ["extract", "images", "--backbone", "resnet50", "--weights", str(weights.resolve())]
        found["extract-photos"] = Case(
            command, lambda at: write_images(at / "images", photos, data), {"images": photos}
        )
    command = ["extract", "images", "--backbone", "efficientnet_lite0", "--image-size", "32"]
    found["extract-tiny"] = Case(command, lambda at: write_images(at / "images", tiny, None), {"images": tiny})

    def write(at: Path) -> None:
        write_rows(at / "rows.h5", rows, width)

    limit = ["--memory", str(memory)]
    said = {"images": rows, "width": width, "memory_gb": memory}
    for head in ("linear", "mlp", "logreg"):
        found[f"train-{head}"] = Case(["train-head", "rows.h5", "--head", head, *limit], write, said)
    command = ["compare-heads", "rows.h5", "--heads", "linear,mlp", *limit]
    found["compare-heads"] = Case(command, write, said)
    return found


def measured(case: Case) -> dict[str, Any]:
    """Runs a case in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.prepare(folder)
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, "said.json", *case.command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(case.command)} ended with {done.returncode}: {done.stderr}")
        found = json.loads((folder / "said.json").read_text())
    told = done.stderr.strip().splitlines()[-1:] if found["exit_code"] else done.stdout.strip().splitlines()[:1]
    command = [word if len(word) < 40 else Path(word).name for word in case.command]
    return {"command": " ".join(command), **case.said, **found, "seconds": round(seconds, 1), "told": "".join(told)}


def write_rows(path: Path, count: int, width: int) -> None:
    """A feature file of rows around ten centres, every fifth image in the test part."""
    places = np.arange(count)
    labels = (places % _CLASSES).astype(np.int32)
    hashes = [hashlib.sha256(str(i).encode()).digest() for i in range(count)]
    table = ImageTable(
        class_names=tuple(f"class{i}" for i in range(_CLASSES)),
        paths=tuple(f"class{label}/{i}.jpg" for i, label in enumerate(labels)),
        labels=labels,
        splits=np.where(places % 50 >= 40, 2, 0).astype(np.uint8),
        content_hashes=np.frombuffer(b"".join(hashes), np.uint8).reshape(count, 32),
        file_sizes=places.astype(np.int64),
        file_mtimes=places.astype(np.int64),
    )
    spec = Spec(
        backbone="resnet50",
        weights="imagenet",
        weights_hash="00" * 32,
        image_size=224,
        resize="squash",
        decode="rgb-exif-white-hamming-2",
        pooling="avg",
        precision="float32",
        width=width,
    )
    where = {"data": "images", "backbone": "resnet50", "weights": "imagenet"}
    write_feature_file(path, spec, table, where, np.ones((1, 2, width), np.float32))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(_CLASSES, width)).astype(np.float32) / np.sqrt(width) * 4
    with RowWriter(path) as writer:
        for start in range(0, count, _PIECE):
            some = places[start : start + _PIECE]
            rows = np.maximum(centres[labels[some]] + rng.normal(size=(len(some), width)), 0).astype(np.float32)
            writer.commit([(position, 0) for position in some.tolist()], rows)


if __name__ == "__main__":
    typer.run(main)
