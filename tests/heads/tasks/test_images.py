"""Heads of other tasks than classes, from image files: predicted, written, exported, verified, explained."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import evaluate, export, info, nearest, predict, train_head, verify, verify_export
from onepass.extract import run_extraction
from onepass.features import FeatureFile, ImageTable
from onepass.features.errors import ExportError, OptionError, TrainingError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import fine_tune
from onepass.heads.export.certificate import Certificate
from support import FAST_NETS, plain, run_program, write_folder

FORMATS = ("keras", "h5", "savedmodel", "onnx", "openvino", "tflite")


def relabelled(source: Path, path: Path, **changes: object) -> Path:
    """A feature file with the rows of another one, and other labels."""
    with FeatureFile(source) as file:
        table: ImageTable = dataclasses.replace(file.table, **changes)
        write_feature_file(path, file.spec, table, file.provenance, file.golden_rows)
        with RowWriter(path) as writer:
            writer.commit(plain(range(len(file))), file.read(np.arange(len(file)))[0])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    """Photos, their rows by class, and by how bright they are."""
    folder = tmp_path_factory.mktemp("tasks")
    for part, seed in (("train", 1), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 16, "bee": 16, "fly": 16}, seed=seed)
    run_extraction(folder / "photos", tiny_backbone, out=folder / "classes.h5")
    with FeatureFile(folder / "classes.h5") as file:
        brightness = np.array([np.asarray(Image.open(folder / "photos" / path)).mean() for path in file.paths])
    numbers = {"class_names": ("brightness",), "labels": np.zeros(len(brightness), np.int32), "task": "number"}
    relabelled(folder / "classes.h5", folder / "bright.h5", targets=brightness[:, None], **numbers)
    return folder


def number_head(folder: Path, kind: str) -> Path:
    path = folder / f"bright.{kind}.head"
    if not path.exists():
        train_head(folder / "bright.h5", head=kind, out=path, **FAST_NETS.get(kind, {}))
    return path


def a_photo(folder: Path) -> Path:
    return next((folder / "photos" / "test" / "ant").iterdir())


def test_numbers_are_predicted_with_an_interval(folder: Path):
    head = number_head(folder, "ridge")
    (found,) = predict(head, a_photo(folder))
    true = np.asarray(Image.open(a_photo(folder))).mean()
    low, high = found.interval
    assert low < found.number < high
    assert abs(found.number - true) < 60
    assert str(found) == f"{a_photo(folder)}  brightness {found.number:.4g} ({low:.4g} to {high:.4g})"
    assert found.record() == {
        "path": str(a_photo(folder)), "name": "brightness", "number": found.number, "low": low, "high": high,
    }  # fmt: skip
    assert predict(head, a_photo(folder), views=3)[0].number != found.number
    assert "brightness" in predict(head, a_photo(folder))._repr_html_()


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_numbers_are_written(ending: str, folder: Path, tmp_path: Path):
    head, photos = number_head(folder, "ridge"), folder / "photos" / "test" / "ant"
    out = tmp_path / f"x.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    done = run_program("onepass", "predict", str(head), str(photos), "--unknown", "0.1", "--out", str(out), cwd=folder)
    assert done.returncode == 0, done.stderr
    expected = [found.number for found in predict(head, photos)]
    if ending == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
        assert list(rows[0]) == ["path", "number", "low", "high", "unknown", "skipped"]
    elif ending == "parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
        assert isinstance(rows[0]["low"], float)
    else:
        text = out.read_text()
        rows = json.loads(text)["predictions"] if ending == "json" else list(map(json.loads, text.splitlines()))
    assert [float(row["number"]) for row in rows] == pytest.approx(expected)
    assert all(float(row["low"]) < float(row["number"]) < float(row["high"]) for row in rows)


def test_the_nearest_images_are_named_with_their_numbers(folder: Path):
    found = nearest(number_head(folder, "ridge"), a_photo(folder), k=2)
    assert [0 < float(one.label) < 255 for one in found] == [True, True]


def test_class_folders_are_no_numbers(folder: Path):
    with pytest.raises(TrainingError, match="gives numbers, and .*photos says . classes of its images"):
        evaluate(number_head(folder, "ridge"), folder / "photos")
    with pytest.raises(TrainingError, match="gives numbers, and the images of .*classes.h5 have classes"):
        evaluate(number_head(folder, "ridge"), folder / "classes.h5")


def test_fine_tuning_is_for_classes(folder: Path):
    with pytest.raises(TrainingError, match="fine-tuning is for one class per image; .*bright.h5 holds brightness"):
        fine_tune(number_head(folder, "ridge"), out=folder / "x.keras")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", ["ridge", "kernel-ridge", "knn", "mlp"])
def test_numbers_are_exported_and_come_back(to: str, kind: str, folder: Path, tmp_path: Path):
    head = number_head(folder, kind)
    out = tmp_path / {"savedmodel": "model", "openvino": "model.xml"}.get(to, f"model.{to}")
    if (kind, to) == ("knn", "h5"):
        with pytest.raises(OptionError, match="has no layer that finds nearest neighbours"):
            export(head, to=to, features=folder / "bright.h5", data=folder / "photos", out=out)
        return
    made = export(head, to=to, features=folder / "bright.h5", data=folder / "photos", out=out)
    assert (made.certificate.task, made.certificate.flips, made.certificate.accuracy) == ("number", 0, None)
    assert made.certificate.score["mae"] == pytest.approx(made.certificate.score_before["mae"], rel=1e-2)
    assert Certificate.read(tmp_path / f"{out.name}.certificate.json") == made.certificate
    assert "no numbers differ, numbers by" in str(made)
    assert "Gives a number for a photo: brightness." in (tmp_path / f"{out.name}.md").read_text()
    (before,), (after,) = predict(head, a_photo(folder)), predict(out, a_photo(folder))
    assert after.number == pytest.approx(before.number, rel=1e-2 if to in ("savedmodel", "onnx") else 1e-4)
    assert verify_export(out, data=folder / "photos").verdict == "whole"
    assert "brightness" in str(info(out))
    again = evaluate(out, folder / "bright.h5", split="test")
    assert again.mae == pytest.approx(made.certificate.score["mae"], rel=1e-2)


def test_a_model_that_gives_other_numbers_is_not_kept(folder: Path, tmp_path: Path, monkeypatch):
    from onepass.heads.export import export_source

    head = number_head(folder, "ridge")
    true = export_source.HeadSource.expected
    monkeypatch.setattr(export_source.HeadSource, "expected", lambda self, positions: true(self, positions) * 1.02)
    with pytest.raises(ExportError, match="held-out images get another number than by the cached way; none may"):
        export(head, to="onnx", features=folder / "bright.h5", data=folder / "photos", out=tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_head_of_numbers_is_whole(folder: Path):
    assert verify(number_head(folder, "ridge")).verdict == "whole"
