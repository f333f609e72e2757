"""Images that a table names or holds are scored and predicted as those of a folder are."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from onepass import evaluate, label, predict, train_head
from onepass.extract import Backbone, run_extraction
from onepass.features import OnepassWarning
from onepass.features.errors import DataError, OptionError, TrainingError
from onepass.heads.saved_head import load_head
from support import MakeFolder, run_program

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{note}") for note in ("of the columns of", r"\d+ images in photos have no row")
]

NAMES = [f"{name}/{i}.png" for name in ("cats", "dogs") for i in range(16)]


@pytest.fixture
def photos(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder({"cats": 16, "dogs": 16})


def table(*rows: tuple[object, ...], name: str = "t.csv") -> Path:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return Path(name)


@pytest.fixture
def head(photos: Path, tiny_backbone: Backbone) -> Path:
    path = run_extraction(photos, tiny_backbone, out="f.h5").path
    return train_head(path, head="ridge", out="f.head").head.path


def test_a_table_of_plain_columns_is_scored_as_its_folder(head: Path, photos: Path):
    """Its columns are guessed, and what of them is not needed stands in no one's way."""
    of_folder = evaluate(head, photos, split="all")
    rows = table(("file", "label", "camera"), *((n, n[:4], "x") for n in NAMES))
    found = evaluate(head, rows, images="photos", split="all")
    assert (found.n, found.accuracy, found.interval) == (32, of_folder.accuracy, of_folder.interval)
    unseen, wanted = evaluate(head, rows, images="photos"), evaluate(head, photos)
    assert (unseen.n, unseen.measured_on, unseen.accuracy) == (wanted.n, "unseen", wanted.accuracy)


def test_a_column_says_which_rows_are_the_test_part(head: Path):
    rows = table(("file", "kind", "part"), *((n, n[:4], "test" if n[5] in "0246" else "train") for n in NAMES))
    found = evaluate(head, rows, images="photos", path="file", label="kind", split="part")
    assert (found.n, found.measured_on) == (8, "test")
    folds = table(("file", "kind", "fold"), *((n, n[:4], n[5]) for n in NAMES))
    assert evaluate(head, folds, images="photos", path="file", label="kind", split="fold=7").n == 2
    with pytest.raises(OptionError, match=r"^split is 'part'; needed: auto, all, unseen or one of train, val, test\.$"):
        evaluate(head, "photos", split="part")


def test_what_the_training_said_of_a_table_need_not_be_said_again(photos: Path, tiny_backbone: Backbone):
    said = {"path": "{id}.png", "label": "kind", "split": "part"}
    rows = [(n[:-4], n[:4], "x", "test" if n[5] in "0246" else "train") for n in NAMES]
    first = table(("id", "kind", "more", "part"), *rows)
    done = run_extraction(first, tiny_backbone, images="photos", out="f.h5", **said)
    head = train_head(done.path, head="ridge", out="f.head").head.path
    of_rows, again = evaluate(head, done.path), evaluate(head, first)
    assert (again.n, again.accuracy, again.measured_on) == (of_rows.n, of_rows.accuracy, "test")
    # Of another table, whose images may lie elsewhere.
    other = table(("id", "kind", "more", "part"), *rows[:20], name="other.csv")
    assert evaluate(head, other, images="photos").n == sum(n[5] in "0246" for n in NAMES[:20])
    plain = table(("file", "label", "x"), *((n, n[:4], 1) for n in NAMES), name="plain.csv")
    assert evaluate(head, plain, images="photos", split="all").n == 32


def test_a_head_on_labels_that_came_later_is_scored_on_a_table_too(photos: Path, tiny_backbone: Backbone):
    done = run_extraction(photos, tiny_backbone, unlabelled=True, out="f.h5")
    rows = table(("file", "kind"), *((n, n[:4]) for n in NAMES))
    label(done.path, rows)
    head = train_head(done.path, head="ridge", out="f.head").head.path
    assert evaluate(head, rows, images="photos", split="all").n == 32


def test_numbers_and_several_labels_are_scored_from_images_too(photos: Path, tiny_backbone: Backbone):
    ages = table(("file", "age"), *((n, int(n[5]) / 3 + (n[0] == "c")) for n in NAMES), name="ages.csv")
    numbers = run_extraction(ages, tiny_backbone, images="photos", path="file", target="age", out="n.h5")
    head = train_head(numbers.path, head="ridge", out="n.head").head.path
    of_rows = evaluate(head, numbers.path, split="all")
    assert evaluate(head, ages, split="all").mae == pytest.approx(of_rows.mae, rel=1e-4)
    tags = table(("file", "tags"), *((n, "a b" if n[0] == "c" else "b" if n[5] == "1" else "c") for n in NAMES))
    several = {"images": "photos", "path": "file", "label": "tags", "label_separator": " "}
    labels = run_extraction(tags, tiny_backbone, out="l.h5", **several)
    head = train_head(labels.path, head="logreg", out="l.head").head.path
    of_rows = evaluate(head, labels.path, split="all")
    for found in (evaluate(head, tags, split="all"), evaluate(head, tags, split="all", **several)):
        assert found.scores == pytest.approx(of_rows.scores)
    # A label that none of these images has is not there to be named.
    few = table(("file", "tags"), *((n, "a b") for n in NAMES[:16]), name="few.csv")
    assert evaluate(head, few, split="all", **several).n == 16
    with pytest.raises(
        TrainingError, match=r"^l\.head gives several labels per image, and photos says 2 classes of it"
    ):
        evaluate(head, "photos")


def test_predictions_come_in_the_order_of_the_table(head: Path, photos: Path):
    named = [*NAMES[20:28], "gone.png", *NAMES[3:7], "notes.txt"]
    rows = table(("file", "note"), *((n, "") for n in named))
    with pytest.warns(OnepassWarning, match="2 of 14 images that t.csv names are not in photos, gone.png of line 10"):
        found = predict(head, rows, images_in="photos", path="file")
    assert [str(Path(one.path).relative_to("photos")) for one in found] == [*NAMES[20:28], *NAMES[3:7]]
    reasons = {Path(one.path).name: one.reason for one in found.skipped}
    assert reasons == {"gone.png": "no such file or directory", "notes.txt": "not an image by its name (.txt)"}
    by_name = {Path(one.path).name + Path(one.path).parent.name: one.top for one in predict(head, photos)}
    assert all(one.top == by_name[Path(one.path).name + Path(one.path).parent.name] for one in found)


def test_images_beside_a_table_are_found_and_those_in_parquet_read(head: Path, photos: Path):
    (photos / "t.csv").write_text("\n".join(["file", *NAMES]))
    assert len(predict(head, photos / "t.csv")) == 32
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [(photos / n).read_bytes() for n in NAMES]}), "p.parquet")
    found = predict(head, "p.parquet")
    assert [one.path for one in found][:2] == ["p.parquet, 00000000", "p.parquet, 00000001"]
    np.testing.assert_allclose([one.top[0][1] for one in found], [one.top[0][1] for one in predict(
        head, [photos / n for n in NAMES])], rtol=1e-5)  # fmt: skip


def test_a_table_that_cannot_be_meant_is_told_before_anything_is_computed(head: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(load_head(head)), "load_backbone", lambda *args, **options: pytest.fail("too early"))
    with pytest.raises(
        DataError, match=r"^nobody says what the labels in t\.csv are: one of a, b\. Name the column by"
    ):
        evaluate(head, table(("file", "a", "b"), *((n, 1, 2) for n in NAMES)), images="photos")
    with pytest.raises(
        DataError, match=r"^t\.csv has the class 'rats', which the head does not know; it knows cats, d"
    ):
        evaluate(head, table(("file", "kind"), (NAMES[0], "cats"), (NAMES[1], "rats")), images="photos")


def test_the_shell_takes_a_table_as_it_takes_a_folder(head: Path, tmp_path: Path):
    table(("id", "kind"), *((n[:-4], n[:4]) for n in NAMES))
    naming = ("--images", "photos", "--path", "{id}.png")
    asked = ("t.csv", *naming, "--label", "kind", "--split", "all", "--json")
    done = run_program("onepass", "evaluate", "f.head", *asked, cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["n"]) == (0, 32), done.stderr
    done = run_program("onepass", "predict", "f.head", "t.csv", *naming, "--out", "p.csv", cwd=tmp_path)
    assert done.stdout == "p.csv: 32 images predicted, 0 skipped\n", done.stderr
    done = run_program("onepass", "evaluate", "f.head", "t.csv", "--images", "nowhere", cwd=tmp_path)
    assert done.stderr.startswith("error: nowhere is not there; needed: a folder of images."), done.stderr


def test_columns_are_no_matter_of_a_feature_file(head: Path):
    with pytest.raises(OptionError, match=r"^label belongs to a table, and f\.h5 is none\. Leave it out\.$"):
        evaluate(head, "f.h5", label="kind")
