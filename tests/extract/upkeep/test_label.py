"""Labels from a table on rows that are there: no image is read, nothing else changes, and later runs keep them."""

import csv
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.extract import Backbone, repair, run_extraction, verify
from onepass.extract.upkeep.label import label
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError
from onepass.features.layout import Extent
from support import MakeFolder, flip_bit, write_folder

NAMES = [f"{name}/{i}.png" for name in ("cats", "dogs") for i in range(10)]


@pytest.fixture
def photos(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder({"cats": 10, "dogs": 10})


@pytest.fixture
def bare(photos: Path, tiny_backbone: Backbone) -> Path:
    return run_extraction(photos, tiny_backbone, unlabelled=True, out="f.h5").path


def table(rows: list[tuple[object, ...]], name: str = "t.csv") -> Path:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return Path(name)


def breeds(*, without: tuple[str, ...] = ()) -> Path:
    return table([("file", "breed"), *((name, name[:4]) for name in NAMES if name not in without)])


def rows_of(path: Path) -> np.ndarray:
    with FeatureFile(path) as file:
        return np.array(file.rows)


def values(path: Path) -> dict[str, object]:
    with FeatureFile(path) as file:
        return dict(zip(file.table.paths, file.table.label_values(), strict=True))


def test_labels_splits_and_rows_are_those_of_the_folders(bare: Path, photos: Path, tiny_backbone: Backbone):
    shutil.move(photos, "away")
    before = rows_of(bare)
    done = label(bare, breeds())
    assert (done.images, done.changed, done.unlabelled, done.drawn_split) == (20, 20, 0, True)
    np.testing.assert_array_equal(rows_of(bare), before)
    assert verify(bare, golden=False).integrity.damage == []
    folder = run_extraction("away", tiny_backbone, out="folder.h5")
    with FeatureFile(bare) as one, FeatureFile(folder.path) as other:
        assert one.class_names == other.class_names
        np.testing.assert_array_equal(one.table.labels, other.table.labels)
        np.testing.assert_array_equal(one.table.splits, other.table.splits)
        np.testing.assert_array_equal(one.copies, other.copies)


def test_later_runs_keep_the_labels_and_new_images_have_none(bare: Path, photos: Path, tiny_backbone: Backbone):
    label(bare, breeds(without=("cats/3.png",)))
    before = values(bare)
    write_folder(photos / "more", {"x": 2}, seed=5)
    (photos / "cats" / "0.png").rename(photos / "renamed.png")
    again = run_extraction(photos, tiny_backbone, unlabelled=True, out=bare)
    assert again.computed == 2
    after = values(bare)
    assert after.pop("renamed.png") == before.pop("cats/0.png") == "cats"
    assert after["cats/3.png"] is None
    assert [after.pop(f"more/x/{i}.png") for i in range(2)] == [None, None]
    assert after == before


def test_a_correction_of_class_folders_stays_too(photos: Path, tiny_backbone: Backbone):
    path = run_extraction(photos, tiny_backbone, out="f.h5").path
    fixes = table([
        ("kind", "path", "split", "class", "other", "value", "reason"),
        ("near duplicate", "cats/1.png", "train", "cats", "cats/2.png", "0.99", ""),
        ("label", "cats/3.png", "train", "dogs", "dogs", "0.1", "kNN"),
        ("label", "cats/4.png", "train", "cats", "dogs", "0.1", "kNN"),
    ])  # fmt: skip
    done = label(path, relabel=fixes)
    assert (done.changed, done.unlabelled) == (1, 0)
    assert values(path)["cats/3.png"] == "dogs"
    write_folder(photos, {"birds": 3}, seed=7)
    assert run_extraction(photos, tiny_backbone, out=path).computed == 3
    assert values(path)["cats/3.png"] == "dogs"
    assert values(path)["birds/0.png"] == "birds"
    assert {name: value for name, value in values(path).items() if name[:4] in ("cats", "dogs")} == {
        name: "dogs" if name == "cats/3.png" else name[:4] for name in NAMES
    }


def test_splits_groups_and_weights_of_the_named_images_alone(bare: Path):
    rows = [(name, name[:4], "test" if name[5] in "12" else "train", f"g{name[5]}", 2) for name in NAMES[:12]]
    done = label(
        bare,
        table([("file", "breed", "part", "owner", "w"), *rows]),
        label="breed",
        split="part",
        group="owner",
        weight="w",
    )
    assert (done.drawn_split, done.unlabelled) == (False, 8)
    with FeatureFile(bare) as file:
        assert file.table.splits.tolist() == [2 if n in NAMES[:12] and n[5] in "12" else 0 for n in NAMES]
        assert file.table.groups == tuple(f"g{n[5]}" if n in NAMES[:12] else "" for n in NAMES)
        assert file.table.weights.tolist() == [2.0] * 12 + [1.0] * 8
        assert len(file.rows_of("train")) + len(file.rows_of("test")) == 12


def test_numbers_and_several_labels(bare: Path):
    done = label(bare, table([("file", "age"), *((n, int(n[5]) / 2) for n in NAMES)]), target="age")
    assert (done.task, done.labels) == ("number", "age (0 to 4.5, 2.25 on average)")
    assert values(bare)["dogs/3.png"] == 1.5
    tags = table([("file", "tags"), *((n, "a b" if n[0] == "c" else "b") for n in NAMES)])
    assert label(bare, tags, label="tags", label_separator=" ").labels == "2 labels (a 10, b 20)"
    more = table([("path", "tags"), ("cats/0.png", "c")])
    assert label(bare, relabel=more, label="tags", label_separator=" ").labels == "3 labels (a 9, b 19, c 1)"
    assert values(bare)["cats/0.png"] == ("c",)
    assert values(bare)["cats/1.png"] == ("a", "b")


@pytest.mark.parametrize(("rows", "options", "message"), [
    ([("file", "breed"), ("x.png", "a")], {}, "no column of t.csv names images that are there"),
    ([("file", "breed"), ("x.png", "a")], {"path": "file"}, "none of the 1 images that t.csv names is in f.h5, x.png"),
    ([("file", "breed"), ("cats/0.png", "a")], {}, "has only one class, a in column breed"),
    ([("file", "breed")], {}, "t.csv has no rows"),
])  # fmt: skip
def test_a_table_that_does_not_fit_changes_nothing(bare: Path, rows: list, options: dict, message: str):
    before = bare.read_bytes()
    with pytest.raises(DataError, match=message):
        label(bare, table(rows), **options)
    assert bare.read_bytes() == before


def test_a_correction_to_an_unknown_class_is_refused(photos: Path, tiny_backbone: Backbone):
    path = run_extraction(photos, tiny_backbone, out="f.h5").path
    with pytest.raises(DataError, match=r"t.csv, line 2, column class: 'cast'; did you mean cats\.$"):
        label(path, relabel=table([("path", "class"), ("dogs/0.png", "cast")]))


def test_one_table_is_needed(bare: Path):
    for tables in ({}, {"table": "a.csv", "relabel": "b.csv"}):
        with pytest.raises(OptionError, match="needed: a table of labels, or one of corrections with relabel"):
            label(bare, **tables)


@pytest.mark.parametrize("name", ["labels", "paths", "splits", "content_hashes"])
def test_a_damaged_entry_gets_the_label_it_was_given_and_not_that_of_its_folder(
    photos: Path, tiny_backbone: Backbone, tiny_file: Path, name: str
):
    path = run_extraction(photos, tiny_backbone, out="f.h5").path
    label(path, relabel=table([("path", "class"), ("cats/3.png", "dogs")]))
    before = values(path)
    with FeatureFile(path) as file:
        width = file.stored(name)[:1].nbytes
    flip_bit(path, name, byte=3 * width)
    assert repair(path, weights=str(tiny_file)).dropped == 0
    assert values(path) == before


def given(kind: str, *, name: str = "t.csv") -> tuple[Path, dict[str, str]]:
    """A table that gives each image numbers, several labels or a weight, and what its columns mean."""
    if kind == "numbers":
        return table([("file", "age"), *((n, int(n[5]) / 7) for n in NAMES)], name), {"target": "age"}
    if kind == "labels":
        tags = [(n, "a b" if n[5] in "13" else "b" if n[5] in "24" else "c") for n in NAMES]
        return table([("file", "tags"), *tags], name), {"label": "tags", "label_separator": " "}
    weights = [(n, n[:4], 1 + int(n[5]) / 3) for n in NAMES]
    return table([("file", "breed", "counts"), *weights], name), {"label": "breed", "weight": "counts"}


def entries(path: Path) -> list[tuple]:
    with FeatureFile(path) as file:
        found = zip(file.table.paths, file.table.label_values(), file.splits, file.table.weights.tolist(), strict=True)
        return list(found)


def overwrite(path: Path, name: str, position: int) -> None:
    """Damage to all that one image has in a column."""
    with h5py.File(path) as file:
        extent = Extent.of(file, name)
    width = extent.size // extent.shape[0]
    with open(path, "r+b") as raw:
        raw.seek(extent.offset + position * width)
        raw.write(bytes(range(7, 7 + width)))


COLUMNS = ["targets", "weights", "labels", "paths", "splits", "content_hashes", "entry_checksums"]


@pytest.mark.parametrize("damage", ["a bit", "all"])
@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["numbers", "labels", "weights"])
def test_a_damaged_entry_keeps_what_a_table_gave_it(kind: str, name: str, damage: str, bare: Path, tiny_file: Path):
    rows, columns = given(kind)
    label(bare, rows, **columns)
    before = entries(bare)
    with FeatureFile(bare) as file:
        if name not in file.extents:
            pytest.skip("files of this kind have no such column")
        width = file.stored(name)[:1].nbytes
    if damage == "all":
        overwrite(bare, name, 13)
    else:
        flip_bit(bare, name, byte=13 * width + width // 2)

    done = repair(bare, weights=str(tiny_file))

    assert (done.dropped, done.left) == (0, ())
    assert entries(bare) == before
    assert verify(bare, golden=False).integrity.damage == []


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_corrections_are_read_again_too_and_outlast_another_run(
    kind: str, bare: Path, photos: Path, tiny_file: Path, tiny_backbone: Backbone
):
    rows, columns = given(kind)
    label(bare, rows, **columns)
    fixed = {"numbers": ("age", 77.5), "labels": ("tags", "a c")}[kind]
    label(bare, relabel=table([("path", fixed[0]), (NAMES[13], fixed[1])], "fixes.csv"), **columns)
    run_extraction(photos, tiny_backbone, unlabelled=True, out=bare)
    before = entries(bare)
    assert before[13][1] == {"numbers": 77.5, "labels": ("a", "c")}[kind]
    overwrite(bare, "targets", 13)
    assert repair(bare, weights=str(tiny_file)).dropped == 0
    assert entries(bare) == before


def test_corrections_of_a_number_may_stand_in_a_column_of_any_name(bare: Path):
    rows, columns = given("numbers")
    label(bare, rows, **columns)
    done = label(bare, relabel=table([("path", "right"), (NAMES[13], 77.5)], "fixes.csv"), target="right")
    assert done.changed == 1
    with FeatureFile(bare) as file:
        assert file.table.class_names == ("age",)
    assert entries(bare)[13][1] == 77.5


@pytest.mark.parametrize("lost", ["gone", "changed"])
def test_a_number_that_nothing_tells_any_more_leaves_the_file(lost: str, bare: Path, tiny_file: Path):
    """It is not guessed, nor taken from a table that says something else now."""
    rows, columns = given("numbers")
    label(bare, rows, **columns)
    overwrite(bare, "targets", 4)
    if lost == "gone":
        rows.unlink()
    else:
        rows.write_text(rows.read_text().replace(f"{NAMES[4]},", f"{NAMES[4]},9"))
    assert repair(bare, weights=str(tiny_file)).dropped == 1
    assert NAMES[4] not in values(bare)
    assert verify(bare, golden=False).integrity.damage == []
