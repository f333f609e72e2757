"""Files that version 0.1.0 wrote still load and say what they said."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from onepass import FeatureFile, info, load_head, predict, run_extraction, train_head
from onepass.features import OnepassWarning
from onepass.features.layout import create_file
from onepass.heads.export.certificate import Certificate, hashes_of
from onepass.heads.finetune.model_file import tuned_model
from support import MakeFolder, picture

OLD = Path(__file__).parent / "files_of_0_1_0"
NO_THUMBNAILS = (
    "keeps no thumbnails, so copies that were turned or made grey are not found. Run the same extract command again: "
    "it reads the images, and the backbone does not run.$"
)
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
    with pytest.warns(OnepassWarning, match=f"photos.tiny.h5 {NO_THUMBNAILS}"):
        trained = train_head(old / "photos.tiny.h5", out=old / "new.head")
    assert trained.head.class_names == ("ant", "bee")


def test_extract_gives_an_old_feature_file_thumbnails_and_leaves_its_rows_alone(
    tmp_path: Path, tiny_backbone, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
):
    data, path = make_folder({"ants": 12, "bees": 12}), tmp_path / "f.h5"
    Image.open(data / "bees" / "3.png").transpose(Image.Transpose.ROTATE_90).save(data / "bees" / "turned.png")
    with monkeypatch.context() as patched:
        patched.setattr("onepass.features.layout.create_file", without_places_for_copies)
        patched.setattr("onepass.features.writer.create_file", without_places_for_copies)
        patched.setattr("onepass.features.writer.RowWriter.put_thumbnail", lambda *_: None)
        patched.setattr("onepass.extract.one_pass.run.keep_copies", lambda _: None)
        with pytest.warns(OnepassWarning, match=f"f.h5 {NO_THUMBNAILS}"):
            run_extraction(data, tiny_backbone, out=path)
    with FeatureFile(path) as file:
        rows = file.rows.copy()
        assert not file.keeps_thumbnails

    done = run_extraction(data, tiny_backbone, out=path)

    assert (done.computed, done.reused, done.thumbnails, done.near_copies) == (0, 25, 25, 1)
    assert "25 images were read again, for thumbnails that the file lacked" in str(done)
    assert "1 further image shows the picture of another (" in str(done)
    with FeatureFile(path) as file:
        np.testing.assert_array_equal(file.rows, rows)
        assert file.thumbnailed().all()
        assert file.kept_copies() is not None
    assert run_extraction(data, tiny_backbone, out=path).thumbnails == 0


def without_places_for_copies(path: Path, *args: Any, **options: Any) -> None:
    """A feature file as 0.1.0 made it."""
    create_file(path, *args, **options)
    with h5py.File(path, "r+") as file:
        for name in ("thumbnails", "thumbnail_checksums", "copies", "copies_sha256"):
            del file[name]


@pytest.mark.parametrize("kind", HEADS)
def test_an_old_head_predicts_what_it_predicted(kind: str, old: Path):
    expected = np.load(old / "expected.npz")
    head = load_head(old / f"{kind}.head")
    # The sums were in float32 then: 6 features, so about 1e-6 of the largest score.
    np.testing.assert_allclose(head.predict_proba(expected["rows"]), expected[kind], atol=1e-5)
    assert f"{kind} head" in str(info(old / f"{kind}.head"))
    assert not head.guarded
    assert "none, since onepass 0.1 wrote it; a head trained anew has one" in str(info(old / f"{kind}.head"))


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
