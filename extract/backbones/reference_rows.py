"""Rows that TensorFlow gives of every catalogue network with made-up weights, to prove another way of building it.

The pretrained weights cannot stand in: most of them nobody has at hand. What is proven is the network: its layers,
their settings and order, its preprocessing, and that weights land where they belong.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.build import BuiltBackbone, build_unloaded
from onepass.extract.backbones.weights import set_layer_weights
from onepass.features.drift import cosines

REFERENCE_SIZE = 75
"""Side of the images, pixels: the least that every network takes. Halved again and again it is odd and even in turn."""

KEPT = 16
"""Numbers of each row that are kept, evenly spaced."""

TOLERANCE = 3e-5
"""Largest difference that passes, as a share of the largest number."""

_FILE = Path(__file__).with_name("reference_rows.json")
_TILE = 65537
"""Length of the noise that the weights are cut from: a prime, so that no two filters get the same."""

_GAINS = {
    "efficientnetb5": 0.92,
    "efficientnetb6": 0.9,
    "efficientnetb7": 0.88,
    "efficientnetv2b0": 0.85,
    "efficientnetv2b1": 0.85,
    "efficientnetv2b2": 0.85,
    "efficientnetv2b3": 0.8,
    "efficientnetv2s": 0.76,
    "efficientnetv2m": 0.72,
    "efficientnetv2l": 0.68,
}
"""How much smaller the kernels of networks are in which rounding errors would grow from layer to layer."""


def seeded_backbone(name: str) -> BuiltBackbone:
    """A catalogue backbone for 75 px with made-up weights, the same on every machine and with every version."""
    built = build_unloaded(name, REFERENCE_SIZE)
    for layer in built.network.layers:
        if layer.weights:
            set_layer_weights(layer, [_made_up(weight, _GAINS.get(name, 1.0)) for weight in layer.weights])
    return built


def reference_images() -> np.ndarray:
    """(2, 75, 75, 3) uint8: coarse noise that each row should tell apart."""
    noise = hashlib.shake_256(b"onepass reference").digest(2 * 15 * 15 * 3)
    coarse = np.frombuffer(noise, np.uint8).reshape(2, 15, 15, 3)
    return coarse.repeat(5, axis=1).repeat(5, axis=2)


def kept(rows: np.ndarray) -> np.ndarray:
    """(2, d) rows as the (2, 16) numbers that are compared."""
    return np.asarray(rows[:, np.linspace(0, rows.shape[1] - 1, KEPT).round().astype(int)], np.float32)


@functools.cache
def reference_rows() -> dict[str, np.ndarray]:
    """Name of a catalogue network -> (2, 16) numbers of the rows that TensorFlow gives."""
    return {name: np.array(rows, np.float32) for name, rows in json.loads(_FILE.read_text()).items()}


def write_reference_rows(networks: list[str], rows_of: Callable[[str], np.ndarray]) -> None:
    """Writes the file anew.

    Args:
        networks: Names.
        rows_of: Name -> (2, d) rows of `reference_images` by a `seeded_backbone` on TensorFlow.
    """
    lines = []
    for name in networks:
        rows = [[float(f"{number:.7g}") for number in row] for row in kept(rows_of(name))]
        lines.append(f"{json.dumps(name)}: {json.dumps(rows)}")
    _FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def deviation(name: str, rows: np.ndarray) -> tuple[float, float]:
    """How far rows of the reference images lie from TensorFlow's.

    Args:
        name: Of a catalogue network.
        rows: (2, d) float32, by `seeded_backbone(name)` built in another way.

    Returns:
        The lowest cosine, and the largest difference as a share of the largest number.
    """
    found, expected = kept(rows), reference_rows()[name]
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    return float(cosines(found, expected).min()), float(difference)


def _made_up(weight: Any, gain: float) -> np.ndarray:
    """Values for a weight, such that signals of a size to be seen come through however deep the network is."""
    shape = tuple(weight.shape)
    if weight.dtype != "float32":  # the count of a Normalization
        return np.zeros(shape, weight.dtype)
    noise = _noise(math.prod(shape)).reshape(shape)
    if weight.name in ("gamma", "variance") or weight.name.endswith("variance"):
        return 1 + noise / 4
    if len(shape) < 2:
        return noise / 4
    # He et al. (2015), arXiv:1502.01852; a depthwise kernel reads one channel.
    inputs = math.prod(shape[:2]) if len(shape) == 4 and shape[3] == 1 else math.prod(shape[:-1])
    return noise * (gain * math.sqrt(2 / inputs))


def _noise(count: int) -> np.ndarray:
    """(count,) float32, uniform, mean 0, standard deviation 1."""
    tile = np.frombuffer(hashlib.shake_256(str(count).encode()).digest(_TILE), np.uint8)
    return (np.resize(tile, count).astype(np.float32) - 127.5) / 73.9
