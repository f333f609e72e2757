"""Every backbone's preprocessing against `keras.applications` on numpy arrays."""

from pathlib import Path

import numpy as np
import pytest

from onepass.extract.backbones.catalogue import CATALOGUE, CatalogueEntry
from onepass.extract.backbones.engines import OpenVINOEngine
from onepass.extract.backbones.keras_applications import preprocess_input as preprocess
from onepass.extract.backbones.openvino_cache import export_keras
from onepass.extract.frameworks import import_keras, plain_keras
from support import KINDS

# One entry for each thing that Keras does to pixels: nothing, /127.5 - 1, mean and deviation, BGR less the mean.


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(1, 16, 48, 3) uint8: every value in every channel."""
    values = np.arange(256, dtype=np.uint8)
    colours = np.stack([values, np.roll(values, 77), values[::-1]], axis=-1)
    return np.concatenate([colours, colours[:, ::-1], colours[:, [1, 2, 0]]]).reshape(1, 16, 48, 3)


def expected(entry: CatalogueEntry, pixels: np.ndarray) -> np.ndarray:
    if entry.lite:
        return (pixels.astype(np.float32) - 127) / 128
    return getattr(import_keras().applications, entry.module).preprocess_input(pixels.astype(np.float32))


def graph(entry: CatalogueEntry, dtype: str, shape: tuple[int, ...]):
    keras = import_keras()
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, preprocess(entry, inputs))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_backbone_sees_pixels_as_keras_prepares_them(name: str, dtype: str, pixels: np.ndarray):
    entry = CATALOGUE[name]
    with plain_keras():
        found = graph(entry, dtype, pixels.shape[1:])(pixels.astype(dtype)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(entry, pixels), rtol=1e-6, atol=1e-6)


def test_there_are_no_other_kinds_of_preprocessing(pixels: np.ndarray):
    kinds = [expected(CATALOGUE[name], pixels) for name in KINDS]
    for entry in CATALOGUE.values():
        assert sum(np.array_equal(expected(entry, pixels), kind) for kind in kinds) == 1, entry.name


@pytest.mark.parametrize("name", KINDS)
def test_preprocessing_survives_conversion(name: str, pixels: np.ndarray, tmp_path: Path):
    entry, square = CATALOGUE[name], pixels[:, :, :16]
    with plain_keras() as keras:
        model = graph(entry, "uint8", square.shape[1:])
        flat = keras.Model(model.inputs, keras.layers.Flatten()(model.output))
        export_keras(flat, tmp_path / "model.xml")
    engine = OpenVINOEngine(tmp_path / "model.xml", image_size=16, precision="float32")
    ((_, row),) = engine.run([(0, square[0])])
    np.testing.assert_allclose(row.reshape(square.shape), expected(entry, square), rtol=1e-6, atol=1e-6)
