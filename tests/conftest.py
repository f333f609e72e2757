"""Fixtures that many tests share: seeded numbers, tiny images, a small backbone, a ready feature file."""

import os
from pathlib import Path

import numpy as np
import pytest

# Before anything is imported that reads them: results must not depend on the terminal or on who runs the tests.
_OF_THE_TERMINAL = ("CI", "GITHUB_ACTIONS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "TERMINAL_WIDTH")
_OF_THE_USER = ("KERAS_HOME", "XDG_CACHE_HOME", "PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONOPTIMIZE", "LANGUAGE")
for _name in (*_OF_THE_TERMINAL, *_OF_THE_USER):
    os.environ.pop(_name, None)
os.environ |= {
    "COLUMNS": "100",
    "TERM": "dumb",
    "LC_ALL": "C.UTF-8",
    "MPLBACKEND": "Agg",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

import onepass.extract.terminal as terminal
from onepass.features import FeatureFile
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, MakeFolder, make_spec, make_table, plain, write_folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted backbones of the tests stay out of the user's cache."""
    os.environ["ONEPASS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))  # read as its libraries are imported


@pytest.fixture(autouse=True, scope="session")
def _no_progress() -> None:
    """What a command writes does not depend on how long it takes on this machine."""
    terminal.EVERY = 1e6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes class folders of PNG images: make_folder({"cats": 5, "dogs": 4}, name="photos")."""

    def make(classes: dict[str, int], *, name: str = "photos", seed: int = 0) -> Path:
        return write_folder(tmp_path / name, classes, seed=seed)

    return make


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolution + BatchNorm network of the user's own, as a `.keras` file: 32 px in, 8 wide."""
    from onepass.extract.frameworks import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(8, 3, strides=2, padding="same"),
            layers.BatchNormalization(moving_mean_initializer="random_normal"),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Activation("relu"),
        ]
    )
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_backbone(tiny_file: Path):
    from onepass.extract import load_backbone

    return load_backbone(str(tiny_file), precision="float32")


@pytest.fixture(scope="session")
def lite0():
    """The bundled pretrained backbone at 64 px, for tests where meaning matters."""
    from onepass.extract import load_backbone

    return load_backbone("efficientnet_lite0", image_size=64, precision="float32")


@pytest.fixture
def feature_file(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A complete feature file of 40 rows, 6 wide, whose two classes lie apart."""
    path, table = tmp_path / "ready.h5", make_table(40)
    write_feature_file(
        path, make_spec(), table, {"data": "photos", "backbone": "resnet50", "weights": "imagenet"}, GOLDEN
    )
    rows = rng.normal(size=(40, 6)).astype(np.float32) + 2 * table.labels[:, None]
    with RowWriter(path) as writer:
        writer.commit(plain(range(40)), rows)
    return path


@pytest.fixture
def open_file(feature_file: Path) -> FeatureFile:
    return FeatureFile(feature_file)
