"""Shards as WebDataset writes them are read where they lie, with the labels that lie beside the images."""

import json
import os
from pathlib import Path

import pytest

from fuzzing import mutated
from onepass import repair
from onepass.extract import Backbone
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.one_pass.run import run_extraction
from onepass.features import SPLITS
from onepass.features.errors import DataError, UserError
from packing import known, pack_members, pack_shards
from support import MakeFolder, flip_bit

FUZZ = int(os.environ.get("ONEPASS_FUZZ", "300"))


@pytest.fixture
def image(make_folder: MakeFolder) -> bytes:
    return (make_folder({"x": 1}, name="one") / "x" / "0.png").read_bytes()


def test_shards_are_what_their_folder_is(make_folder: MakeFolder, tmp_path: Path):
    data = make_folder({"cats": 20, "dogs": 21})
    shards = pack_shards(data, tmp_path)
    source = open_source(shards)
    assert known(scan_source(source)) == known(scan_source(open_source(data)))
    assert source.stem == "part"
    by_range = open_source(tmp_path / "part-{000..002}.tar")
    assert by_range.table.paths == source.table.paths
    assert by_range.record == source.record


def test_rows_of_shards_are_computed_once_and_repaired_from_them(
    make_folder: MakeFolder, tmp_path: Path, tiny_backbone: Backbone
):
    data = make_folder({"cats": 5, "dogs": 6})
    shards = pack_shards(data, tmp_path)
    done = run_extraction(data, tiny_backbone, out=tmp_path / "f.h5")
    again = run_extraction(shards, tiny_backbone, out=tmp_path / "f.h5")
    assert (again.computed, again.classes) == (0, done.classes)
    flip_bit(done.path, "rows", byte=7)
    assert repair(done.path).computed == 1


@pytest.mark.parametrize(("ending", "label"), [
    ("cls", b"cats"), ("cls", b"0"), ("json", b'{"label": "cats"}'), ("json", b'{"cls": 0, "x": 1}'),
    ("json", b'"cats"'), ("txt", b"cats\n"),
])  # fmt: skip
def test_the_label_lies_beside_the_image(tmp_path: Path, image: bytes, ending: str, label: bytes):
    members = [("1.png", image), (f"1.{ending}", label), ("2.seg.png", image + b" "), ("2.png", image), ("2.cls", b"z")]
    pack_members(tmp_path / "a.tar", members)
    (tmp_path / "b").mkdir()
    source = open_source(tmp_path / "a.tar")
    name = "0" if b"0" in label else "cats"
    assert source.table.class_names == (name, "z")


def test_numbers_are_lines_of_classes_txt(tmp_path: Path, image: bytes):
    (tmp_path / "classes.txt").write_text("cats\ndogs\n")
    labels = [b"0", b"1", b"2"]
    members = [one for i, label in enumerate(labels) for one in ((f"{i}.png", image), (f"{i}.cls", label))]
    source = open_source(pack_members(tmp_path / "a.tar", members))
    assert source.table.class_names == ("cats", "dogs")
    assert source.other == {"2.png": "its class 2 has no line in classes.txt"}


def test_shards_named_like_splits_are_of_these(tmp_path: Path, image: bytes):
    members = [("1.png", image), ("1.cls", b"a"), ("2.png", image + b" "), ("2.cls", b"b")]
    shards = [pack_members(tmp_path / f"{split}-0.tar", members) for split in ("train", "val", "test")]
    source = open_source(shards)
    assert source.said
    for path, split in zip(source.table.paths, source.table.splits, strict=True):
        assert path.startswith(SPLITS[split])


@pytest.mark.parametrize(("files", "reason"), [
    ([], "no label beside it (.cls, .json, .txt)"),
    ([("3.cls", b"\xff\xfe")], "its 3.cls cannot be read as a label"),
    ([("3.cls", b"  ")], "its 3.cls holds no class"),
    ([("3.cls", b"x" * 200_000)], "its 3.cls is too long for a label"),
    ([("3.json", b"[" * 50_000)], "its 3.json cannot be read as a label"),
    ([("3.json", b'{"caption": "x"}')], "its 3.json holds no class"),
])  # fmt: skip
def test_an_image_without_a_class_is_left_out_with_the_reason(tmp_path: Path, image: bytes, files, reason: str):
    members = [("1.png", image), ("1.cls", b"a"), ("2.png", image), ("2.cls", b"b"), ("3.png", image), *files]
    source = open_source(pack_members(tmp_path / "a.tar", members))
    assert source.other == {"3.png": reason}
    assert len(source.table) == 2


def test_shards_of_one_class_are_refused(tmp_path: Path, image: bytes):
    archive = pack_members(tmp_path / "a.tar", [("1.png", image), ("1.cls", b"a")])
    with pytest.raises(DataError) as caught:
        open_source(archive)
    assert str(caught.value) == (
        f"{archive} holds 1 classes. Needed: 2 or more, each image beside its label, as 0001.jpg beside 0001.cls."
    )


def test_a_range_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"names no shards; needed: a range such as \{000\.\.009\}\.$"):
        open_source(tmp_path / "a-{5..1}.tar")


def test_a_mutated_shard_is_an_error_or_opens(tmp_path: Path, image: bytes):
    members = [("1.png", image), ("1.json", json.dumps({"label": "a"}).encode()), ("2.png", image), ("2.cls", b"b")]
    original = pack_members(tmp_path / "a.tar", members).read_bytes()
    for number in range(FUZZ):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(mutated(original, number))
        try:
            scan_source(open_source(path, least_classes=1))
        except UserError as error:
            assert str(error)
        finally:
            path.unlink()
