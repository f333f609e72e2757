"""Files that version 0.1.0 wrote still load and say what they said; the formats have not changed since."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from onepass import FeatureFile, info, load_head, predict, train_head
from onepass.heads.export.certificate import Certificate, hashes_of
from onepass.heads.finetune.model_file import tuned_model
from support import picture

OLD = Path(__file__).parent / "files_of_0_1_0"
HEADS = ("logreg", "rbf-svm", "knn", "mlp")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(OLD, tmp_path / "old")


def test_an_old_feature_file_reads_and_trains_a_head(old: Path):
    with FeatureFile(old / "photos.tiny.h5") as file:
        assert file.class_names == ("ant", "bee")
        assert file.shape == (16, 2, 6)
        rows, _ = file.read(np.flatnonzero(file.committed))
    np.testing.assert_array_equal(rows, np.load(old / "expected.npz")["rows"])
    assert train_head(old / "photos.tiny.h5", out=old / "new.head").head.class_names == ("ant", "bee")


@pytest.mark.parametrize("kind", HEADS)
def test_an_old_head_predicts_what_it_predicted(kind: str, old: Path):
    expected = np.load(old / "expected.npz")
    head = load_head(old / f"{kind}.head")
    # The sums were in float32 then: 6 features, so about 1e-6 of the largest score.
    np.testing.assert_allclose(head.predict_proba(expected["rows"]), expected[kind], atol=1e-5)
    assert f"{kind} head" in str(info(old / f"{kind}.head"))


@pytest.mark.parametrize("name", ["tuned.keras", "exported.keras"])
def test_an_old_model_still_classifies_images(name: str, old: Path, rng: np.random.Generator):
    picture(rng).save(old / "new.png")
    (answer,) = predict(old / name, [old / "new.png"])
    assert {label for label, _ in answer.top} == {"ant", "bee"}
    assert tuned_model(old / name).class_names == ("ant", "bee")


def test_an_old_certificate_fits_its_model(old: Path):
    found = Certificate.read(old / "exported.keras.certificate.json")
    assert found.files == hashes_of(old / "exported.keras")
    assert (found.class_names, found.flips) == (["ant", "bee"], 0)
