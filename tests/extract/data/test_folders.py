import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.data import watch
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.data.watch import find_images, watch_folder
from onepass.features import SPLITS
from onepass.features.errors import DataError
from support import MakeFolder


@pytest.mark.parametrize("names", [
    ("train", "validation", "test"), ("Training", "Val", "Testing"), ("TRAIN", "valid", "Test"),
])  # fmt: skip
def test_split_folders_of_any_case_give_the_split(make_folder: MakeFolder, names: tuple[str, str, str]):
    for i, name in enumerate(names):
        data = make_folder({"cats": 2, "dogs": 1}, name=f"photos/{name}", seed=i).parent

    scan = scan_source(open_source(data))

    assert not scan.drawn
    assert scan.table.class_names == ("cats", "dogs")
    for path, split in zip(scan.table.paths, scan.table.splits, strict=True):
        assert SPLITS[split] == dict(zip(names, ("train", "val", "test"), strict=True))[path.split("/")[0]]


def test_labels_follow_the_folder_and_classes_are_sorted(make_folder: MakeFolder):
    table = scan_source(open_source(make_folder({"zebra": 3, "Ünïcode 猫": 2, "ant": 4}))).table
    assert table.class_names == ("ant", "zebra", "Ünïcode 猫")
    for path, label in zip(table.paths, table.labels, strict=True):
        assert path.startswith(table.class_names[label] + "/")


def test_without_split_folders_a_fifth_is_drawn_by_content(make_folder: MakeFolder):
    data = make_folder({"cats": 60, "dogs": 60})
    before = scan_source(open_source(data))
    sides = dict(zip(before.table.paths, before.table.splits, strict=True))

    make_folder({"cats": 80, "dogs": 60})  # the same seed draws other pictures for dogs: 20 cats are new
    shutil.move(data / "cats" / "3.png", data / "cats" / "renamed.png")
    after = scan_source(open_source(data))

    assert before.drawn
    assert 10 <= (before.table.splits == 2).sum() <= 40
    assert set(before.table.splits) == {0, 2}
    content = {h.tobytes(): s for h, s in zip(before.table.content_hashes, before.table.splits, strict=True)}
    for path, h, side in zip(after.table.paths, after.table.content_hashes, after.table.splits, strict=True):
        assert side == content.get(h.tobytes(), side), path
    assert sides["cats/3.png"] == after.table.splits[after.table.paths.index("cats/renamed.png")]


def test_a_lone_train_folder_is_split_by_content_too(make_folder: MakeFolder):
    data = make_folder({"cats": 20, "dogs": 20}, name="photos/train").parent
    scan = scan_source(open_source(data))
    assert scan.drawn
    assert set(scan.table.splits) == {0, 2}


def test_a_lone_test_folder_stays_test(make_folder: MakeFolder):
    scan = scan_source(open_source(make_folder({"cats": 2, "dogs": 2}, name="photos/test").parent))
    assert set(scan.table.splits) == {SPLITS.index("test")}


def test_images_below_class_folders_belong_to_the_class(make_folder: MakeFolder):
    data = make_folder({"cats": 2, "dogs": 2})
    make_folder({"day 1": 1}, name="photos/cats", seed=9)
    assert "cats/day 1/0.png" in scan_source(open_source(data)).table.paths


def test_files_that_are_no_images_are_listed_and_hidden_ones_left_out(make_folder: MakeFolder):
    data = make_folder({"cats": 2, "dogs": 2})
    (data / "cats" / "notes.txt").write_text("x")
    (data / "cats" / ".DS_Store").write_text("x")
    (data / "dogs" / "Thumbs.db").write_text("x")
    (data / "readme.md").write_text("x")
    (data / ".git").mkdir()

    scan = scan_source(open_source(data))

    assert scan.other == {"readme.md": "not in a class folder"}
    assert scan.unread == {"cats/notes.txt": "not an image by its name (.txt)"}
    assert len(scan.table) == 5


def test_a_broken_link_is_an_entry_with_a_reason(make_folder: MakeFolder):
    data = make_folder({"cats": 2, "dogs": 2})
    (data / "cats" / "gone.jpg").symlink_to(data / "nowhere.jpg")
    scan = scan_source(open_source(data))
    assert scan.unread == {"cats/gone.jpg": "no such file or directory"}
    assert not scan.table.content_hashes[scan.table.paths.index("cats/gone.jpg")].any()


def test_a_link_in_a_circle_ends(make_folder: MakeFolder):
    data = make_folder({"cats": 2, "dogs": 2})
    (data / "cats" / "again").symlink_to(data / "cats", target_is_directory=True)
    assert len(scan_source(open_source(data)).table) == 4


def test_an_unchanged_file_is_not_read_again(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    data = make_folder({"cats": 3, "dogs": 3})
    known = scan_source(open_source(data)).table
    os.utime(data / "cats" / "1.png", ns=(1, 1))
    read: list[str] = []
    original = __import__("hashlib").file_digest
    monkeypatch.setattr(
        "onepass.extract.pixels.image_bytes.hashlib.file_digest",
        lambda file, kind: (read.append(file.name), original(file, kind))[1],
    )
    again = scan_source(open_source(data), known=known).table
    assert [Path(name).name for name in read] == ["1.png"]
    np.testing.assert_array_equal(again.content_hashes, known.content_hashes)


@pytest.mark.parametrize(("make", "message"), [
    (lambda d: None, "not there; needed: a folder of images."),
    (lambda d: d.write_text("x"), "is a file; needed: a folder of images."),
    (lambda d: d.mkdir(), "such as data/cats/1.jpg; also below train, val and test folders."),
])  # fmt: skip
def test_a_folder_that_holds_nothing_is_refused(tmp_path: Path, make, message: str):
    data = tmp_path / "data"
    make(data)
    with pytest.raises(DataError) as caught:
        scan_source(open_source(data))
    assert str(caught.value).endswith(message)


def test_images_without_class_folders_are_refused(make_folder: MakeFolder):
    data = make_folder({"cats": 3})
    with pytest.raises(DataError, match="cats holds no images in class folders"):
        scan_source(open_source(data / "cats"))


def test_an_empty_class_is_refused_by_name(make_folder: MakeFolder):
    data = make_folder({"cats": 3, "dogs": 3})
    (data / "birds").mkdir()
    with pytest.raises(DataError, match="no image in birds of .*photos. Put images of the class there, or remove the"):
        scan_source(open_source(data))


def test_one_class_only_is_refused_where_two_are_needed(make_folder: MakeFolder):
    data = make_folder({"cats": 3})
    with pytest.raises(DataError, match="holds only one class, cats. Needed: a folder each for two or more classes."):
        scan_source(open_source(data))
    assert len(scan_source(open_source(data, least_classes=1)).table) == 3


def test_split_folders_beside_class_folders_are_refused(make_folder: MakeFolder):
    data = make_folder({"cats": 3, "train": 2})
    with pytest.raises(DataError, match="holds the split folders train beside cats. Needed: either only split folders"):
        scan_source(open_source(data))


def test_find_images_takes_files_as_given_and_searches_folders(make_folder: MakeFolder):
    data = make_folder({"cats": 2})
    (data / "notes.txt").write_text("x")
    found = find_images([data / "notes.txt", data])
    assert [path.name for path in found] == ["notes.txt", "0.png", "1.png"]


def test_a_pipe_does_not_hold_up_the_run(make_folder: MakeFolder):
    data = make_folder({"cats": 2, "dogs": 2})
    os.mkfifo(data / "cats" / "pipe.jpg")
    assert scan_source(open_source(data)).unread == {"cats/pipe.jpg": "not a regular file"}


def test_images_of_a_small_class_keep_the_side_they_were_given(make_folder: MakeFolder):
    for seed in range(12):
        name = f"small{seed}"
        data = make_folder({"cats": 3, "dogs": 3}, name=name, seed=seed)
        before = scan_source(open_source(data)).table
        for i, old in enumerate(sorted(data.glob("*/*.png"))):
            old.rename(old.with_name(f"old{i}.png"))
        make_folder({"cats": 4, "dogs": 4}, name=name, seed=seed + 100)
        after = scan_source(open_source(data), known=before, known_drawn=True).table
        side = {h.tobytes(): s for h, s in zip(after.content_hashes, after.splits, strict=True)}
        for h, s in zip(before.content_hashes, before.splits, strict=True):
            assert side[h.tobytes()] == s


def test_a_watched_folder_gives_each_file_once_it_no_longer_grows_and_again_when_it_comes_back(tmp_path: Path):
    def append(data: bytes, name: str = "a.png") -> None:
        with open(tmp_path / name, "ab") as file:
            file.write(data)

    looks: list[Callable[[], None]] = [
        lambda: append(b"half"),
        lambda: append(b"whole"),
        lambda: None,
        lambda: append(b"other", "b.png"),
        lambda: (tmp_path / "a.png").unlink(),
        lambda: append(b"back"),
        lambda: None,
    ]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(watch.time, "sleep", lambda _: looks.pop(0)() if looks else pytest.fail("nothing more comes"))
    batches = watch_folder(tmp_path)
    seen: list[list[str]] = [[path.name for path in next(batches)] for _ in range(3)]
    monkey.undo()
    assert seen == [["a.png"], ["b.png"], ["a.png"]]
    assert not looks


def test_a_folder_that_is_gone_while_it_is_walked_is_passed_over(make_folder: MakeFolder, monkeypatch):
    data = make_folder({"cats": 2, "dogs": 1})
    walk = os.walk

    def walking(*args, **kwargs):
        for parent, names, files in walk(*args, **kwargs):
            yield parent, names, files
            shutil.rmtree(data / "dogs", ignore_errors=True)

    monkeypatch.setattr(watch.os, "walk", walking)
    assert [path.parent.name for path in find_images([data])] == ["cats", "cats"]
