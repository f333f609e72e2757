from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import HeadFileError, OnepassWarning, OptionError, SpecMismatchError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import SavedHead, train_head
from onepass.heads.predict.nearest import nearest_images, training_file
from support import make_spec, make_table, plain


@pytest.fixture
def head(feature_file: Path, tmp_path: Path) -> SavedHead:
    return train_head(feature_file, out=tmp_path / "x.head").head


def test_the_nearest_are_those_of_all_cosines(head: SavedHead, open_file: FeatureFile, monkeypatch):
    monkeypatch.setattr(FeatureFile, "batches", lambda _, some, **__: np.array_split(some, 3))
    train = open_file.rows_of("train")
    rows, labels = open_file.read(train)
    asked = np.random.default_rng(3).normal(size=6).astype(np.float32)
    standard = (np.vstack([asked, rows]).astype(np.float64) - head.network.mean) / head.network.scale
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    cosines = standard[1:] @ standard[0]
    order = np.argsort(-cosines)[:4]
    found = nearest_images(head, asked, open_file, k=4)
    assert [n.path for n in found] == [open_file.table.paths[i] for i in train[order]]
    assert [n.label for n in found] == [f"class{i}" for i in labels[order]]
    assert {n.split for n in found} == {"train"}
    np.testing.assert_allclose([n.cosine for n in found], cosines[order], atol=1e-5)


def test_an_image_of_the_training_is_nearest_to_itself(head: SavedHead, open_file: FeatureFile):
    train = open_file.rows_of("train")
    (first, *_) = nearest_images(head, open_file.read(train[7:8])[0][0], open_file, k=100)
    assert first.path == open_file.table.paths[train[7]]
    assert first.cosine == pytest.approx(1)
    assert len(nearest_images(head, open_file.read(train[7:8])[0][0], open_file, k=100)) == len(train)


def test_images_that_lost_their_row_are_told(head: SavedHead, feature_file: Path):
    with RowWriter(feature_file) as writer:
        writer.withdraw([(7, 0)])
    message = (
        f"^{feature_file} is not complete: 1 of 40 images have no row and are not compared. Run the same extract "
        "command again to finish it.$"
    )
    with FeatureFile(feature_file) as file, pytest.warns(OnepassWarning, match=message):
        assert len(nearest_images(head, np.zeros(6, np.float32), file, k=100)) == 31


def test_wrong_files_and_counts_are_refused(head: SavedHead, open_file: FeatureFile, tmp_path: Path):
    row = np.zeros(6, np.float32)
    with pytest.raises(OptionError, match="k is 0; needed: 1 or more."):
        nearest_images(head, row, open_file, k=0)
    other = tmp_path / "other.h5"
    for spec, error, words in (
        (make_spec(), HeadFileError, "holds none of the images that .*x.head was trained on. Give the feature file of"),
        (make_spec(backbone="vgg16"), SpecMismatchError, "other.h5"),
    ):
        other.unlink(missing_ok=True)
        write_feature_file(other, spec, make_table(10, seed=9), {}, np.ones((1, 2, 6), np.float32))
        with RowWriter(other) as writer:
            writer.commit(plain(range(10)), np.ones((10, 6), np.float32))
        with FeatureFile(other) as file, pytest.raises(error, match=words):
            nearest_images(head, row, file)
    assert training_file(head).samefile(open_file.path)
    moved = replace(head, trained_on={**head.trained_on, "features": "/nowhere.h5"})
    with pytest.raises(HeadFileError, match="trained on /nowhere.h5, which is not there. Give the feature file by fe"):
        training_file(moved)
