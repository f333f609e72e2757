"""Copies of one picture are found at the end of a pass, kept, and share a side of a drawn split."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile
from onepass.features.integrity import check_file
from onepass.features.writer import RowWriter
from support import MakeFolder, flip_bit


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    """Two classes of 25 pictures; ten of each stand there a second time, turned or mirrored."""
    data = make_folder({"cats": 25, "dogs": 25})
    for label in ("cats", "dogs"):
        for number in range(10):
            with Image.open(data / label / f"{number}.png") as image:
                turned = ImageOps.mirror(image) if number % 2 else image.transpose(Image.Transpose.ROTATE_270)
                turned.save(data / label / f"{number}-again.png")
    return data


def sides(path: Path) -> dict[str, set[str]]:
    """Name of each picture -> the splits that it and its copies lie in."""
    found = defaultdict(set)
    with FeatureFile(path) as file:
        for name, split in zip(file.paths, file.splits, strict=True):
            found[name.replace("-again", "")].add(split)
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_share_a_side_of_a_drawn_split(photos: Path, tiny_backbone, tmp_path: Path, seed: int):
    done = run_extraction(photos, tiny_backbone, out=tmp_path / "f.h5", seed=seed)
    assert done.near_copies == 20
    assert all(len(splits) == 1 for splits in sides(tmp_path / "f.h5").values())
    with FeatureFile(tmp_path / "f.h5") as file:
        assert np.bincount(file.labels[file.rows_of("test")]).tolist() == [7, 7]  # a fifth of 35
        assert len(np.unique(file.group_ids())) == 50
        assert not file.leaked(file.rows_of("test"), file.rows_of("train")).any()


def test_what_comes_later_joins_its_copy_and_the_others_stay(photos: Path, tiny_backbone, tmp_path: Path):
    path = tmp_path / "f.h5"
    run_extraction(photos, tiny_backbone, out=path)
    before = sides(path)
    for name in before:
        with Image.open(photos / name) as image:
            image.rotate(180).save((photos / name).with_suffix(".bmp"))

    done = run_extraction(photos, tiny_backbone, out=path)

    assert (done.computed, done.near_copies) == (50, 70)
    after = sides(path)
    assert {name: after[name] for name in before} == before
    assert all(after[name.replace(".bmp", ".png")] == splits for name, splits in after.items())


def test_a_second_run_neither_searches_nor_writes(
    photos: Path, tiny_backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "f.h5"
    run_extraction(photos, tiny_backbone, out=path)
    before = path.read_bytes()
    monkeypatch.setattr("onepass.features.file.copy_groups", None)
    run_extraction(photos, tiny_backbone, out=path)
    assert path.read_bytes() == before


def test_copies_lost_to_a_kill_are_found_by_the_next_run(photos: Path, tiny_backbone, tmp_path: Path):
    path = tmp_path / "f.h5"
    run_extraction(photos, tiny_backbone, out=path)
    with FeatureFile(path) as file, RowWriter(path) as writer:
        kept = file.copies
        writer.clear_thumbnail(3)
    flip_bit(path, "copies", byte=8)
    done = run_extraction(photos, tiny_backbone, out=path)
    assert (done.computed, done.thumbnails) == (0, 1)
    with FeatureFile(path) as file:
        np.testing.assert_array_equal(file.kept_copies(), kept)


def test_a_damaged_thumbnail_is_named_and_read_again(photos: Path, tiny_backbone, tmp_path: Path):
    path = tmp_path / "f.h5"
    run_extraction(photos, tiny_backbone, out=path)
    with FeatureFile(path) as file:
        thumbnails = file.thumbnails
    flip_bit(path, "thumbnails", byte=576 * 7)
    assert [(found.part, found.position) for found in check_file(path).damage] == [("thumbnail", 7)]
    assert run_extraction(photos, tiny_backbone, out=path).thumbnails == 1
    with FeatureFile(path) as file:
        np.testing.assert_array_equal(file.thumbnails, thumbnails)
    assert check_file(path).damage == []


def test_rows_of_another_file_bring_their_thumbnails(photos: Path, tiny_backbone, tmp_path: Path):
    run_extraction(photos, tiny_backbone, out=tmp_path / "base.h5")
    done = run_extraction(photos, tiny_backbone, out=tmp_path / "new.h5", base=[tmp_path / "base.h5"])
    assert (done.computed, done.thumbnails, done.near_copies) == (0, 0, 20)


def test_image_files_that_cannot_be_read_again_keep_their_rows(photos: Path, tiny_backbone, tmp_path: Path):
    path = tmp_path / "f.h5"
    run_extraction(photos, tiny_backbone, out=path)
    with RowWriter(path) as writer:
        writer.clear_thumbnail(0)
    with FeatureFile(path) as file:
        image = photos / file.paths[0]
    times = image.stat().st_mtime_ns
    image.write_bytes(b"x" * image.stat().st_size)
    os.utime(image, ns=(times, times))
    done = run_extraction(photos, tiny_backbone, out=path)
    assert (done.computed, done.thumbnails, done.without_thumbnail, len(done.skipped)) == (0, 0, 1, 0)
    assert "images whose file is no longer what their row was computed from: 1. Copies of them" in str(done)
