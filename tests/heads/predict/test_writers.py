import contextlib
import csv
import json
import os
import sys
from pathlib import Path

import pytest

from onepass.features import SkippedImage
from onepass.features.errors import OptionError, OutputError
from onepass.features.names import shown
from onepass.heads.predict.told import Prediction, ranked_columns
from onepass.heads.predict.writers import open_answers, write_answers

ANSWERS = [
    Prediction("a.jpg", [("cat", 0.75), ("dog", 0.25)], unknown=False),
    SkippedImage("b, c.jpg", "empty file"),
    Prediction("d.jpg", [("dog", 0.5), ("cat", 0.5)], unknown=True),
]
ROWS = [
    {"path": "a.jpg", "class": "cat", "probability": 0.75, "class_2": "dog", "probability_2": 0.25, "unknown": False},
    {"path": "b, c.jpg", "skipped": "empty file"},
    {"path": "d.jpg", "class": "dog", "probability": 0.5, "class_2": "cat", "probability_2": 0.5, "unknown": True},
]


def written(path: Path) -> Path:
    with open_answers(str(path), ranked_columns(2, unknown=True)) as writer:
        write_answers(ANSWERS, writer)
        assert (writer.predicted, writer.skipped) == (2, [ANSWERS[1]])
    return path


def test_a_csv_has_a_row_per_image_in_order(tmp_path: Path):
    with open(written(tmp_path / "x.csv"), newline="") as file:
        found = list(csv.DictReader(file))
    for row, wanted in zip(found, ROWS, strict=True):
        texts = {name: str(value) for name, value in wanted.items()}
        texts["unknown"] = {"False": "no", "True": "yes"}.get(texts.get("unknown", ""), "")
        assert row == dict.fromkeys(row, "") | texts


def test_json_is_one_object_and_jsonl_one_per_line(tmp_path: Path):
    whole = json.loads(written(tmp_path / "x.json").read_text())
    assert [p["path"] for p in whole["predictions"]] == ["a.jpg", "d.jpg"]
    assert whole["predictions"][1]["top"][1] == {"class": "cat", "probability": 0.5}
    assert whole["skipped"] == [{"path": "b, c.jpg", "reason": "empty file"}]
    lines = [json.loads(line) for line in written(tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines == [whole["predictions"][0], *whole["skipped"], whole["predictions"][1]]


def test_parquet_is_the_same_table(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(written(tmp_path / "x.parquet")).to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == ROWS


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_no_answers_make_an_empty_file_of_the_kind(ending: str, tmp_path: Path):
    path = tmp_path / f"x.{ending}"
    with open_answers(str(path), ranked_columns(1, unknown=False)):
        pass
    if ending == "json":
        assert json.loads(path.read_text()) == {"predictions": [], "skipped": []}
    elif ending == "parquet":
        assert pytest.importorskip("pyarrow.parquet").read_table(path).num_rows == 0
    else:
        assert path.read_text() == {"csv": "path,class,probability,skipped\n", "jsonl": ""}[ending]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_names_that_are_not_utf8_are_escaped_alike_in_every_format(ending: str, tmp_path: Path):
    path, odd = tmp_path / f"x.{ending}", os.fsdecode(b"f\xff.jpg")
    with open_answers(str(path), ranked_columns(1, unknown=False)) as writer:
        writer.take(Prediction(odd, [("cat", 1.0)]))
    if ending == "parquet":
        assert pytest.importorskip("pyarrow.parquet").read_table(path)["path"].to_pylist() == [shown(odd)]
    else:
        assert (json.dumps(shown(odd)) if "json" in ending else shown(odd)) in path.read_text()


def test_a_file_has_its_name_when_it_is_complete(tmp_path: Path):
    with open_answers(str(tmp_path / "x.jsonl"), ranked_columns(2, unknown=True)) as writer:
        writer.take(ANSWERS[0])
        assert not (tmp_path / "x.jsonl").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_file_without_end_can_be_followed_and_stays_as_far_as_it_got(tmp_path: Path):
    def fail() -> None:
        with open_answers(str(tmp_path / "x.jsonl"), ranked_columns(2, unknown=True), follow=True) as writer:
            writer.take(ANSWERS[0])
            assert json.loads((tmp_path / "x.jsonl").read_text())["path"] == "a.jpg"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert json.loads((tmp_path / "x.jsonl").read_text())["path"] == "a.jpg"


def test_what_took_the_name_meanwhile_is_not_overwritten(tmp_path: Path):
    answering = open_answers(str(tmp_path / "x.csv"), ranked_columns(2, unknown=True))
    answering.__enter__().take(ANSWERS[0])
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(OptionError, match=r"x.csv exists and is not overwritten. Choose another name"):
        answering.__exit__(None, None, None)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("x.csv", "mine")]


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch):
    full = open("/dev/full", "w")
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(OutputError) as caught, open_answers("text", ranked_columns(2, unknown=True)) as writer:
        writer.take(ANSWERS[0])
    assert str(caught.value) == (
        "cannot write /dev/full: No space left on device. Make room there, or choose another place with out."
    )
    with contextlib.suppress(OSError):
        full.close()


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("follow", [False, True])
def test_a_run_that_failed_leaves_no_file(ending: str, answered: int, follow: bool, tmp_path: Path):
    def fail() -> None:
        with open_answers(str(tmp_path / f"x.{ending}"), ranked_columns(2, unknown=True), follow=follow) as writer:
            write_answers(ANSWERS[:answered], writer)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(list(tmp_path.iterdir())) == (answered if follow else 0)


def test_a_bare_format_goes_to_stdout(capsys: pytest.CaptureFixture[str]):
    with open_answers("csv", ranked_columns(1, unknown=False)) as writer:
        writer.take(Prediction("a.jpg", [("cat", 1.0)]))
    with open_answers("text", ranked_columns(1, unknown=True)) as writer:
        write_answers(ANSWERS, writer)
    assert capsys.readouterr().out == (
        "path,class,probability,skipped\na.jpg,cat,1.0,\n"
        "a.jpg  cat 0.750  dog 0.250\nd.jpg  unknown (dog 0.500  cat 0.500)\n"
    )
    assert not sys.stdout.closed


def test_wrong_places_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken = written(tmp_path / "x.csv")
    cases = {
        str(taken): f"{taken} exists and is not overwritten. Choose another name with out, or delete it.",
        "new.xlsx": "out='new.xlsx' ends in neither .csv, .json, .jsonl nor .parquet; give it one of these endings, "
        "or csv, json or jsonl alone for stdout.",
        "x.text": "out='x.text' ends in neither .csv, .json, .jsonl nor .parquet; give it one of these endings, "
        "or csv, json or jsonl alone for stdout.",
        "parquet": "Parquet is no text for stdout; give a file name that ends in .parquet.",
        f"{tmp_path}/none/x.csv": f"the folder of out='{tmp_path}/none/x.csv' does not exist. Make it, or name another "
        "one.",
        f"{taken}/x.csv": f"the folder of out='{taken}/x.csv' does not exist. Make it, or name another one.",
    }
    for target, message in cases.items():
        with (
            pytest.raises((OptionError, OutputError)) as caught,
            open_answers(target, ranked_columns(1, unknown=False)),
        ):
            raise AssertionError
        assert str(caught.value) == message
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r'Run: pip install "onepass\[parquet\]". Or write .csv.$'):
        open_answers(str(tmp_path / "x.parquet"), ranked_columns(1, unknown=False))
