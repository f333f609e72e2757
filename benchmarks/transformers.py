"""What bfloat16 and int8 do to the rows of vision transformers, and how fast they are.

    python benchmarks/transformers.py IMAGES [--count 60] [--calibration 100] [--only "dinov2 small"]

Networks of real size through KerasHub: a DINOv2 small (384 wide, 12 blocks, patches of 14 px, class token and mean) and
the vision encoder of a SigLIP base (768 wide, 12 blocks, patches of 16 px, its attention pooling), at 224 px. Their
weights are random, so the rows of two photos lie close together, and the outliers in the activations that make trained
transformers hard to quantise are missing: these figures say that nothing is broken, and what speed to expect, but
little about the loss of meaning, for which `extract --precision int8` reports the cosines of the user's own images.
"centred" is the cosine after the mean row was taken off, which is more telling here. Cosines are to float32 rows;
images a second are of the engine alone, decoded images at hand. Prints and writes benchmarks/results/transformers.json.
"""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.extract import load_backbone
from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.quantisation import _OF_TRANSFORMERS, calibrated
from onepass.extract.frameworks import import_keras, import_keras_hub
from onepass.extract.machine import machine

VARIANTS: dict[str, dict[str, Any]] = {
    "int8": dict(_OF_TRANSFORMERS),
    "int8 without SmoothQuant": {**_OF_TRANSFORMERS, "smooth_quant_alpha": -1.0},
    "int8 with NNCF's alpha": {**_OF_TRANSFORMERS, "smooth_quant_alpha": 0.95},
    "int8 with NNCF's alpha, symmetric": {**_OF_TRANSFORMERS, "preset": "performance", "smooth_quant_alpha": 0.95},
    "int8 as for convolutions": {},
}
"""The first is what onepass does."""


def main(
    images: Annotated[Path, typer.Argument(help="Folder of photos.")],
    count: Annotated[int, typer.Option(help="Photos that are compared.")] = 60,
    calibration: Annotated[int, typer.Option(help="Other photos that int8 is calibrated on.")] = 100,
    only: Annotated[str, typer.Option(help="One of the networks; by default both.")] = "",
) -> None:
    found = sorted(images.rglob("*.jpg"))
    files = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    compared, others = files[:count], files[count : count + calibration]
    results = []
    with tempfile.TemporaryDirectory() as place:
        for name, write_preset in (("dinov2 small", write_dinov2), ("siglip base", write_siglip)):
            if only not in ("", name):
                continue
            folder = Path(place) / name.replace(" ", "_")
            write_preset(folder)
            for line in measured(f"keras-hub:{folder}", compared, others):
                results.append({"network": name, **line})
                print(results[-1], flush=True)
            write(results, count, calibration)


def write(results: list[dict[str, Any]], count: int, calibration: int) -> None:
    """What is known so far: a network takes minutes."""
    told = ("onepass", "keras", "keras-hub", "openvino", "nncf")
    facts = {"machine": machine(), "versions": versions(*told), "images": count, "calibration": calibration}
    write_result("transformers", facts | {"runs": results})


def write_dinov2(folder: Path) -> None:
    hub = _seeded()
    backbone = hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=12,
        hidden_dim=384,
        num_heads=6,
        intermediate_dim=1536,
        image_shape=(224, 224, 3),
        position_embedding_shape=(224, 224),
    )
    _write(folder, backbone, hub.layers.DINOV2ImageConverter)


def write_siglip(folder: Path) -> None:
    hub = _seeded()
    backbone = hub.models.SigLIPVisionEncoder(
        patch_size=16, hidden_dim=768, num_layers=12, num_heads=12, intermediate_dim=3072, image_shape=(224, 224, 3)
    )
    _write(folder, backbone, hub.layers.SigLIPImageConverter)


def _seeded() -> Any:
    import_keras().utils.set_random_seed(0)
    return import_keras_hub()


def _write(folder: Path, backbone: Any, converter: Any) -> None:
    backbone.save_to_preset(folder)
    converter(
        image_size=(224, 224),
        scale=[1 / 127.5] * 3,
        offset=[-1.0] * 3,
        interpolation="bicubic",
        antialias=True,
        crop_to_aspect_ratio=False,
    ).save_to_preset(folder)


def measured(name: str, files: list[Path], others: list[Path]) -> list[dict[str, Any]]:
    """float32, bfloat16, and int8 by the settings of `VARIANTS`."""
    exact = load_backbone(name, precision="float32")
    pixels = [exact.pixels(file.read_bytes()) for file in files]
    right, speed = rows_of(exact, pixels)
    lines = [{"precision": "float32", "images_a_second": speed, "between_photos": _cosines(right[::2], right[1::2])}]
    lines.append({"precision": "bfloat16", **told(load_backbone(name, precision="bfloat16"), pixels, right)})
    calibration = [(hashlib.sha256(file.read_bytes()).digest(), file) for file in others]
    for label, settings in VARIANTS.items():
        kept = dict(_OF_TRANSFORMERS)
        _OF_TRANSFORMERS.clear()
        _OF_TRANSFORMERS.update(settings)
        try:
            ready = calibrated(load_backbone(name, precision="int8"), calibration)
            seconds = ready.quantisation.seconds if ready.quantisation else 0.0
            lines.append({"precision": label, **told(ready, pixels, right), "calibration_seconds": seconds})
        finally:
            _OF_TRANSFORMERS.clear()
            _OF_TRANSFORMERS.update(kept)
    return lines


def told(backbone: Backbone, pixels: list[np.ndarray], right: np.ndarray) -> dict[str, Any]:
    rows, speed = rows_of(backbone, pixels)
    middle = right.mean(axis=0)
    return {
        "images_a_second": speed,
        "cosine": _cosines(rows, right),
        "centred": _cosines(rows - middle, right - middle),
    }


def rows_of(backbone: Backbone, pixels: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Rows, and images a second of the best of three runs: others work on this machine too."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        rows = backbone.rows(np.stack(pixels))
        seconds.append(time.perf_counter() - began)
    return rows, round(len(pixels) / min(seconds), 2)


def _cosines(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    found = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {"mean": round(float(found.mean()), 6), "lowest": round(float(found.min()), 6)}


if __name__ == "__main__":
    typer.run(main)
