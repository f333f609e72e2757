"""A network never used before, from nothing cached: without TensorFlow, through TensorFlow, and to the first row.

    python benchmarks/cold_start.py networks [NAME ...] [--weights NAME=FILE ...] [--rounds 3]
    python benchmarks/cold_start.py first-row DATA --backbone resnet50 --weights FILE [--rounds 3]

"networks": each network is converted in a fresh process, alternating, without TensorFlow and through it, with the
weights of a file or, as a rule, with those made up for the reference rows. Seconds and processor seconds are those of
the whole process and of what it starts. Then both graphs run in this process: the rows of the built-in test images are
compared in float32, and images a second are taken, alternating, in float32 and, where the processor has it, bfloat16.

"first-row": the whole command `extract`, in a fresh process with an empty cache, from its start until the first row is
committed in the feature file; with the instruction sets that OpenVINO may use held to what older processors have.

Writes benchmarks/results/cold-start.json; what it does not measure stays there.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import psutil
import typer
from common import RESULTS, ratios, versions, write_result

from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.backbones.engines import OpenVINOEngine
from onepass.extract.backbones.golden import golden_images
from onepass.extract.backbones.openvino_cache import stem
from onepass.extract.backbones.reference_rows import seeded_backbone
from onepass.extract.frameworks import import_openvino, plain_keras
from onepass.extract.machine import instruction_sets, machine
from onepass.extract.pixels.decode import decode_image
from onepass.features.drift import cosines

ISAS = ("DEFAULT", "AVX512_CORE_VNNI", "AVX2")
"""Values of ONEDNN_MAX_CPU_ISA: what the processor has; without bfloat16; without AVX-512."""

CONVERT = """
import sys
from onepass.extract.backbones import keras_on_openvino
from onepass.extract.backbones.load import load_backbone
name, weights, way = sys.argv[1:]
if way == "tensorflow":
    keras_on_openvino.reference_rows = dict
print(load_backbone(name, weights=weights, precision="float32").converted.graph)
"""

app = typer.Typer()


@app.command()
def networks(
    names: Annotated[list[str] | None, typer.Argument(help="By default the whole catalogue.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="NAME=FILE: weights of a network.")] = None,
    rounds: int = 3,
) -> None:
    """Converts both ways and compares the graphs."""
    given = dict(text.split("=", 1) for text in weights or [])
    for name in names or list(CATALOGUE):
        with tempfile.TemporaryDirectory() as folder:
            file = given.get(name) or _made_up_weights(name, Path(folder) / "made_up.weights.h5")
            found = _both_ways(name, file, Path(folder), rounds)
        _keep("networks", name, found | {"weights": Path(file).name})


@app.command()
def first_row(data: Path, backbone: str = "resnet50", weights: str = "imagenet", rounds: int = 3) -> None:
    """Times the whole command up to the first committed row."""
    for isa in ISAS:
        taken = [_first_row(data, backbone, weights, isa) for _ in range(rounds)]
        seconds, processor = ([round(one, 2) for one in each] for each in zip(*taken, strict=True))
        found = {"data": data.name, "seconds": seconds, "processor_seconds": processor, "niceness": os.nice(0)}
        _keep("first_row", f"{backbone} {isa}", found)


def _keep(part: str, name: str, found: dict[str, Any]) -> None:
    print(name, json.dumps(found), flush=True)
    path = RESULTS / "cold-start.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {
        "machine": machine() | {"instruction_sets": instruction_sets()},
        "versions": versions("onepass", "keras", "tensorflow", "openvino"),
    }
    result.setdefault(part, {})[name] = found | {"load_average": round(os.getloadavg()[0], 1)}
    write_result("cold-start", result)


def _made_up_weights(name: str, path: Path) -> str:
    if name == "efficientnet_lite0":
        return "imagenet"
    with plain_keras():
        seeded_backbone(name).network.save_weights(path)
    return str(path)


def _both_ways(name: str, weights: str, folder: Path, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"openvino": [], "tensorflow": []}
    processor: dict[str, list[float]] = {"openvino": [], "tensorflow": []}
    graphs = {}
    for number in range(rounds):
        for way in seconds:
            graphs[way], wall, cpu = _converted(name, weights, way, folder / f"{way}{number}")
            seconds[way].append(round(wall, 2))
            processor[way].append(round(cpu, 2))
    images = [decode_image(data, image_size=_size(name), resize="squash") for data in golden_images()]
    engines = {way: OpenVINOEngine(graph, image_size=_size(name), precision="float32") for way, graph in graphs.items()}
    rows = {way: _rows(engine, images) for way, engine in engines.items()}
    difference = np.abs(rows["openvino"] - rows["tensorflow"]).max() / np.abs(rows["tensorflow"]).max()
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "cosine_min": float(cosines(rows["openvino"], rows["tensorflow"]).min()),
        "largest_difference_as_share_of_largest_number": float(difference),
        "stem_equal": _stem(graphs["openvino"]) == _stem(graphs["tensorflow"]),
        "images_per_second": {p: _rates(graphs, name, p, images) for p in _precisions()},
    }


def _converted(name: str, weights: str, way: str, cache: Path) -> tuple[Path, float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, name, weights, way],
        env={**os.environ, "ONEPASS_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Path(done.stdout.splitlines()[-1]), wall, cpu


def _size(name: str) -> int:
    return CATALOGUE[name].image_size


def _rows(engine: OpenVINOEngine, images: list[np.ndarray]) -> np.ndarray:
    return np.stack([row for _, row in sorted(engine.run(enumerate(images)), key=lambda pair: pair[0])])


def _stem(graph: Path) -> list[tuple[int, ...]]:
    names = stem(graph)
    ops = import_openvino().Core().read_model(graph).get_ordered_ops()
    return [tuple(op.input(1).get_shape()) for op in ops if op.get_friendly_name() in names]


def _precisions() -> list[str]:
    known = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["float32", "bfloat16"] if "BF16" in known else ["float32"]


def _rates(graphs: dict[str, Path], name: str, precision: str, images: list[np.ndarray]) -> dict[str, Any]:
    """Images a second of both graphs, alternating, and how many times as fast the one without TensorFlow is."""
    engines = {way: OpenVINOEngine(graph, image_size=_size(name), precision=precision) for way, graph in graphs.items()}
    taken: dict[str, list[float]] = {way: [] for way in engines}
    for engine in engines.values():
        _rows(engine, images)
    for _ in range(7):
        for way, engine in engines.items():
            started = time.perf_counter()
            _rows(engine, images * 2)
            taken[way].append(time.perf_counter() - started)
    rates = {way: round(2 * len(images) / statistics.median(each), 2) for way, each in taken.items()}
    return {**rates, "times": ratios(taken["tensorflow"], taken["openvino"])}


def _first_row(data: Path, backbone: str, weights: str, isa: str) -> tuple[float, float]:
    """Seconds, and those of processors, from the start of the process until a row is committed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.h5"
        environment = {**os.environ, "ONEPASS_CACHE": str(Path(folder) / "cache"), "HDF5_USE_FILE_LOCKING": "FALSE"}
        if isa != "DEFAULT":
            environment["ONEDNN_MAX_CPU_ISA"] = isa
        # OpenVINO goes on to say that the processor knows bfloat16.
        precision = "auto" if isa == "DEFAULT" else "float32"
        command = [sys.executable, "-m", "onepass", "extract", str(data), "--backbone", backbone, "--weights", weights]
        command += ["--precision", precision]
        started = time.perf_counter()
        with subprocess.Popen([*command, "--out", str(out)], env=environment, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not _committed(out):
                time.sleep(0.02)
            seconds = time.perf_counter() - started
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode} before its first row was seen")
            times = psutil.Process(process.pid).cpu_times()
            process.kill()
    return seconds, times.user + times.system + times.children_user + times.children_system


def _committed(path: Path) -> bool:
    """Whether a row of a feature file that is being written is committed."""
    try:
        with h5py.File(path, "r") as file:
            return bool(np.any(file["committed"][:]))
    except (OSError, KeyError, RuntimeError):
        return False


if __name__ == "__main__":
    app()
