"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onepass import extract_features
from onepass.features.writer import RowWriter, write_feature_file
from structure import modules
from support import GOLDEN, MakeFolder, blobs, make_spec, make_table, plain

EXAMPLES = [name for name, path in modules().items() if ">>>" in path.read_text()]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """The current folder, with a feature file photos.h5 of 120 images, 24 of them to test on."""
    monkeypatch.chdir(tmp_path)
    x, y = blobs(rng, 120, 24)
    table = replace(make_table(120, 3), labels=y.astype(np.int32))
    write_feature_file(Path("photos.h5"), make_spec(width=24), table, {}, GOLDEN[..., :1].repeat(24, axis=2))
    with RowWriter(Path("photos.h5")) as writer:
        writer.commit(plain(range(120)), x)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder: MakeFolder, tiny_file: Path) -> None:
    """The current folder, with a network of the user's own, images, their features, and two images to classify."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_file, "mine.keras")
    extract_features(make_folder({"cats": 15, "dogs": 15}, name="pets"), "mine.keras")
    Path("more").mkdir()
    shutil.copy("pets/cats/0.png", "new.png")
    shutil.copy("pets/dogs/0.png", "more/0.png")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_are_true(name: str, request: pytest.FixtureRequest):
    request.getfixturevalue("pets" if "mine." in modules()[name].read_text() else "photos")
    found = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert not found.failed
