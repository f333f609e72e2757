"""What many tests share: tiny images and tables, damage, programs run as a user would."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from PIL import Image
from typer.testing import CliRunner

from onepass.extract.pixels.formats import format_names
from onepass.features import ImageTable, Spec
from onepass.features.layout import Extent


def picture(rng: np.random.Generator, size: tuple[int, int] = (40, 30), hue: int = 0) -> Image.Image:
    """A smooth random RGB image with a colour cast, so that classes can be told apart."""
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    coarse[:, :, hue % 3] = coarse[:, :, hue % 3] // 4 + 190
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


MakeFolder = Callable[..., Path]


def write_folder(data: Path, classes: dict[str, int], *, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for hue, (label, count) in enumerate(sorted(classes.items())):
        (data / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(generator, hue=hue).save(data / label / f"{number}.png")
    return data


GOLDEN = np.ones((1, 2, 6), np.float32)


READ = f"{format_names('and')} are read"
"""What a reason says of formats; HEIC is among them where its extra is installed."""


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


def write_rows(
    path: Path, x: np.ndarray, y: np.ndarray, splits: np.ndarray, *, one_content: bool = False, **spec: object
) -> Path:
    """A complete feature file of (n, d) rows, (n,) classes and splits; of equal images if asked for."""
    from onepass.features.writer import RowWriter, write_feature_file

    table = make_table(len(y), int(y.max()) + 1)
    hashes = np.tile(table.content_hashes[:1], (len(y), 1)) if one_content else table.content_hashes
    table = dataclasses.replace(table, labels=y.astype(np.int32), splits=splits, content_hashes=hashes)
    width = x.shape[1]
    write_feature_file(
        path, make_spec(width=width, **spec), table, {"data": "photos"}, np.ones((1, 2, width), np.float32)
    )
    with RowWriter(path) as writer:
        writer.commit(plain(range(len(y))), x.astype(np.float32))
    return path


def flip_bit(path: Path, name: str, *, byte: int = 0) -> None:
    with h5py.File(path) as file:
        offset = Extent.of(file, name).offset + byte
    with open(path, "r+b") as raw:
        raw.seek(offset)
        value = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([value ^ 4]))


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


def run_program(
    *command: str, cwd: Path, stdin: str | bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command (extract, train-head, compare-heads, fine-tune, onepass) as its program does, in this process.

    What the program would end with a traceback is raised.
    """
    from onepass import cli

    name, *arguments = command
    program = cli.app if name == "onepass" else cli._ALONE[name]
    with contextlib.chdir(cwd), mock.patch.dict(os.environ, environment):
        done = CliRunner().invoke(program, arguments, input=stdin, prog_name=name, catch_exceptions=False)
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)


def run_process(
    *command: str, cwd: Path, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs an installed program (onepass, python) as a user would, in a process of its own."""
    return subprocess.run(
        [installed(command[0]), *command[1:]],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=PATIENCE,
    )


def installed(program: str) -> str:
    """Where the console program of this Python is."""
    return str(Path(sys.executable).parent / program)


PATIENCE = 1500
"""Seconds after which a process is given up; far more than any of them takes."""


@contextlib.contextmanager
def started(*command: str, cwd: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """An installed program while it runs, with pipes; it is killed where the test leaves it running."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([installed(command[0]), *command[1:]], cwd=cwd, **(pipes | options)) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits until the condition holds, while the process runs and patience lasts."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the program ended by itself"
        assert time.monotonic() < end, f"not within {PATIENCE} s"
        time.sleep(0.01)


FAST_NETS: dict[str, dict] = {"mlp": {"epochs": 12, "hidden": (16,), "lr": 0.01}, "linear": {"epochs": 30, "lr": 0.01}}


"""Settings with which the Keras heads train in a moment."""


def blobs(
    rng: np.random.Generator, n: int = 240, d: int = 20, k: int = 3, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of k classes around k centres: (n, d) float32 and (n,) labels."""
    y = np.arange(n) % k
    centres = np.random.default_rng(42).normal(size=(k, d)) * spread / np.sqrt(d) * 3
    return (centres[y] + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d)).astype(np.float32), y


def mobilenet(*, alpha: float = 0.25, top: bool = False, seed: int = 0):
    from onepass.extract.frameworks import import_keras

    keras = import_keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    shape = (32, 32, 3)
    return keras.applications.MobileNet(alpha=alpha, include_top=top, weights=None, input_shape=shape)


def save_legacy(model, path: Path, *, whole_model: bool = False) -> None:
    """Writes weights as Keras 2 laid them out: one group per layer, names in attributes."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = root.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()


KINDS = ["efficientnet_lite0", "efficientnetb0", "mobilenetv2", "densenet121", "resnet50"]
"""Backbones of which each stands for a way of preprocessing."""
