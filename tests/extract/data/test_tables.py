"""Tables as sources: what they say is what the file holds, and what they cannot mean is refused by row and column."""

import csv
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import Backbone, repair, run_extraction
from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.source import Source, check_source, scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.upkeep.verify import verify
from onepass.features import FeatureFile, OnepassWarning
from onepass.features.errors import DataError, OptionError, UserError
from support import MakeFolder, flip_bit, run_process

NAMES = ["cats/0.png", "cats/1.png", "cats/2.png", "dogs/0.png", "dogs/1.png", "dogs/2.png"]


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    return make_folder({"cats": 3, "dogs": 3})


def table(photos: Path, text: str, name: str = "t.csv") -> Path:
    path = photos.parent / name
    path.write_text(text)
    return path


def opened(path: Path, /, **options: object) -> Source:
    return open_source(path, SourceOptions.of({"images": "photos", **options}))


@pytest.fixture(autouse=True)
def _beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(*columns: str, rows: Callable[[str], tuple[object, ...]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows((name, *rows(name)) for name in NAMES)
    return out.getvalue()


BREEDS = lines("file", "breed", rows=lambda name: (name.partition("/")[0],))


@pytest.mark.parametrize("form", ["csv", "excel", "tsv", "utf-16", "sep", "jsonl", "json", "parquet", "windows"])
def test_every_form_of_table_says_the_same_as_the_folders(photos: Path, form: str):
    rows = [dict(zip(("file", "breed"), line.split(","), strict=True)) for line in BREEDS.splitlines()[1:]]
    path = (
        photos.parent / f"t.{ {'tsv': 'tsv', 'jsonl': 'jsonl', 'json': 'json', 'parquet': 'parquet'}.get(form, 'csv') }"
    )
    if form == "parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = {
            "csv": BREEDS,
            "excel": "\ufeff" + BREEDS.replace(",", ";").replace("\n", "\r\n"),
            "tsv": BREEDS.replace(",", "\t"),
            "utf-16": BREEDS,
            "sep": "sep=;\n" + BREEDS.replace(",", ";"),
            "jsonl": "\n".join(map(json.dumps, rows)),
            "json": json.dumps(rows),
            "windows": BREEDS.replace("/", "\\"),
        }[form]
        path.write_bytes(text.encode("utf-16" if form == "utf-16" else "utf-8"))
    found, wanted = scan_source(opened(path)).table, scan_source(open_source(photos)).table
    assert found.same_entries(wanted)
    assert found.task == "classes"


def test_what_is_guessed_is_said_once(photos: Path):
    source = opened(table(photos, BREEDS))
    with pytest.warns(OnepassWarning, match=r"t.csv, file names the images and breed is their label\.$"):
        check_source(source)
    assert opened(table(photos, BREEDS), path="file", label="breed").notes == ()


def test_names_without_endings_and_patterns_of_several_columns(photos: Path):
    text = "folder,id,breed\n" + "".join(f"{n.split('/')[0]},{n[5:-4]},{n[:3]}\n" for n in NAMES)
    found = opened(table(photos, text), path="{folder}/{id}.png", label="breed")
    assert list(found.table.paths) == NAMES
    for i, name in enumerate(NAMES):
        shutil.copy(photos / name, photos / f"i{i}.png")
    text = "id,breed\n" + "".join(f"i{i},{name[:3]}\n" for i, name in enumerate(NAMES))
    found = opened(table(photos, text))
    assert found.table.paths[0] == "i0.png"
    assert "{id}.png names the images" in found.notes[0]


def test_splits_groups_and_weights(photos: Path):
    said = {"0": "train", "1": "valid", "2": "Test"}
    text = lines(
        "file", "breed", "part", "owner", "w",
        rows=lambda n: (n[:4], said[n[5]], f"owner {n[5]}", 1 + int(n[5])),
    )  # fmt: skip
    found = scan_source(opened(table(photos, text), label="breed", split="part", group="owner", weight="w"))
    assert not found.drawn
    assert found.table.splits.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.table.groups[:3] == ("owner 0", "owner 1", "owner 2")
    assert found.table.weights.tolist() == [1, 2, 3, 1, 2, 3]


def test_a_fold_can_be_the_test_part(photos: Path):
    text = lines("file", "breed", "fold", rows=lambda n: (n[:4], n[5]))
    found = opened(table(photos, text), label="breed", split="fold=1,2")
    assert found.table.splits.tolist() == [0, 2, 2, 0, 2, 2]
    with pytest.raises(DataError, match=r"column fold: '0'; needed: train, val or test; or say .* split='fold=2'"):
        opened(table(photos, text), label="breed", split="fold")
    with pytest.raises(DataError, match="no row has 7 in column fold; it has 0, 1, 2"):
        opened(table(photos, text), label="breed", split="fold=7")


def test_several_labels_in_three_ways(photos: Path):
    tags = {"0": "red round", "1": "", "2": "round"}
    wanted = [[1, 1], [0, 0], [0, 1]] * 2
    one = opened(table(photos, lines("file", "tags", rows=lambda n: (tags[n[5]],))), label="tags", label_separator=" ")
    columns = lines("file", "round", "red", rows=lambda n: ("round" in tags[n[5]], int("red" in tags[n[5]])))
    two = opened(table(photos, columns), label="round,red")
    records = "\n".join(json.dumps({"file": n, "tags": tags[n[5]].split()}) for n in NAMES)
    three = opened(table(photos, records, "t.jsonl"), label="tags")
    long = "file,tag\n" + "".join(f"{n},{tag}\n" for n in NAMES for tag in tags[n[5]].split() or [""])
    four = opened(table(photos, long), label="tag", label_separator=" ")
    for source in (one, two, three, four):
        assert source.table.task == "labels"
        assert source.table.class_names == ("red", "round")
        assert source.table.targets.tolist() == wanted


def test_numbers_with_a_decimal_comma_and_some_missing(photos: Path):
    text = lines("file", "age", rows=lambda n: (f"{int(n[5])},5" if n[5] != "2" else "",)).replace('"', "")
    text = "file;age\n" + "".join(f"{n};{int(n[5])},5\n" if n[5] != "2" else f"{n};\n" for n in NAMES)
    found = opened(table(photos, text), target="age").table
    assert (found.task, found.class_names) == ("number", ("age",))
    assert found.targets[:, 0].tolist()[:2] == [0.5, 1.5]
    assert found.labelled.tolist() == [True, True, False] * 2


def test_rows_without_files_and_files_without_rows_are_told(photos: Path, tiny_backbone: Backbone):
    text = BREEDS.replace("cats/2.png", "cats/gone.png")
    path = table(photos, text)
    with pytest.warns(OnepassWarning) as told:
        done = run_extraction(path, tiny_backbone, images="photos", label="breed", path="file", out="f.h5")
    assert [str(one.message) for one in told] == [
        (
            f"1 of 6 images that {path} names are not in photos, cats/gone.png of line 4 for one; they are listed "
            "among the skipped."
        ),
        f"1 image in photos has no row in {path} and is left out, cats/2.png for one.",
    ]
    assert done.images == 5
    assert {one.path: one.reason for one in done.skipped} == {
        "cats/gone.png": "no such file or directory",
        "cats/2.png": "no row of t.csv names it",
    }


def three(header: str, form: str) -> str:
    """A table of three columns, each row made of a name."""
    return header + "\n" + "".join(form.format(n=name, c=name[:3]) + "\n" for name in NAMES)


ELSEWHERE = lines("x", "breed", rows=lambda name: (name[:3],)).replace("/", "-")
REFUSED = {
    "two labels": (
        BREEDS + "cats/0.png,dogs\n",
        {},
        "gives cats/0.png two labels in column breed: 'cats' in line 2, 'dogs' in line 8. Needed: one. If an image has",
    ),
    "no such column": (BREEDS, {"label": "race"}, "label is race, and .*t.csv has no such column; it has file, breed"),
    "two candidates": (
        three("file,a,b", "{n},{c},x"),
        {},
        "nobody says what the labels in .* are: one of a, b. Name the column by label",
    ),
    "two name images": (
        three("file,copy,breed", "{n},{n},{c}"),
        {},
        "file, copy of .* all name images that are there. Say by path",
    ),
    "nobody names images": (
        ELSEWHERE,
        {},
        "no column of .*t.csv names images that are there; it has x, breed",
    ),
    "none is there": (
        ELSEWHERE,
        {"path": "x"},
        "none of the 6 images that .* names is in photos, cats-0.png of line 2",
    ),
    "an empty name": (
        BREEDS.replace("cats/1.png", ""),
        {"path": "file"},
        "line 3, column file: ''; needed: the name of an image",
    ),
    "a name that leads out": (
        BREEDS.replace("cats/1.png", "../x.png"),
        {"path": "file"},
        "line 3, column file: '../x.png'; needed: a name below",
    ),
    "an absolute name": (
        BREEDS.replace("cats/1.png", "/etc/passwd"),
        {"path": "file"},
        "line 3, column file: '/etc/passwd'; needed: a name below",
    ),
    "one class": (BREEDS.replace("dogs\n", "cats\n"), {}, "has only one class, cats in column breed"),
    "classes alike": (
        BREEDS.replace("2.png,dogs", "2.png,do gs"),
        {},
        "has the classes 'do gs' and 'dogs' in column breed, which differ only by spaces",
    ),
    "no number": (BREEDS, {"target": "breed"}, "line 2, column breed: 'cats'; needed: a number"),
    "no 0 or 1": (BREEDS, {"label": "breed,file"}, "line 2, column breed: 'cats'; needed: 0 or 1"),
    "a weight of 0": (
        three("file,b,w", "{n},{c},0"),
        {"label": "b", "weight": "w"},
        "line 2, column w: '0'; needed: a number above 0",
    ),
    "a field too many": (BREEDS + "a,b,c\n", {}, "line 8, has more or fewer fields"),
    "an open quote": (BREEDS + '"a,b\n', {}, "is not CSV, line 8"),
    "no rows": ("file,breed\n", {}, "has no rows below its first line"),
    "nothing": ("", {}, "has no line that names its columns"),
    "a column twice": ("file,file\na,b\n", {}, "has two columns 'file'"),
    "only empty tags": (
        three("file,t,u", "{n},,"),
        {"label": "t", "label_separator": " "},
        "has no label in column t",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_table_cannot_mean_is_refused_by_row_and_column(photos: Path, name: str):
    text, options, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        opened(table(photos, text), **options)


def test_numbers_are_no_classes(make_folder: MakeFolder):
    photos = make_folder({"a": 30})
    text = "file,age\n" + "".join(f"a/{i}.png,{i / 7}\n" for i in range(30))
    with pytest.raises(
        DataError, match=r"30 different numbers, such as .* To predict the number, name the column by target"
    ):
        opened(table(photos, text))


@pytest.mark.parametrize(("options", "message"), [
    ({"label": "a", "target": "b"}, "label and target were both given"),
    ({"target": "a", "unlabelled": True}, "target and unlabelled were both given"),
    ({"label": "a", "label_separator": ""}, "label_separator is empty"),
    ({"target": "a", "label_separator": " "}, "label_separator was given without label"),
])  # fmt: skip
def test_options_that_do_not_go_together(options: dict, message: str):
    with pytest.raises(OptionError, match=message):
        SourceOptions(**options)


def test_options_of_tables_do_not_belong_to_folders(photos: Path):
    with pytest.raises(OptionError, match=r"label belongs to a table, and .*photos is none"):
        open_source(photos, SourceOptions(label="breed"))


def test_images_in_parquet(photos: Path, tiny_backbone: Backbone):
    """Bytes in a column, alone or with a path, give the rows of the files; they are found again for a repair."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    data = [(photos / name).read_bytes() for name in NAMES]
    for form in ("struct", "bytes"):
        cells = (
            [{"bytes": one, "path": name} for one, name in zip(data, NAMES, strict=True)] if form == "struct" else data
        )
        path = photos.parent / f"{form}.parquet"
        pq.write_table(pa.table({"image": cells, "breed": [name[:4] for name in NAMES]}), path, row_group_size=2)
        done = run_extraction(path, tiny_backbone, label="breed", out=f"{form}.h5")
        assert (done.images, done.computed) == (6, 6)
        flip_bit(Path(f"{form}.h5"), "rows", byte=9)
        assert repair(f"{form}.h5").computed == 1
        assert verify(f"{form}.h5").verdict == "whole"
    folder = run_extraction(photos, tiny_backbone, out="folder.h5")
    with FeatureFile(folder.path) as wanted, FeatureFile("struct.h5") as one, FeatureFile("bytes.h5") as two:
        assert one.table.paths == wanted.table.paths
        for file in (one, two):
            np.testing.assert_array_equal(file.rows, wanted.rows)
            np.testing.assert_array_equal(file.table.labels, wanted.table.labels)
            np.testing.assert_array_equal(file.table.splits, wanted.table.splits)


def test_all_images_without_labels(photos: Path, tiny_backbone: Backbone):
    done = run_extraction(photos, tiny_backbone, unlabelled=True, out="f.h5")
    assert (done.images, done.classes) == (6, {})
    assert run_extraction(photos, tiny_backbone, unlabelled=True, out="f.h5").computed == 0
    with FeatureFile("f.h5") as file:
        assert file.task == "none"
        assert list(file.table.paths) == NAMES


def test_the_same_command_again_after_the_table_has_changed(photos: Path, tiny_backbone: Backbone):
    path = table(photos, BREEDS)
    first = run_extraction(path, tiny_backbone, images="photos", path="file", label="breed", out="f.h5")
    path.write_text(BREEDS.replace("cats/2.png,cats", "cats/2.png,dogs"))
    again = run_extraction(path, tiny_backbone, images="photos", path="file", label="breed", out="f.h5")
    assert (first.computed, again.computed) == (6, 0)
    assert again.classes == {"cats": 2, "dogs": 4}


HOSTILE = [b"../", b'"', b",", b"\n", b"\0", b"[", b"{", b"\xff\xfe", b"1e999"]


def test_damaged_tables_end_in_a_message(photos: Path):
    """Ten thousand with ONEPASS_FUZZ; each is read or refused, and nothing outside the folder is ever named."""
    generator = random.Random(5)
    seeds = {"t.csv": BREEDS.encode(), "t.jsonl": b'{"file": "cats/0.png", "breed": "cats"}\n' * 3}
    seeds["t.json"] = json.dumps([{"file": n, "breed": n[:3]} for n in NAMES]).encode()
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"file": NAMES, "breed": [n[:3] for n in NAMES]}), "seed.parquet")
        seeds["t.parquet"] = Path("seed.parquet").read_bytes()
        cells = [{"bytes": (photos / n).read_bytes(), "path": n} for n in NAMES]
        pq.write_table(pa.table({"image": cells, "breed": [n[:3] for n in NAMES]}), "seed.parquet")
        seeds["held.parquet"] = Path("seed.parquet").read_bytes()
    except ModuleNotFoundError:
        pass
    for name, seed in seeds.items():
        for _ in range(int(os.environ.get("ONEPASS_FUZZ", "300"))):
            data = bytearray(seed)
            for _ in range(generator.randint(1, 6)):
                place = generator.randrange(len(data))
                action = generator.random()
                if action < 0.5:
                    data[place] = generator.randrange(256)
                elif action < 0.75:
                    del data[place : place + generator.randint(1, 20)]
                else:
                    data[place:place] = generator.choice(HOSTILE)
                if not data:
                    break
            Path(name).write_bytes(data)
            try:
                source = open_source(Path(name)) if name.startswith("held") else opened(Path(name))
                scan_source(source)
            except UserError:
                continue
            assert not any(".." in path.split("/") or path.startswith("/") for path in source.table.paths)


@pytest.mark.parametrize("kind", ["bytes", "{bytes, path}"])
def test_a_parquet_file_that_says_one_image_many_times_is_refused_and_takes_little_memory(kind: str, tmp_path: Path):
    """Half a megabyte that stand for ten gigabytes."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    n, noise = 20_000, os.urandom(500_000)
    images = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([noise], pa.binary()))
    if kind != "bytes":
        images = pa.StructArray.from_arrays([images, pa.array([f"{i}.png" for i in range(n)])], ["bytes", "path"])
    long = pa.DictionaryArray.from_arrays(pa.array([0, 1] * (n // 2), pa.int32()), pa.array(["a" * 10**5, "b"]))
    pq.write_table(pa.table({"image": images, "breed": long}), "bomb.parquet")
    assert Path("bomb.parquet").stat().st_size < 10**6
    limited = """
import resource
from onepass.extract.data.sources import open_source
from onepass.features.errors import UnreadableImageError
resource.setrlimit(resource.RLIMIT_AS, (5 * 2**30, 5 * 2**30))
source = open_source("bomb.parquet")
try:
    source.store.file(source.table.paths[-1]).read()
except UnreadableImageError as error:
    print(error)
"""
    done = run_process("python", "-c", limited, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-500:]
    assert re.match(r"damaged: its \d+ kB declare \d+ MB", done.stdout), done.stdout
