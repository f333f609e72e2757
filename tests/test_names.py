"""Hostile names of files and classes through every command: no control character, no forged line, no name lost."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from onepass.features import FeatureFile
from onepass.features.names import unshown
from support import run_program, write_folder

FORGED = "new.png  cats 1.000"
CLASSES = ("cats", f"do\x1b[2Kgs\n{FORGED}", os.fsdecode(b"bees \xff"))
FILES = (
    f"a\n{FORGED}.png",
    "b\x1b[31m\r.png",
    os.fsdecode(b"caf\xe9.png"),
    "\u202egnp.evil.png",
    "back\\x0aslash.png",
    "é.png",
)
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    place = tmp_path_factory.mktemp("names")
    write_folder(place / "plain", {"a": 8, "b": 8, "c": 8})
    for number, name in enumerate(CLASSES):
        try:
            (place / "photos" / name).mkdir(parents=True)
        except OSError:
            pytest.skip("this file system takes no names that are not UTF-8")
        for i, image in enumerate(sorted((place / "plain" / "abc"[number]).iterdir())):
            target = FILES[i] if i < len(FILES) else image.name
            shutil.copy(image, place / "photos" / name / target)
    (place / "new").mkdir()
    for name, image in zip(FILES, sorted((place / "plain" / "a").iterdir()), strict=False):
        shutil.copy(image, place / "new" / name)
    (place / "new" / "broken\n.png").write_bytes(b"no image")
    shutil.copy(tiny_file, place / "tiny.keras")
    done = run_program("extract", "photos", "--backbone", "tiny.keras", "--out", "photos.h5", cwd=place)
    assert done.returncode == 0, done.stderr
    _check(done.stdout + done.stderr)
    done = run_program("train-head", "--head", "logreg", "--C", "1", "--out", "photos.head", cwd=place)
    assert done.returncode == 0, done.stderr
    _check(done.stdout + done.stderr)
    return place


def _check(text: str) -> None:
    """No control character but line ends, and no line that a name made up."""
    assert not _CONTROL.search(text), repr(text)
    assert not [line for line in text.splitlines() if line.startswith(FORGED)], text
    text.encode("utf-8")


COMMANDS = [
    ["info", "photos.h5"],
    ["info", "photos.head"],
    ["inspect", "photos.h5"],
    ["verify", "photos.h5"],
    ["verify", "photos.head"],
    ["repair", "photos.h5"],
    ["evaluate", "photos.head", "photos.h5"],
    ["evaluate", "photos.head", "photos"],
    ["predict", "photos.head", "new"],
    ["predict", "photos.head", "nothing\nhere\x1b.png"],
    ["nearest", "photos.head", f"new/{FILES[1]}"],
    ["shift", "photos.h5", "photos", "--head", "photos.head"],
    ["shift", "photos.h5", "new"],
    ["share", "photos.head", "--to", "projector", "--out", "map"],
    ["share", "photos.head", "--to", "fiftyone", "--out", "five\x1b\n"],
    ["share", "photos.head", "--to", "label-studio", "--out", "studio"],
    ["info", "nothing\nhere\x1b.h5"],
    ["export", "photos.head", "--to", "nothing\x1b[0m\nhere"],
    ["train-head", "nothing\nhere\udcff.h5"],
    ["extract", "photos", "--no\x1b[31mthing\n"],
    ["extract", "new\n\x1b", "-v"],
    ["evaluate", "photos.head", "photos", "-v"],
    ["not\x1b\nthing"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_prints_what_a_terminal_obeys(command: list[str], work: Path):
    for more in ([], ["--json"]):
        done = run_program("onepass", *command, *more, cwd=work)
        _check(done.stdout + done.stderr)
        if more and done.returncode == 0:
            json.dumps(json.loads(done.stdout)).encode("utf-8")
            _check_values(json.loads(done.stdout))


def _files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _check_values(value: object) -> None:
    if isinstance(value, dict):
        for name, one in value.items():
            _check(name)
            _check_values(one)
    elif isinstance(value, list):
        for one in value:
            _check_values(one)
    elif isinstance(value, str):
        _check(value)


def test_every_format_of_predictions_names_the_same_files(work: Path):
    there = {f"new/{name}" for name in _files(work / "new")}
    paths = {}
    for ending in ("csv", "json", "jsonl", "parquet"):
        done = run_program("onepass", "predict", "photos.head", "new", "--out", f"x.{ending}", cwd=work)
        assert done.returncode == 0, done.stderr
        paths[ending] = sorted(_paths(work / f"x.{ending}"))
    assert {unshown(path) for path in paths["csv"]} == there
    assert paths["csv"] == paths["json"] == paths["jsonl"] == paths["parquet"]


def _paths(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(file)["path"].to_pylist()
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        return [line["path"] for line in csv.DictReader(io.StringIO(text, newline=""))]
    if file.suffix == ".jsonl":
        return [json.loads(line)["path"] for line in text.splitlines()]
    found = json.loads(text)
    return [one["path"] for one in found["predictions"] + found["skipped"]]


def test_other_peoples_readers_take_what_is_written(work: Path):
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow.json")
    for ending in ("csv", "jsonl"):
        done = run_program("onepass", "predict", "photos.head", "new", "--out", f"y.{ending}", cwd=work)
        assert done.returncode == 0, done.stderr
    assert len(pandas.read_csv(work / "y.csv")) == len(_files(work / "new"))
    assert len(pandas.read_json(work / "y.jsonl", lines=True)) == len(_files(work / "new"))
    assert arrow.read_json(work / "y.jsonl").num_rows == len(_files(work / "new"))


def test_findings_are_written_with_the_names_of_the_rows(work: Path):
    shutil.copy(work / "photos" / "cats" / FILES[0], work / "photos" / "cats" / "copy\n.png")
    done = run_program("extract", "photos", "--backbone", "tiny.keras", "--out", "photos.h5", cwd=work)
    assert done.returncode == 0, done.stderr
    done = run_program("onepass", "inspect", "photos.h5", "--csv", "found.csv", cwd=work)
    assert done.returncode == 0, done.stderr
    (work / "photos" / "cats" / "copy\n.png").unlink()
    text = (work / "found.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    with FeatureFile(work / "photos.h5") as file:
        assert {unshown(row["path"]) for row in rows} <= set(file.paths)
    assert any(
        unshown(row["path"]).endswith("copy\n.png") or unshown(row["other"]).endswith("copy\n.png") for row in rows
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_list_of_names_may_be_from_windows(encoding: str, work: Path):
    names = ["plain\\a\\0.png", "new\\é.png", "plain\\b\\1.png"]
    done = run_program("onepass", "predict", "photos.head", "-", cwd=work, stdin="\r\n".join(names).encode(encoding))
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["plain/a/0.png", "new/é.png", "plain/b/1.png"]


def test_names_that_onepass_wrote_are_taken_back(work: Path):
    done = run_program("onepass", "predict", "photos.head", "new", "--out", "z.csv", cwd=work)
    assert done.returncode == 0, done.stderr
    listed = "\n".join(_paths(work / "z.csv"))
    again = run_program("onepass", "predict", "photos.head", "-", "--out", "z2.csv", cwd=work, stdin=listed)
    assert again.returncode == 0, again.stderr
    assert (work / "z.csv").read_text() == (work / "z2.csv").read_text()


@pytest.mark.parametrize("strict", [[], ["--strict"]])
def test_every_name_that_was_given_is_answered_or_listed(strict: list[str], work: Path, tmp_path: Path):
    shutil.copy(work / "plain" / "a" / "0.png", tmp_path / "good.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    names = ["good.png", "notes.txt", "empty", "missing.png"]
    (tmp_path / "sub").mkdir()
    shutil.copy(tmp_path / "good.png", tmp_path / "sub" / "x.png")
    (tmp_path / "sub" / "x.xmp").write_text("x")
    done = run_program("onepass", "predict", str(work / "photos.head"), *names, "sub", *strict, cwd=tmp_path)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["good.png", "sub/x.png"]
    first, *others = done.stderr.splitlines()
    assert first.startswith("skipped notes.txt: not an image")
    assert others[:3] == [
        "skipped empty: a folder without images",
        "skipped missing.png: no such file or directory",
        "skipped sub/x.xmp: not an image by its name (.xmp)",
    ]
    assert done.returncode == (1 if strict else 0)
