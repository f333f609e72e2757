"""A sample of an image folder: which images it holds, and what is known of each."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.data.sample import draw_sample
from onepass.features.errors import DataError
from support import MakeFolder, write_folder


def test_a_sample_leaves_the_test_part_alone(make_folder: MakeFolder):
    data = make_folder({"cats": 50, "dogs": 30})
    sample = draw_sample(data, 40)
    assert np.bincount(sample.found.table.labels).tolist() == [25, 15]
    assert sample.images == 80
    assert not sample.found.drawn
    everything = draw_sample(data, 1000)
    assert np.bincount(everything.found.table.labels).tolist() == [40, 24]


def test_images_keep_the_side_that_their_folder_gives(tmp_path: Path):
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(tmp_path / "pets" / part, {"a": 6, "b": 6}, seed=seed)
    table = draw_sample(tmp_path / "pets", 1000).found.table
    assert {(path.split("/")[0], int(side)) for path, side in zip(table.paths, table.splits, strict=True)} == {
        ("train", 0),
        ("val", 1),
    }


def test_files_that_are_no_images_are_not_drawn(make_folder: MakeFolder):
    data = make_folder({"cats": 20, "dogs": 20})
    (data / "cats" / "notes.txt").write_text("cats")
    sample = draw_sample(data, 1000)
    assert len(sample.contents) == len(sample.found.table) == 32


def test_copies_count_once_and_come_together(make_folder: MakeFolder):
    data = make_folder({"cats": 20, "dogs": 20})
    for path in list(data.rglob("*.png")):
        shutil.copy(path, path.with_stem(f"{path.stem} again"))
    sample = draw_sample(data, 20)
    assert sample.images == 40
    assert len(sample.found.table) == 2 * len(sample.contents)


def test_a_class_whose_only_group_is_in_the_test_part_is_refused(make_folder: MakeFolder):
    data = make_folder({"a": 10, "b": 10, "c": 1})
    paths = [str(path.relative_to(data)) for path in data.rglob("*.png")]
    groups = dict.fromkeys(paths, "") | dict.fromkeys(("a/0.png", "a/1.png", "c/0.png"), "patient 9")
    with pytest.raises(
        DataError,
        match=r"photos holds no image of c outside its test part, so nothing can be tried on that class\. Move some "
        r"there\.$",
    ):
        draw_sample(data, 200, groups=groups)
