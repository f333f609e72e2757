"""Whether the EfficientNet-Lite networks built here are the ones that their weights were trained as.

    python benchmarks/lite_weights.py CATS_DOGS [--images 32]

CATS_DOGS holds photos in folders called cats and dogs, at any depth. Two independent checks. Rows: timm's
`tf_efficientnet_lite*` gets the same tensors, in the order of the weights file, and the same pixels; the lowest and
mean cosine and the largest difference to our rows are kept (needs torch and timm). Meaning: the classifier in the
weights file, on our rows, names each photo; a cat must be one of ImageNet's cats (classes 281 to 285), a dog one of its
dogs (151 to 268). Wrong padding, preprocessing or a swapped layer shows in one or both. Writes
benchmarks/results/lite-weights.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass.extract import load_backbone, read_image
from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.backbones.efficientnet_lite import lite_weights_file
from onepass.extract.backbones.torch_file import read_torch_file
from onepass.extract.machine import machine
from onepass.heads import wilson_interval

MEANT = {"cats": range(281, 286), "dogs": range(151, 269)}


def main(
    data: Annotated[Path, typer.Argument(help="Folders called cats and dogs, at any depth.")],
    images: Annotated[int, typer.Option(help="Of each class, for the comparison with timm.")] = 32,
) -> None:
    photos = {name: sorted(data.rglob(f"{name}/*.jpg")) for name in MEANT}
    networks = {}
    for name in (entry.name for entry in CATALOGUE.values() if entry.lite):
        tensors = read_torch_file(lite_weights_file(name))
        networks[name] = {
            "against_timm": against_timm(name, tensors, [path for files in photos.values() for path in files[:images]]),
            "imagenet": {kind: share_meant(name, tensors, kind, files) for kind, files in photos.items()},
        }
        print(name, networks[name], flush=True)
    result = {
        "data": data.name,
        "machine": machine(),
        "versions": versions("onepass", "keras", "openvino", "torch", "timm"),
        "networks": networks,
    }
    write_result("lite-weights", result)


def rows_of(name: str, files: list[Path]) -> np.ndarray:
    """(n, 1280) float32 rows, as `extract` computes them."""
    return np.asarray(
        load_backbone(name, precision="float32", engine="openvino").rows(np.stack(list(pixels(name, files))))
    )


def pixels(name: str, files: list[Path]) -> Iterator[np.ndarray]:
    for path in files:
        yield read_image(path, image_size=CATALOGUE[name].image_size, resize="squash")


def share_meant(name: str, tensors: dict[str, np.ndarray], kind: str, files: list[Path]) -> dict[str, Any]:
    """How many photos the weights file's own classifier calls what they show."""
    logits = rows_of(name, files) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    right = int(np.isin(logits.argmax(axis=1), list(MEANT[kind])).sum())
    return {
        "photos": len(files),
        "right": right,
        "interval": [round(end, 3) for end in wilson_interval(right, len(files))],
    }


def against_timm(name: str, tensors: dict[str, np.ndarray], files: list[Path]) -> dict[str, Any]:
    """Our rows beside those of timm's network, which is padded, normalised and pooled by code that is not ours."""
    import timm
    import torch

    model = timm.create_model(f"tf_{name}", pretrained=False).eval()
    ours, theirs = list(tensors.items()), model.state_dict()
    if len(ours) != len(theirs):
        raise SystemExit(f"{name}: the file holds {len(ours)} tensors, timm's network {len(theirs)}.")
    paired = dict(zip(theirs, (torch.tensor(array) for _, array in ours), strict=True))
    model.load_state_dict(paired)  # refuses any shape that differs
    model.reset_classifier(0)
    batch = (np.stack(list(pixels(name, files))).astype(np.float32) - 127) / 128
    with torch.inference_mode():
        expected = model(torch.tensor(batch.transpose(0, 3, 1, 2))).numpy()
    found, expected = rows_of(name, files).astype(float), expected.astype(float)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    return {
        "photos": len(files),
        "lowest_cosine": round(float(cosines.min()), 9),
        "mean_cosine": round(float(cosines.mean()), 9),
        "largest_difference": float(np.abs(found - expected).max()),
        "largest_value": float(np.abs(expected).max()),
    }


if __name__ == "__main__":
    typer.run(main)
