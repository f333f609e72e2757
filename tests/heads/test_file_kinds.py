"""Every file that a command writes, given to every command that reads: taken, or refused as what it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import evaluate, export, fine_tune, info, nearest, predict, train_head, verify
from onepass.extract import run_extraction
from onepass.features import FeatureFile
from onepass.features.errors import CertificateError, FileKindError, HeadFileError, UserError
from onepass.heads.file_kinds import CLASSIFIERS, FileKind, file_kind
from onepass.heads.finetune.model_file import load_model
from support import run_program, write_folder

pytestmark = pytest.mark.slow  # six formats are exported

EXPORTS = {"keras": ".keras", "h5": ".h5", "onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite", "savedmodel": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    """A folder with one file of every kind."""
    place = tmp_path_factory.mktemp("kinds")
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(place / "photos" / part, {"ant": 9, "bee": 8, "fly": 7}, seed=seed)
    run_extraction(place / "photos", tiny_backbone, out=place / "photos.h5")
    head = train_head(place / "photos.h5", head="logreg", C=1e-3, tune="none", out=place / "photos.head").head
    for ending in ("keras", "h5"):
        out = place / f"tuned.{ending}"
        fine_tune(head, unfreeze="3", lr=1e-3, epochs=1, keep="always", boundary_cache="off", out=out)
    for to, suffix in EXPORTS.items():
        export(head, to=to, out=place / f"exported.{to}{suffix}" if suffix else place / "exported.savedmodel")
    export(head, to="savedmodel", takes_bytes=True, out=place / "exported.bytes")
    write_folder(place / "new", {"ant": 2, "bee": 1}, seed=9)
    (place / "notes.txt").write_text("hello")
    return place


def models(folder: Path) -> list[Path]:
    exported = [
        folder / f"exported.{to}{suffix}" if suffix else folder / "exported.savedmodel"
        for to, suffix in EXPORTS.items()
    ]
    return [folder / "tuned.keras", folder / "tuned.h5", *exported, folder / "exported.bytes"]


def test_a_file_is_known_by_what_stands_in_it(folder: Path, tmp_path: Path, tiny_file: Path):
    known = {
        "photos.h5": FileKind.FEATURES,
        "photos.head": FileKind.HEAD,
        "tuned.keras": FileKind.TUNED,
        "tuned.h5": FileKind.TUNED,
        "exported.onnx.onnx.certificate.json": FileKind.CERTIFICATE,
        "photos": FileKind.FOLDER,
        "notes.txt": FileKind.OTHER,
        "nowhere": FileKind.MISSING,
    }
    assert {name: file_kind(folder / name) for name in known} == known
    assert {file_kind(path) for path in models(folder)[2:]} == {FileKind.EXPORTED}
    assert file_kind(tiny_file) is FileKind.KERAS
    for name in ("photos.h5", "photos.head", "tuned.keras", "tuned.h5", "exported.onnx.onnx.certificate.json"):
        renamed = shutil.copy(folder / name, tmp_path / "renamed")
        assert file_kind(renamed) is known[name]


def test_every_model_predicts_what_its_head_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    expected = predict("photos.head", "new", top=3)
    for path in models(folder)[2:]:
        found = predict(path, "new", top=3)
        assert [one.top[0][0] for one in found] == [one.top[0][0] for one in expected], path
        for ours, theirs in zip(found, expected, strict=True):
            assert dict(ours.top) == pytest.approx(dict(theirs.top), abs=5e-3), path


def test_a_fine_tuned_model_predicts_what_keras_computes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    with FeatureFile("photos.h5") as file:
        test = file.rows_of("test")
        pixels = np.stack([_pixels(folder / "photos" / file.paths[i]) for i in test])
        names = file.class_names
        paths = [folder / "photos" / file.paths[i] for i in test]
    for ending in ("keras", "h5"):
        told = load_model(folder / f"tuned.{ending}").predict_on_batch(pixels)
        for answer, probabilities in zip(predict(f"tuned.{ending}", paths, top=3), told, strict=True):
            assert dict(answer.top) == pytest.approx(dict(zip(names, probabilities.tolist(), strict=True)), abs=1e-4)


def _pixels(path: Path) -> np.ndarray:
    from onepass.extract import read_image

    return read_image(path, image_size=32, resize="squash")


def test_every_classifier_has_its_confusion_matrix_and_interval(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    by_head = evaluate("photos.head", "photos.h5")
    for path in models(folder):
        found = evaluate(path, "photos.h5")
        assert (found.measured_on, found.n) == ("test", 24)
        assert np.sum(found.confusion) == 24
        assert 0 <= found.interval[0] <= found.accuracy <= found.interval[1] <= 1
        if "exported" in path.name:
            assert found.confusion == by_head.confusion, path
        on_folder = evaluate(path, "photos", split="test")
        assert on_folder.confusion == found.confusion


def test_a_fine_tuned_model_is_scored_as_it_was_reported(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    for ending in ("keras", "h5"):
        reported = info(f"tuned.{ending}").record()["report"]["after"][0]
        assert evaluate(f"tuned.{ending}", "photos.h5").accuracy == pytest.approx(reported)


def test_every_classifier_names_the_nearest_training_images(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    some = next((folder / "photos" / "train" / "ant").iterdir())
    for path in (folder / "photos.head", *models(folder)):
        found = nearest(path, some, k=2)
        assert (found[0].path, round(found[0].cosine, 3)) == (f"train/ant/{some.name}", 1.0)
        assert ("by the rows of" in str(found)) is (path.suffix != ".head")


def test_a_certificate_stands_for_the_model_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    name = "exported.onnx.onnx.certificate.json"
    assert predict(name, "new").record() == predict("exported.onnx.onnx", "new").record()
    assert verify(name).verdict == "whole"
    assert evaluate(name, "photos.h5").n == 24
    assert info(name).record()["to"] == "onnx"


def test_every_file_has_its_facts(folder: Path):
    for path in (folder / "photos.h5", folder / "photos.head", *models(folder)):
        shown = info(path)
        assert str(path) in str(shown)
        json.dumps(shown.record())


def test_every_file_can_be_verified(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    for path in (folder / "photos.h5", folder / "photos.head", *models(folder)):
        found = verify(path, data=folder / "photos" if "exported" in path.name else ())
        assert found.verdict == "whole", f"{path}: {found}"


def test_a_head_whose_backbone_computes_other_rows_is_not_whole(folder: Path, tmp_path: Path):
    from dataclasses import replace

    from onepass.heads.saved_head import load_head, save_head

    head = load_head(folder / "photos.head")
    golden = -head.golden
    save_head(
        replace(head, golden=golden, trained_on={**head.trained_on, "environments": []}, path=tmp_path / "x.head")
    )
    found = verify(tmp_path / "x.head")
    assert found.verdict == "drifted"
    assert "golden rows: cosine -1.0" in str(found)


WRONG = {
    "photos.h5": "{path} is a feature file; needed: a head file, or a model that fine-tune or export wrote. "
    "Train a head on it with: train-head {path}",
    "photos": "{path} is a folder; needed: a head file, or a model that fine-tune or export wrote. Name a file in it.",
    "notes.txt": "{path} is no file that onepass writes; needed: a head file, or a model that fine-tune or export "
    "wrote.",
    "nowhere": "there is no head file {path}. Make one with: train-head FEATURES",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_classifier_is_refused_as_what_it_is(name: str, folder: Path):
    path = folder / name
    for use in (
        lambda: predict(path, folder / "new"),
        lambda: evaluate(path, folder / "photos.h5"),
        lambda: nearest(path, folder / "new" / "ant" / "0.png"),
        lambda: export(path, to="onnx"),
    ):
        with pytest.raises(HeadFileError) as refused:
            use()
        assert str(refused.value) == WRONG[name].format(path=path)


def test_a_keras_file_of_others_is_told_from_ours(tiny_file: Path, folder: Path):
    with pytest.raises(HeadFileError) as refused:
        predict(tiny_file, folder / "new")
    assert str(refused.value) == (
        f"{tiny_file} is a Keras file that neither fine-tune nor export wrote; needed: a head file, or a model that "
        f"fine-tune or export wrote. To use it as a backbone: extract --backbone {tiny_file} DATA"
    )
    for use, needed in (
        (info, "a feature file, a head, a model or a certificate."),
        (verify, "a feature file, a head, or a model."),
    ):
        with pytest.raises(FileKindError) as found:
            use(tiny_file)
        assert str(found.value) == (
            f"{tiny_file} is a Keras file that neither fine-tune nor export wrote; needed: {needed}"
        )


def test_heads_are_scored_on_features_and_folders_alone(folder: Path):
    (folder / "notes.md").write_text("no table of images either")
    for name, is_what in (("photos.head", "a head file"), ("notes.md", "no file that onepass writes")):
        with pytest.raises(FileKindError) as refused:
            evaluate(folder / "photos.head", folder / name)
        assert str(refused.value) == (
            f"{folder / name} is {is_what}; needed to score on: a feature file, a folder of class "
            "folders, or a table of images."
        )


def test_an_exported_model_without_its_certificate_says_what_it_lacks(folder: Path, tmp_path: Path):
    shutil.copy(folder / "exported.onnx.onnx", tmp_path / "alone.onnx")
    for use in (info, verify, lambda path: predict(path, folder / "new")):
        with pytest.raises(CertificateError, match="certificate"):
            use(tmp_path / "alone.onnx")


def test_another_model_than_the_certified_one_is_not_loaded(folder: Path, tmp_path: Path):
    for name in ("exported.onnx.onnx", "exported.onnx.onnx.certificate.json"):
        shutil.copy(folder / name, tmp_path / name)
    with open(tmp_path / "exported.onnx.onnx", "ab") as file:
        file.write(b"x")
    with pytest.raises(CertificateError, match="is not the model that was certified, so it was not loaded"):
        predict(tmp_path / "exported.onnx.onnx", folder / "new")


def test_no_command_gives_a_traceback_for_any_file(folder: Path):
    """Whatever is named: an answer, or one line that starts with error."""
    for path in sorted(folder.iterdir()):
        for command in (["info"], ["verify", "--no-golden"], ["evaluate", "FILE", "photos.h5"]):
            words = [path.name if word == "FILE" else word for word in command]
            done = run_program("onepass", *words, *([] if "FILE" in command else [path.name]), cwd=folder)
            assert done.returncode in (0, 1, 2, 3, 4), (command, path.name, done)
            assert done.returncode in (0, 3, 4) or done.stderr.startswith("error: "), (command, path.name, done.stderr)
    assert set(CLASSIFIERS) <= set(FileKind)
    assert issubclass(HeadFileError, UserError)


def test_a_model_that_takes_whole_images_sees_deep_ones_as_its_head_does(tmp_path: Path, tiny_file: Path):
    generator = np.random.default_rng(3)
    for part in ("train", "test"):
        for name, level in (("dark", 900), ("light", 2600)):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(8):
                values = (level + generator.integers(0, 900, (40, 30))).astype(np.uint16)
                Image.fromarray(values).save(folder / f"{i}.png")
    run_extraction(tmp_path / "photos", str(tiny_file), depth=12, out=tmp_path / "photos.h5")
    head = train_head(tmp_path / "photos.h5", head="logreg", C=1e-2, tune="none", out=tmp_path / "photos.head").head
    export(head, to="onnx", out=tmp_path / "photos.onnx")
    expected = predict(head, tmp_path / "photos" / "test", top=2)
    for ours, theirs in zip(
        predict(tmp_path / "photos.onnx", tmp_path / "photos" / "test", top=2), expected, strict=True
    ):
        assert dict(ours.top) == pytest.approx(dict(theirs.top), abs=5e-3)
