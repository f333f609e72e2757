"""What many tests share: seeded numbers, a few tiny images, a small backbone, a ready feature file."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from features import FeatureFile, ImageTable, Spec
from features.layout import Extent
from features.writer import RowWriter, write_feature_file

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted backbones of the tests stay out of the user's cache."""
    os.environ["ONEPASS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def picture(rng: np.random.Generator, size: tuple[int, int] = (40, 30), hue: int = 0) -> Image.Image:
    """A smooth random RGB image with a colour cast, so that classes can be told apart."""
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    coarse[:, :, hue % 3] = coarse[:, :, hue % 3] // 4 + 190
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes class folders of PNG images: make_folder({"cats": 5, "dogs": 4}, name="photos")."""

    def make(classes: dict[str, int], *, name: str = "photos", seed: int = 0) -> Path:
        return write_folder(tmp_path / name, classes, seed=seed)

    return make


def write_folder(data: Path, classes: dict[str, int], *, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for hue, (label, count) in enumerate(sorted(classes.items())):
        (data / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(generator, hue=hue).save(data / label / f"{number}.png")
    return data


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolution + BatchNorm network of the user's own, as a `.keras` file: 32 px in, 8 wide."""
    from features.frameworks import import_keras

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
    from extract import load_backbone

    return load_backbone(str(tiny_file))


@pytest.fixture(scope="session")
def lite0():
    """The bundled pretrained backbone at 64 px, for tests where meaning matters."""
    from extract import load_backbone

    return load_backbone("efficientnet_lite0", image_size=64, precision="float32")


GOLDEN = np.ones((1, 2, 6), np.float32)


def plain(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Places of the plain view of images."""
    return [(position, 0) for position in positions]


def make_spec(**changes: object) -> Spec:
    values: dict = {
        "backbone": "resnet50",
        "weights": "imagenet",
        "weights_hash": "ab" * 32,
        "image_size": 224,
        "resize": "squash",
        "decode": "rgb-exif-white-hamming-2",
        "pooling": "avg",
        "precision": "float32",
        "width": 6,
    }
    return Spec(**(values | changes))


def make_table(n: int, classes: int = 2, *, seed: int = 0) -> ImageTable:
    generator = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % classes
    return ImageTable(
        class_names=tuple(f"class{i}" for i in range(classes)),
        paths=tuple(f"class{label}/bild {i} ü.jpg" for i, label in enumerate(labels)),
        labels=labels,
        splits=np.where(np.arange(n) % 5 == 4, 2, 0).astype(np.uint8),
        content_hashes=generator.integers(0, 256, (n, 32), dtype=np.uint8),
        file_sizes=np.arange(n, dtype=np.int64) + 1000,
        file_mtimes=np.arange(n, dtype=np.int64) + 10**18,
    )


def flip_bit(path: Path, name: str, *, byte: int = 0) -> None:
    with h5py.File(path) as file:
        offset = Extent.of(file, name).offset + byte
    with open(path, "r+b") as raw:
        raw.seek(offset)
        value = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([value ^ 4]))


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


NO_NETWORK = """
import socket, sys
asked = []
def refuse(*args, **kwargs):
    asked.append(args)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
import multiprocessing
multiprocessing.Process.start = lambda self: asked.append(("process", self))
"""
"""Start of a script that counts every connection, name look-up and helper process in `asked`."""


def run_program(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs an installed program (extract, train-head, onepass, python) as a user would."""
    program = Path(sys.executable).parent / command[0]
    return subprocess.run(
        [str(program), *command[1:]], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )


FAST_NETS: dict[str, dict] = {"mlp": {"epochs": 12, "hidden": (16,), "lr": 0.01}, "linear": {"epochs": 30, "lr": 0.01}}
"""Settings with which the Keras heads train in a moment."""


def blobs(
    rng: np.random.Generator, n: int = 240, d: int = 20, k: int = 3, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of k classes around k centres: (n, d) float32 and (n,) labels."""
    y = np.arange(n) % k
    centres = np.random.default_rng(42).normal(size=(k, d)) * spread / np.sqrt(d) * 3
    return (centres[y] + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d)).astype(np.float32), y
