"""Computes with TensorFlow the rows that prove another way of building the networks of the catalogue.

    python benchmarks/reference_rows.py

Writes extract/backbones/reference_rows.json. A test computes the same rows and compares.
"""

import time

import numpy as np

from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.backbones.reference_rows import reference_images, seeded_backbone, write_reference_rows
from onepass.extract.frameworks import plain_keras


def main() -> None:
    write_reference_rows(list(CATALOGUE), rows_by_tensorflow)


def rows_by_tensorflow(name: str) -> np.ndarray:
    """(2, d) float32: what Keras's own `predict` gives."""
    started = time.perf_counter()
    with plain_keras():
        rows = np.asarray(seeded_backbone(name).model.predict_on_batch(reference_images()))
    print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
    return rows


if __name__ == "__main__":
    main()
