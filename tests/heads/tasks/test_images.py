"""Heads of other tasks than classes, from image files: predicted, written, explained."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import evaluate, load_head, nearest, predict, verify, write_predictions
from onepass.features.errors import TrainingError
from onepass.heads import fine_tune
from onepass.heads.head_options import HEADS_OF, USUAL_HEAD
from onepass.heads.stats.metrics import METRICS_OF
from support import run_program
from task_files import a_photo, head_of


def test_numbers_are_predicted_with_an_interval(folder: Path):
    head = head_of(folder, "bright", "ridge")
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
    head, photos = head_of(folder, "bright", "ridge"), folder / "photos" / "test" / "ant"
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
    found = nearest(head_of(folder, "bright", "ridge"), a_photo(folder), k=2)
    assert [0 < float(one.label) < 255 for one in found] == [True, True]


def test_class_folders_are_no_numbers(folder: Path):
    with pytest.raises(TrainingError, match="gives numbers, and .*photos says . classes of its images"):
        evaluate(head_of(folder, "bright", "ridge"), folder / "photos")
    with pytest.raises(TrainingError, match="gives numbers, and the images of .*classes.h5 have classes"):
        evaluate(head_of(folder, "bright", "ridge"), folder / "classes.h5")


def test_fine_tuning_is_for_classes(folder: Path):
    with pytest.raises(TrainingError, match="fine-tuning is for one class per image; .*bright.h5 holds brightness"):
        fine_tune(head_of(folder, "bright", "ridge"), out=folder / "x.keras")


def test_a_head_of_numbers_is_whole(folder: Path):
    assert verify(head_of(folder, "bright", "ridge")).verdict == "whole"


def test_labels_are_predicted_with_the_probability_of_each(folder: Path):
    head = load_head(head_of(folder, "looks", "logreg"))
    for found in predict(head, folder / "photos" / "test"):
        p = head.predict_proba([found.path])[0]
        assert list(found.probabilities) == ["bright", "ant", "insect"]
        assert list(found.probabilities.values()) == pytest.approx(p.tolist())
        named = [
            name for name, value, start in zip(found.probabilities, p, head.thresholds, strict=True) if value >= start
        ]
        assert found.labels == sorted(named, key=lambda name: -found.probabilities[name])
        words = "  ".join(f"{name} {found.probabilities[name]:.3f}" for name in found.labels) or "no label"
        assert str(found) == f"{found.path}  {words}"
        assert found.record() == {"path": found.path, "labels": found.labels, "probabilities": found.probabilities}
    assert {tuple(sorted(found.labels)) for found in predict(head, folder / "photos" / "test")} > {()}
    one, several = (predict(head, a_photo(folder), views=views)[0] for views in (1, 3))
    assert one.probabilities != several.probabilities
    assert "insect" in predict(head, a_photo(folder))._repr_html_()


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_labels_are_written(ending: str, folder: Path, tmp_path: Path):
    head, photos = head_of(folder, "looks", "logreg"), folder / "photos" / "test"
    out = tmp_path / f"x.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "broken.jpg").write_bytes(b"")
    write_predictions(head, [photos, tmp_path / "broken.jpg"], out=str(out), unknown=0.2)
    expected = list(predict(head, photos, unknown=0.2))
    names = ["bright", "ant", "insect"]
    if ending in ("csv", "parquet"):
        if ending == "csv":
            rows = list(csv.DictReader(out.read_text().splitlines()))
        else:
            import pyarrow.parquet as pq

            rows = pq.read_table(out).to_pylist()
            assert {type(row["probability_ant"]) for row in rows[:-1]} == {float}
        assert list(rows[0]) == ["path", "labels", *(f"probability_{name}" for name in names), "unknown", "skipped"]
        assert rows[-1]["skipped"] == "empty file"
        for row, one in zip(rows, expected, strict=False):
            assert row["labels"] == ", ".join(one.labels)
            assert [float(row[f"probability_{name}"]) for name in names] == pytest.approx(
                list(one.probabilities.values())
            )
            assert row["unknown"] == (one.unknown if ending == "parquet" else ["no", "yes"][one.unknown])
        assert len(rows) == len(expected) + 1
        return
    text = out.read_text()
    if ending == "json":
        rows, skipped = (json.loads(text)[part] for part in ("predictions", "skipped"))
    else:
        *rows, skip = map(json.loads, text.splitlines())
        skipped = [skip]
    assert rows == [one.record() for one in expected]
    assert [one["reason"] for one in skipped] == ["empty file"]


def test_the_command_says_labels_in_a_line_each(folder: Path):
    head, photo = head_of(folder, "looks", "logreg"), a_photo(folder)
    done = run_program("onepass", "predict", str(head), str(photo), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(predict(head, photo)[0])


def test_the_nearest_images_are_named_with_their_labels(folder: Path):
    found = nearest(head_of(folder, "looks", "logreg"), a_photo(folder), k=5)
    assert {name for one in found for name in one.label.split(", ") if name} <= {"bright", "ant", "insect"}
    assert any("insect" in one.label for one in found)


def test_what_needs_one_class_per_image_is_refused_with_what_to_do(folder: Path):
    head = head_of(folder, "looks", "logreg")
    with pytest.raises(
        TrainingError, match="gives several labels per image, and .*photos says . classes of its images"
    ):
        evaluate(head, folder / "photos")
    with pytest.raises(
        TrainingError, match="gives several labels per image, and the images of .*bright.h5 have numbers"
    ):
        evaluate(head, folder / "bright.h5")
    with pytest.raises(
        TrainingError, match=r"one class per image; .*looks.h5 holds 3 labels. Train a head on its rows"
    ):
        fine_tune(head, out=folder / "x.keras")


def test_a_head_of_labels_is_whole(folder: Path):
    assert verify(head_of(folder, "looks", "logreg")).verdict == "whole"


@pytest.mark.parametrize(("command", "option"), [("train-head", "--head"), ("compare-heads", "--metric")])
def test_the_help_names_what_each_task_takes(command: str, option: str, tmp_path: Path):
    text = " ".join(run_program(command, "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    start = text.index(f"{option} <str>")
    told = text[start : text.index(" --", start + len(option))]
    known = HEADS_OF if option == "--head" else METRICS_OF
    parts = dict(zip(known, told.split(";"), strict=True))
    for task, names in known.items():
        assert [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", parts[task])] == []
        assert f"{USUAL_HEAD[task] if option == '--head' else names[0]} (default)" in parts[task]
