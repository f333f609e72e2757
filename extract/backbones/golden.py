"""Golden rows: built-in test images through the whole way, to see whether a machine still computes the same."""

import hashlib
import io
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from onepass.extract.machine import processor

GOLDEN_IMAGES = 8


def golden_images() -> list[bytes]:
    """Eight encoded test images, the same pixels everywhere: integer arithmetic on a hash.

    Four are JPEGs of 640 x 480 pixels, four are PNGs of 320 x 240; each lays colours at four scales over
    each other, so that early and late layers have work.
    """
    found = []
    for number in range(GOLDEN_IMAGES):
        file = io.BytesIO()
        if number % 2 == 0:
            Image.fromarray(_pattern(number, 480, 640)).save(file, "JPEG", quality=95)
        else:
            Image.fromarray(_pattern(number, 240, 320)).save(file, "PNG", compress_level=1)
        found.append(file.getvalue())
    return found


def environment(engine: str) -> dict[str, Any]:
    """What rows can depend on beside the spec: engine, processor and versions."""
    packages = ("onepass", "numpy", "pillow", "keras", "openvino" if engine == "openvino" else "tensorflow")
    return {"engine": engine, "processor": processor(), "versions": {name: version(name) for name in packages}}


def _pattern(number: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: coarse to fine random blocks, the coarse ones interpolated."""
    total = np.zeros((height, width, 3), np.int32)
    for level, cells in enumerate((3, 7, 19, 53)):
        shape = (cells + 1, cells + 1, 3)
        noise = hashlib.shake_256(f"onepass {number} {level}".encode()).digest(int(np.prod(shape)))
        grid = np.frombuffer(noise, np.uint8).reshape(shape).astype(np.int32)
        total += _interpolated(_interpolated(grid, height).transpose(1, 0, 2), width).transpose(1, 0, 2) >> level
    low, high = int(total.min()), int(total.max())
    return ((total - low) * 255 // (high - low)).astype(np.uint8)


def _interpolated(grid: np.ndarray, length: int) -> np.ndarray:
    """Stretches the first axis of (cells + 1, ...) integers to `length`, linearly, in integers."""
    position = np.arange(length) * ((len(grid) - 1) * 256) // length
    cell, part = position >> 8, (position & 255).reshape(-1, *[1] * (grid.ndim - 1))
    return np.asarray((grid[cell] * (256 - part) + grid[cell + 1] * part) >> 8)
