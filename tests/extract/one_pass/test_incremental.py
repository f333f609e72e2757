"""What a second run recognises: other folders, other files, views, bytes behind an unchanged time."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import Backbone, extract_features, load_backbone
from onepass.extract.one_pass.report import Extraction
from onepass.extract.one_pass.run import run_extraction
from onepass.extract.pixels.views import Augmentation, view_pixels
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError, SpecMismatchError
from support import MakeFolder


def run(data: object, backbone: Backbone, out: Path, **options: object) -> Extraction:
    return run_extraction(data, backbone, out=out, **options)


def rows_by_path(path: Path) -> dict[str, np.ndarray]:
    with FeatureFile(path) as file:
        return {file.table.paths[i]: np.array(file.rows[i]) for i in np.flatnonzero(file.committed)}


def test_several_folders_become_one_file(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    first, second = make_folder({"cats": 3, "dogs": 2}, name="a"), make_folder({"dogs": 2, "owls": 3}, name="b", seed=1)

    done = run([first, second], tiny_backbone, tmp_path / "f.h5")

    assert done.classes == {"cats": 3, "dogs": 4, "owls": 3}
    rows = rows_by_path(done.path)
    assert {path.split("/")[0] for path in rows} == {"a", "b"}
    alone = rows_by_path(run(second, tiny_backbone, tmp_path / "b.h5").path)
    for path, row in alone.items():
        np.testing.assert_array_equal(rows[f"b/{path}"], row)


def test_a_folder_added_later_leaves_the_rows_of_the_first(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    first, second = make_folder({"cats": 3, "dogs": 2}, name="a"), make_folder({"cats": 4, "dogs": 1}, name="b", seed=1)
    run(first, tiny_backbone, tmp_path / "f.h5")
    again = run([first, second], tiny_backbone, tmp_path / "f.h5")
    assert (again.images, again.computed, again.reused) == (10, 5, 5)


def test_folders_named_like_splits_are_these_splits(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    train = make_folder({"cats": 3, "dogs": 2}, name="x/train")
    test = make_folder({"cats": 2, "dogs": 2}, name="y/test", seed=1)
    done = run([train, test], tiny_backbone, tmp_path / "f.h5")
    with FeatureFile(done.path) as file:
        assert not done.drawn_split
        assert [file.table.paths[i] for i in file.rows_of("test")] == [
            f"y/test/{label}/{i}.png" for label in ("cats", "dogs") for i in range(2)
        ]


def test_a_folder_inside_another_is_refused(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 3, "dogs": 2})
    with pytest.raises(DataError, match=r"lies in .*photos, so its images would count twice. Name only one of them\.$"):
        run([data, data / "cats"], tiny_backbone, tmp_path / "f.h5")


def test_rows_of_another_file_are_reused(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    first = make_folder({"cats": 3, "dogs": 2}, name="a")
    run(first, tiny_backbone, tmp_path / "a.h5")
    mixed = make_folder({"cats": 4, "dogs": 3}, name="b", seed=1)
    shutil.copy(first / "cats" / "1.png", mixed / "dogs" / "known.png")

    done = run(mixed, tiny_backbone, tmp_path / "b.h5", base=[tmp_path / "a.h5"])

    assert (done.images, done.computed, done.reused) == (8, 7, 1)
    expected = rows_by_path(tmp_path / "a.h5")["cats/1.png"]
    np.testing.assert_array_equal(rows_by_path(done.path)["dogs/known.png"], expected)


def test_a_base_of_another_spec_is_refused(
    make_folder: MakeFolder, tiny_backbone: Backbone, tiny_file: Path, tmp_path: Path
):
    data = make_folder({"cats": 3, "dogs": 2})
    run(data, load_backbone(str(tiny_file), pooling="max"), tmp_path / "max.h5")
    with pytest.raises(SpecMismatchError, match="pooling"):
        run(data, tiny_backbone, tmp_path / "f.h5", base=[tmp_path / "max.h5"])


def test_bytes_that_changed_behind_size_and_time_are_found_by_rehash(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    data = make_folder({"cats": 3, "dogs": 3})
    run(data, tiny_backbone, tmp_path / "f.h5")
    image = data / "cats" / "0.png"
    status = image.stat()
    # A comment after the last chunk: another content of the same size, pixels unchanged.
    changed = bytearray(image.read_bytes())
    changed[-1] ^= 1
    image.write_bytes(changed)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert run(data, tiny_backbone, tmp_path / "f.h5").computed == 0
    assert run(data, tiny_backbone, tmp_path / "f.h5", rehash=True).computed == 1


def test_files_of_the_same_name_size_and_time_elsewhere_are_other_files(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    first, second = make_folder({"cats": 2, "dogs": 2}, name="a"), make_folder({"cats": 2, "dogs": 2}, name="b")
    image = second / "cats" / "0.png"
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    for path in [*first.glob("*/*"), *second.glob("*/*")]:
        os.utime(path, (1, 1))
    run(first, tiny_backbone, tmp_path / "f.h5")
    again = run(second, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.reused, again.dropped) == (1, 3, 1)
    assert "rows dropped, because their images are no longer in the folder: 1" in str(again)


def test_an_image_that_cannot_be_opened_for_once_keeps_its_row(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = make_folder({"cats": 2, "dogs": 2})
    run(data, tiny_backbone, tmp_path / "f.h5")
    before, stat = rows_by_path(tmp_path / "f.h5"), Path.stat

    def failing(path: Path, **options: bool):
        if path.name == "1.png" and path.parent.name == "cats":
            raise OSError(5, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", failing)
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.reused) == (0, 4)
    np.testing.assert_array_equal(rows_by_path(tmp_path / "f.h5")["cats/1.png"], before["cats/1.png"])


def test_a_link_to_a_folder_keeps_its_own_name_and_the_file_behind_a_link_is_the_one_written(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    make_folder({"cats": 3, "dogs": 2}, name="one")
    make_folder({"cats": 2, "dogs": 2}, name="two", seed=1)
    (tmp_path / "train").symlink_to("one")
    (tmp_path / "test").symlink_to("two")
    (tmp_path / "disk").mkdir()
    (tmp_path / "f.h5").symlink_to("disk/f.h5")

    done = run([tmp_path / "train", tmp_path / "test"], tiny_backbone, tmp_path / "f.h5")

    assert (tmp_path / "f.h5").is_symlink()
    assert not done.drawn_split
    assert len(FeatureFile(tmp_path / "disk" / "f.h5").rows_of("test")) == 4


def test_an_image_that_cannot_be_decoded_is_not_tried_again_until_asked(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = make_folder({"cats": 2, "dogs": 2})
    (data / "cats" / "bad.jpg").write_text("text")
    run(data, tiny_backbone, tmp_path / "f.h5")
    tried: list[object] = []
    stream = tiny_backbone.stream
    monkeypatch.setattr(tiny_backbone, "stream", lambda files, **o: (tried.extend(files), stream(tried[:], **o))[1])
    assert len(run(data, tiny_backbone, tmp_path / "f.h5").skipped) == 1
    assert tried == []
    monkeypatch.setattr(tiny_backbone, "golden_rows", lambda: pytest.fail("the engine was started"))
    run(data, tiny_backbone, tmp_path / "f.h5")
    monkeypatch.undo()
    monkeypatch.setattr(tiny_backbone, "stream", lambda files, **o: (tried.extend(files), stream(tried[:], **o))[1])
    assert len(run(data, tiny_backbone, tmp_path / "f.h5", rehash=True).skipped) == 1
    assert len(tried) == 1


def test_the_seed_of_a_split_that_was_drawn_stays(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 4, "dogs": 4})
    run(data, tiny_backbone, tmp_path / "f.h5", seed=3)
    assert run(data, tiny_backbone, tmp_path / "f.h5").computed == 0
    message = (
        r"^the test split of .*f.h5 was drawn with seed 3, and images keep their side; got 4. Choose another file with"
    )
    with pytest.raises(OptionError, match=message):
        run(data, tiny_backbone, tmp_path / "f.h5", seed=4)


def test_exact_copies_are_reported_across_splits_and_classes(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    make_folder({"cats": 3, "dogs": 3}, name="photos/train")
    make_folder({"cats": 2, "dogs": 2}, name="photos/test", seed=1)
    data = tmp_path / "photos"
    shutil.copy(data / "train" / "cats" / "0.png", data / "test" / "cats" / "copy.png")
    shutil.copy(data / "train" / "dogs" / "1.png", data / "train" / "cats" / "wrong.png")

    done = run(data, tiny_backbone, tmp_path / "f.h5")

    assert (done.images, done.computed, done.reused) == (12, 10, 2)
    across, torn = sorted(done.duplicates, key=lambda group: -len(group.splits))
    assert (across.paths, across.splits) == (["test/cats/copy.png", "train/cats/0.png"], ["test", "train"])
    assert (torn.paths, torn.classes) == (["train/cats/wrong.png", "train/dogs/1.png"], ["cats", "dogs"])
    assert (
        "2 images are exact copies of another; 1 of 2 groups in more than one split, such as test/cats/copy.png = "
        "train/cats/0.png; 1 of 2 groups in more than one class, such as train/cats/wrong.png = train/dogs/1.png"
    ) in str(done)


def test_adding_views_computes_only_the_new_ones(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 3, "dogs": 3})
    run(data, tiny_backbone, tmp_path / "f.h5")
    plain = rows_by_path(tmp_path / "f.h5")

    three = run(data, tiny_backbone, tmp_path / "f.h5", views=3, augment="flip,rotate=20")
    seen = rows_by_path(tmp_path / "f.h5")
    five = run(data, tiny_backbone, tmp_path / "f.h5", views=5, augment="flip,rotate=20")

    assert (three.computed, three.computed_rows, three.views) == (6, 12, 3)
    assert (five.computed, five.computed_rows, five.views) == (6, 12, 5)
    assert run(data, tiny_backbone, tmp_path / "f.h5").computed == 0
    for path, rows in rows_by_path(tmp_path / "f.h5").items():
        np.testing.assert_array_equal(rows[:1], plain[path])
        np.testing.assert_array_equal(rows[:3], seen[path])
    with FeatureFile(tmp_path / "f.h5") as file:
        assert str(file).startswith("6 images x 5 views, 8 wide, 2 classes")


def test_a_view_is_the_backbones_row_of_the_augmented_pixels(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    from PIL import Image

    data = make_folder({"cats": 2, "dogs": 2})
    done = run(data, tiny_backbone, tmp_path / "f.h5", views=3)
    with FeatureFile(done.path) as file:
        assert file.spec.views.endswith(": flip,rotate=20,shift=0.2,shear=0.2,zoom=0.2")
        for i, path in enumerate(file.table.paths):
            for view in (1, 2):
                pixels = view_pixels(
                    Image.open(data / path).convert("RGB"),
                    augmentation=Augmentation.parse("classic"),
                    content=file.table.content_hashes[i].tobytes(),
                    view=view,
                    image_size=32,
                    to_square=lambda image, side: image.resize(
                        (side, side),
                        Image.Resampling.HAMMING if min(image.size) >= side else Image.Resampling.BICUBIC,
                    ),
                )
                np.testing.assert_array_equal(file.rows[i, view], tiny_backbone.rows(pixels[None])[0])


def test_new_images_get_the_views_that_the_file_has(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    data = make_folder({"cats": 2, "dogs": 2})
    run(data, tiny_backbone, tmp_path / "f.h5", views=3, augment="flip")
    make_folder({"owls": 2}, seed=5)
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.views, again.computed, again.computed_rows) == (3, 2, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 2}, r"f.h5 holds 3 views per image; none is dropped. Choose another out\.$"),
        (
            {"augment": "rotate=9"},
            r"holds views of the recipe .*: flip; this command asks for .*: rotate=9. Leave aug",
        ),
        ({"views": 0}, r"^views is 0; needed: 1 to 1000\.$"),
    ],
)
def test_views_are_never_dropped_or_mixed(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, options: dict, message: str
):
    data = make_folder({"cats": 2, "dogs": 2})
    run(data, tiny_backbone, tmp_path / "f.h5", views=3, augment="flip")
    with pytest.raises(OptionError, match=message):
        run(data, tiny_backbone, tmp_path / "f.h5", **options)


def test_a_recipe_without_views_is_refused(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path):
    with pytest.raises(OptionError, match=r"^augment needs views, how many views .* such as views=8\.$"):
        run(make_folder({"cats": 2, "dogs": 2}), tiny_backbone, tmp_path / "f.h5", augment="flip")


def test_unchanged_files_are_recognised_without_being_read(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No file is opened; how long it takes is measured in benchmarks/scaling.py."""
    data = make_folder({"cats": 2, "dogs": 2})
    extract_features(data, backbone=tiny_backbone, out=tmp_path / "f.h5")
    for i in range(100):
        (data / "cats" / f"more{i}.png").write_bytes((data / "cats" / "0.png").read_bytes())
    extract_features(data, backbone=tiny_backbone, out=tmp_path / "f.h5")

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr("onepass.extract.pixels.image_bytes.hashlib.file_digest", refuse)
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.computed, again.reused) == (0, 104)


def test_the_pixels_of_keras_have_no_views(make_folder: MakeFolder, tiny_file: Path, tmp_path: Path):
    backbone = load_backbone(str(tiny_file), resize="keras")
    with pytest.raises(OptionError, match=r"^resize='keras' gives plain images alone; leave views out, or choose"):
        run(make_folder({"cats": 2, "dogs": 2}), backbone, tmp_path / "f.h5", views=2)
