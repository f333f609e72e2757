"""Heads of other tasks than classes, from image files: predicted, written, explained."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import evaluate, nearest, predict, verify
from onepass.features.errors import TrainingError
from onepass.heads import fine_tune
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
    with pytest.raises(TrainingError, match="gives numbers, and the folders of .*photos name classes"):
        evaluate(head_of(folder, "bright", "ridge"), folder / "photos")
    with pytest.raises(TrainingError, match="gives numbers, and the images of .*classes.h5 have classes"):
        evaluate(head_of(folder, "bright", "ridge"), folder / "classes.h5")


def test_fine_tuning_is_for_classes(folder: Path):
    with pytest.raises(TrainingError, match="fine-tuning is for one class per image; .*bright.h5 holds brightness"):
        fine_tune(head_of(folder, "bright", "ridge"), out=folder / "x.keras")


def test_a_head_of_numbers_is_whole(folder: Path):
    assert verify(head_of(folder, "bright", "ridge")).verdict == "whole"
