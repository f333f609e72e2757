"""Whether folders of transformers and presets of KerasHub give the pixels and rows that their own frameworks give.

    python benchmarks/providers_keras_hub.py IMAGES [--count 12] [--only dinov2,siglip]

Small networks with random weights, as transformers and KerasHub build and write them; of each, pixels and rows of the
same images by its own framework and by onepass in float32. What is compared: for folders of transformers, its processor
and its model from image file to row; for presets of KerasHub, its image converter on decoded images, and its backbone
on the pixels that onepass makes. "wrong" says what the rows would be with other preprocessing: the lowest cosine to the
right ones. Prints and writes benchmarks/results/providers-keras-hub.json. Needs keras-hub, transformers and torch.
"""

import dataclasses
import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.extract import load_backbone
from onepass.extract.backbones.backbone import Backbone
from onepass.extract.machine import machine

sys.path.append(str(Path(__file__).parent.parent / "tests"))
networks: Any = importlib.import_module("hub_networks")  # which the tests share

Rows = dict[str, np.ndarray]


def main(
    images: Annotated[Path, typer.Argument(help="Folder of photos.")],
    count: Annotated[int, typer.Option(help="So many of them, spread over the folder.")] = 12,
    only: Annotated[str, typer.Option(help="Networks, with commas; all by default.")] = "",
) -> None:
    warnings.simplefilter("ignore")
    found = sorted(one for one in images.rglob("*") if one.suffix.lower() in (".jpg", ".jpeg", ".png"))
    files = found[:: max(1, len(found) // count)][:count]
    lines = []
    with tempfile.TemporaryDirectory() as place:
        for kind, write, name, reference in _networks():
            if only and kind not in only.split(","):
                continue
            folder = write(kind, Path(place) / f"{name.replace(':', '-')}{kind}")
            lines.append({"network": f"{name}{kind}", **compared(f"{name}{folder}", folder, files, reference)})
            print(lines[-1], flush=True)
    told = ("onepass", "keras", "keras-hub", "transformers", "torch", "openvino", "pillow")
    facts = {"machine": machine(), "versions": versions(*told), "images": len(files), "networks": lines}
    write_result("providers-keras-hub", facts)


def _networks() -> list[tuple[str, Callable[[str, Path], Path], str, Callable[..., Rows] | None]]:
    return [
        *((kind, networks.write_transformers, "", None) for kind in networks.TRANSFORMERS),
        *((kind, networks.write_preset, "keras-hub:", networks.hub_rows) for kind in networks.PRESETS),
    ]


def compared(name: str, folder: Path, files: list[Path], hub: Callable[..., Rows] | None) -> dict[str, Any]:
    """Pixels in levels of 255, and rows by pooling, of our way and of the framework's own."""
    backbone = load_backbone(name, precision="float32")
    pixels = pixels_of(backbone, files)
    own = hub(folder, files) if hub else networks.transformers_rows(folder, files)
    difference = float(np.abs(pixels.astype(np.float64) - own.pop("pixels")).max())
    if hub:
        own = {pooling: rows for pooling, rows in hub(folder, files, pixels).items() if pooling != "pixels"}
    cosines = {
        pooling: networks.lowest_cosine(load_backbone(name, pooling=pooling, precision="float32").rows_of(files), rows)
        for pooling, rows in own.items()
    }
    framework = "keras_hub" if hub else "transformers"
    return {
        "compared_with": f"{framework}, its own preprocessing and network",
        "preprocess": str(backbone.spec.preprocess),
        "pooling": backbone.spec.pooling,
        "pixels_largest_difference_levels": difference,
        "rows_lowest_cosine": {pooling: round(cosine, 9) for pooling, cosine in cosines.items()},
        "wrong": wrong(backbone, files, pixels),
    }


def pixels_of(backbone: Backbone, files: list[Path]) -> np.ndarray:
    return np.stack([backbone.pixels(file.read_bytes()) for file in files])


def wrong(backbone: Backbone, files: list[Path], pixels: np.ndarray) -> dict[str, float]:
    """Lowest cosine to the right rows of rows made with other arithmetic, other channels, or by another rule."""
    made, right = backbone.spec.preprocess, backbone.rows(pixels)
    assert made is not None
    other = dataclasses.replace(made, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    values = {
        "no mean and deviation": other.normalised(pixels),
        "BGR": dataclasses.replace(made, channels="BGR").normalised(pixels),
    }
    found = {}
    for label, seen in values.items():
        # Pixels, not whole, that the right arithmetic turns into what the wrong one gives; cut to 0..255 as photos are.
        asked = (seen * np.array(made.std) + np.array(made.mean)) / made.rescale
        found[label] = networks.lowest_cosine(backbone.rows(asked.round().clip(0, 255).astype(np.uint8)), right)
    squashed = load_backbone(
        backbone.source.name, pooling=backbone.spec.pooling, precision="float32", resize="squash"
    ).rows_of(files)
    return {
        label: round(cosine, 4)
        for label, cosine in (found | {"squashed": networks.lowest_cosine(squashed, right)}).items()
    }


if __name__ == "__main__":
    typer.run(main)
