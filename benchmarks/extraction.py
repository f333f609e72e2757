"""Extraction against plain Keras, and timm, on the same images, alternating, decoding included.

    python benchmarks/extraction.py DATA --backbone resnet50 --weights FILE [--rounds 5]

All sides start warm: models are traced and graphs compiled before the clock runs. One round is one pass of
each over all images of DATA; ours ends with rows safely on disk, in a new file each time. "engine alone" is
the same engine on pixels that lie in memory: what decoding and writing cost beside it. int8 joins in where
NNCF is installed, bfloat16 where the processor has it, timm where torch and timm are installed (its weights
are random, which does not change its speed). Writes benchmarks/results/extraction-<backbone>-<data>.json
and prints it as the README's table.
"""

import importlib.util
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import ratios, versions, write_result

from onepass.extract import load_backbone, read_image
from onepass.extract.backbones.catalogue import find_entry
from onepass.extract.backbones.weights import load_weights_file
from onepass.extract.data.source import Scan, scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.frameworks import import_keras, import_openvino
from onepass.extract.machine import machine
from onepass.extract.one_pass.resolve import calibrated_for
from onepass.extract.one_pass.run import run_extraction

TIMM = {
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnetb0": "tf_efficientnet_b0",
    "convnexttiny": "convnext_tiny",
    "vgg16": "vgg16",
}

_MEAN, _DEVIATION = np.array([124, 116, 104], np.float32), np.array([58, 57, 57], np.float32)


def main(
    data: Annotated[Path, typer.Argument(help="Class folders.")],
    backbone: str = "resnet50",
    weights: str = "imagenet",
    rounds: int = 5,
) -> None:
    scan = scan_source(open_source(data))
    contestants = make_contestants(scan, data, backbone, weights)
    images = len(scan.table)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {images / seconds[name][-1]:.1f} images/s", flush=True)
    ours = [name for name in seconds if name.startswith("onepass")]
    installed = ("onepass", "tensorflow", "keras", "openvino", "pillow", "nncf", "torch", "timm")
    result: dict[str, Any] = {
        "backbone": backbone,
        "data": data.name,
        "images": images,
        "machine": machine(),
        "versions": versions(*[name for name in installed if name == "onepass" or importlib.util.find_spec(name)]),
        "images_per_second": {name: [round(images / s, 2) for s in taken] for name, taken in seconds.items()},
        "times_keras_predict": {name: ratios(seconds["keras predict"], taken) for name, taken in seconds.items()},
        "share_of_engine_alone": {
            name: ratios(seconds[name.replace("onepass", "engine alone")], seconds[name]) for name in ours
        },
        "int8": vars(contestants["onepass int8"].backbone.quantisation) if "onepass int8" in contestants else None,
    }
    write_result(f"extraction-{backbone}-{data.name}", result)
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The rows of a Markdown table: name, median images a second, times Keras predict with its spread."""
    lines = []
    for name, rates in result["images_per_second"].items():
        ratio = result["times_keras_predict"][name]
        lines.append(
            f"| {name} | {statistics.median(rates):.1f} | "
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |"
        )
    return "\n".join(lines)


def make_contestants(scan: Scan, data: Path, backbone: str, weights: str) -> dict[str, Any]:
    size = find_entry(backbone).image_size
    precisions = ["float32"]
    if "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions.append("bfloat16")
    if importlib.util.find_spec("nncf"):
        precisions.append("int8")
    pixels = np.stack([read_image(path, image_size=size, resize="squash") for _, path in scan.images()])
    contestants: dict[str, Any] = {"keras predict": KerasPredict(data, backbone, weights, size)}
    for precision in precisions:
        ours = OnePass(scan, data, backbone, weights, precision)
        contestants[f"onepass {precision}"] = ours
        contestants[f"engine alone {precision}"] = lambda ours=ours: ours.backbone.rows(pixels)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("timm") and backbone in TIMM:
        for way in ("plain", "bfloat16 channels-last", "compiled"):
            contestants[f"timm {way}"] = Timm(scan, TIMM[backbone], size, way)
    return contestants


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
        folders = (
            [data] if scan_source(open_source(data)).drawn else sorted(path for path in data.iterdir() if path.is_dir())
        )
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

    def __init__(self, scan: Scan, data: Path, backbone: str, weights: str, precision: str) -> None:
        self.data = data
        loaded = load_backbone(backbone, weights=weights, precision=precision, engine="openvino")
        self.backbone = calibrated_for(loaded, scan, None)
        self.backbone.golden_rows()

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_extraction(self.data, self.backbone, out=Path(folder) / "rows.h5")


class Timm:
    """timm's network without classifier, fed by a DataLoader with a process per processor."""

    def __init__(self, scan: Scan, name: str, size: int, way: str) -> None:
        import timm
        import torch

        self.torch, self.size = torch, size
        self.paths = [path for _, path in scan.images()]
        self.dtype = torch.bfloat16 if "bfloat16" in way else torch.float32
        self.format = torch.channels_last if "channels-last" in way else torch.contiguous_format
        model = timm.create_model(name, pretrained=False, num_classes=0).eval()
        model = model.to(dtype=self.dtype, memory_format=self.format)
        self.model = torch.compile(model) if way == "compiled" else model
        with torch.inference_mode():
            for images in (32, len(self.paths) % 32 or 32):
                self.model(torch.zeros(images, 3, size, size, dtype=self.dtype).to(memory_format=self.format))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> np.ndarray:
        pixels = read_image(self.paths[position], image_size=self.size, resize="squash")
        return np.ascontiguousarray(((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1))

    def __call__(self) -> None:
        loader = self.torch.utils.data.DataLoader(self, batch_size=32, num_workers=os.cpu_count() or 1)
        with self.torch.inference_mode():
            for images in loader:
                self.model(images.to(dtype=self.dtype, memory_format=self.format)).float().numpy()


if __name__ == "__main__":
    typer.run(main)
