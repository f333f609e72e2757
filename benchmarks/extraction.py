"""Extraction against plain Keras on the same images and weights, alternating, decoding included.

    python benchmarks/extraction.py DATA --backbone resnet50 --weights FILE [--rounds 5]

Both sides start warm: the Keras model is traced and the OpenVINO graph is compiled before the clock
runs. One round is one pass of each over all images of DATA; ours ends with rows safely on disk, in a
new file each time. Prints medians and writes benchmarks/results/extraction-<backbone>-<data>.json.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from common import machine, ratios, versions, write_result

from extract import load_backbone
from extract.catalogue import find_entry
from extract.folders import scan_folder
from extract.run import run_extraction
from extract.weights import load_weights_file
from features.frameworks import import_keras, import_openvino


def main(
    data: Annotated[Path, typer.Argument(help="Class folders.")],
    backbone: str = "resnet50",
    weights: str = "imagenet",
    rounds: int = 5,
) -> None:
    size = find_entry(backbone).image_size
    precisions = ["float32"]
    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions.append("bfloat16")
    contestants: dict[str, Any] = {"keras predict": KerasPredict(data, backbone, weights, size)}
    for precision in precisions:
        contestants[f"onepass {precision}"] = OnePass(data, backbone, weights, precision)
    images = len(scan_folder(data).table)

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {images / seconds[name][-1]:.1f} images/s", flush=True)
    result = {
        "backbone": backbone,
        "data": data.name,
        "images": images,
        "machine": machine(),
        "versions": versions("onepass", "tensorflow", "keras", "openvino", "pillow"),
        "images_per_second": {name: [round(images / s, 2) for s in taken] for name, taken in seconds.items()},
        "times_keras_predict": {name: ratios(seconds["keras predict"], taken) for name, taken in seconds.items()},
    }
    write_result(f"extraction-{backbone}-{data.name}", result)
    for name, ratio in result["times_keras_predict"].items():  # type: ignore[attr-defined]
        rate = statistics.median(result["images_per_second"][name])  # type: ignore[index]
        print(
            f"{name:<18} {rate:7.1f} images/s  {ratio['median']:.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )


class KerasPredict:
    """What a notebook does: `image_dataset_from_directory`, `preprocess_input`, `predict`."""

    def __init__(self, data: Path, backbone: str, weights: str, size: int) -> None:
        keras, entry = import_keras(), find_entry(backbone)
        imagenet = "imagenet" if weights == "imagenet" else None
        factory = getattr(keras.applications, entry.factory)
        self.model = factory(
            include_top=False, weights=imagenet, pooling="avg", input_shape=(size, size, 3), **entry.options
        )
        if not imagenet:
            load_weights_file(self.model, Path(weights), backbone=backbone)
        prepare = getattr(keras.applications, entry.module).preprocess_input
        folders = [data] if scan_folder(data).drawn else sorted(path for path in data.iterdir() if path.is_dir())
        read = keras.utils.image_dataset_from_directory
        self.sets = [
            read(folder, image_size=(size, size), shuffle=False, verbose=False).map(lambda images, _: prepare(images))
            for folder in folders
        ]
        self.model.predict(self.sets[0].take(1), verbose=0)

    def __call__(self) -> None:
        for images in self.sets:
            self.model.predict(images, verbose=0)


class OnePass:
    """The same through this project, up to committed rows in a new feature file."""

    def __init__(self, data: Path, backbone: str, weights: str, precision: str) -> None:
        self.data = data
        self.backbone = load_backbone(backbone, weights=weights, precision=precision, engine="openvino")
        _ = self.backbone.engine

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_extraction(self.data, self.backbone, out=Path(folder) / "rows.h5")


if __name__ == "__main__":
    typer.run(main)
