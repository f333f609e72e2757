"""Rows with numbers or several labels, and feature files of them."""

import dataclasses
from pathlib import Path

import numpy as np

from onepass import train_head
from onepass.features import FeatureFile, ImageTable
from onepass.features.writer import RowWriter, write_feature_file
from support import FAST_NETS, make_spec, make_table, plain

NAMES = ("blue", "red", "round")


def numbers(rng: np.random.Generator, n: int = 240, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) rows and (n,) numbers around 500 that hang on them."""
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x, 500 + 40 * (x @ np.linspace(-1, 1, d)) + 8 * rng.normal(size=n)


def write_numbers(path: Path, x: np.ndarray, y: np.ndarray, **changes: object) -> Path:
    """A complete feature file of (n, d) rows and (n,) numbers, NaN for images without."""
    n, d = x.shape
    labels = np.where(np.isnan(y), -1, 0).astype(np.int32)
    table = dataclasses.replace(make_table(n), class_names=("age",), labels=labels, task="number", targets=y[:, None])
    table = dataclasses.replace(table, **changes)
    facts = {"data": "photos", "backbone": "resnet50", "weights": "imagenet"}
    write_feature_file(path, make_spec(width=d), table, facts, np.ones((1, 2, d), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(n)), x)
    return path


def labelled(rng: np.random.Generator, n: int = 240, d: int = 10, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) rows and (n, k) labels of 0 and 1 that hang on them, the later ones rarer."""
    x = rng.normal(size=(n, d)).astype(np.float32)
    weights = np.random.default_rng(5).normal(size=(d, k))
    return x, ((x @ weights + rng.normal(size=(n, k))) > 1.5 * np.arange(k)).astype(float)


def write_labels(path: Path, x: np.ndarray, y: np.ndarray, **changes: object) -> Path:
    n, d = x.shape
    labels = np.where(np.isnan(y).any(axis=1), -1, 0).astype(np.int32)
    table = dataclasses.replace(make_table(n), class_names=NAMES, labels=labels, task="labels", targets=y)
    facts = {"data": "photos", "backbone": "resnet50", "weights": "imagenet"}
    write_feature_file(
        path, make_spec(width=d), dataclasses.replace(table, **changes), facts, np.ones((1, 2, d), np.float32)
    )
    with RowWriter(path) as writer:
        writer.commit(plain(range(n)), x)
    return path


def relabelled(source: Path, path: Path, **changes: object) -> Path:
    """A feature file with the rows of another one, and other labels."""
    with FeatureFile(source) as file:
        table: ImageTable = dataclasses.replace(file.table, **changes)
        write_feature_file(path, file.spec, table, file.provenance, file.golden_rows)
        with RowWriter(path) as writer:
            writer.commit(plain(range(len(file))), file.read(np.arange(len(file)))[0])
    return path


def head_of(folder: Path, labels: str, kind: str) -> Path:
    """A head of a kind on `folder/labels.h5`, trained when it is first asked for."""
    path = folder / f"{labels}.{kind}.head"
    if not path.exists():
        train_head(folder / f"{labels}.h5", head=kind, out=path, **FAST_NETS.get(kind, {}))
    return path


def a_photo(folder: Path) -> Path:
    return next((folder / "photos" / "test" / "ant").iterdir())
