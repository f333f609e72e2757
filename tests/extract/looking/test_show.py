"""A contact sheet: the pixels of the graph, the label of each image, the same images whenever the names are."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass import show, write_sheet
from onepass.extract import BackboneOrigin, drawable, run_extraction
from onepass.extract.backbones.backbone import Backbone
from onepass.features.errors import DataError, OptionError, UnreadableImageError
from support import make_spec, picture


class Recording:
    """An engine that keeps what it is given."""

    name = "recording"

    def __init__(self) -> None:
        self.given: dict = {}

    def run(self, images):
        for key, pixels in images:
            self.given[key] = pixels.copy()
            yield key, np.zeros(6, np.float32)


def given_to_graph(files: list[Path], *, views: int = 1, augment: str | None = None, **spec: object) -> np.ndarray:
    """(n, v, s, s, 3) that the engine gets of these files in a pass."""
    engine = Recording()
    backbone = Backbone(make_spec(**spec), BackboneOrigin("resnet50", "imagenet"), lambda: engine, engine_name="x")
    stream = backbone.stream(enumerate(files), on_skip=pytest.fail, views=range(views), augmentation=augment)
    assert len(list(stream)) == len(files)
    return np.stack([np.stack([engine.given[i, view] for view in range(views)]) for i in range(len(files))])


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as drawn:
        return np.asarray(drawn.convert("RGB"))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "keras", "shortest40-bilinear", "squash-lanczos"])
def test_what_is_shown_is_what_goes_into_the_graph(resize: str, make_folder):
    photos = make_folder({"cats": 4, "dogs": 5})
    sheet = show(photos, count=6, image_size=32, resize=resize)
    expected = given_to_graph([photos / one.path for one in sheet.images], image_size=32, resize=resize)
    np.testing.assert_array_equal(sheet.pixels, expected)
    assert sheet.pixels.dtype == expected.dtype


def test_views_are_those_of_the_pass(make_folder):
    photos = make_folder({"cats": 3, "dogs": 3})
    sheet = show(photos, count=4, image_size=32, views=3, augment="flip,rotate=30,seed=4")
    files = [photos / one.path for one in sheet.images]
    expected = given_to_graph(files, image_size=32, views=3, augment="flip,rotate=30,seed=4")
    np.testing.assert_array_equal(sheet.pixels, expected)
    assert np.ptp(sheet.pixels[:, 1].astype(int) - sheet.pixels[:, 0]) > 0


@pytest.mark.parametrize(("side", "zoom"), [(32, 4), (160, 1)])
def test_the_picture_holds_these_very_pixels(side: int, zoom: int, make_folder, tmp_path: Path):
    photos = make_folder({"cats": 3, "dogs": 3})
    sheet = write_sheet(photos, count=5, image_size=side, views=2, out=tmp_path / "look.png")
    drawn = pixels_of(tmp_path / "look.png")
    assert sheet.zoom == zoom
    for i, views in enumerate(sheet.pixels):
        left, upper = sheet.corner(i)
        tile = drawn[upper : upper + side * zoom : zoom, left : left + 2 * side * zoom : zoom]
        np.testing.assert_array_equal(tile, np.concatenate(list(views), axis=1))


def test_a_feature_file_is_shown_as_its_rows_were_computed(tiny_backbone, make_folder, tmp_path: Path):
    photos = make_folder({"cats": 6, "dogs": 6})
    path = tmp_path / "f.h5"
    run_extraction(photos, tiny_backbone, out=path, views=3, augment="flip,shift=0.3")
    sheet = show(path, count=4, views=2)
    files = [photos / one.path for one in sheet.images]
    expected = given_to_graph(files, image_size=32, views=2, augment="flip,shift=0.3")
    np.testing.assert_array_equal(sheet.pixels, expected)
    assert sheet.seen_by == "tiny, squash to 32 px, 2 views of flip,shift=0.3"
    assert {one.split for one in sheet.images} <= {"train", "test"}
    # The same images as of the folder itself.
    alone = show(photos, count=4, image_size=32)
    assert [one.path for one in alone.images] == [one.path for one in sheet.images]
    with pytest.raises(OptionError, match=r"^views is 4; .*f\.h5 holds 3 per image\.$"):
        show(path, views=4)
    with pytest.raises(OptionError) as refused:
        show(path, resize="crop")
    assert str(refused.value) == (
        f"{path} holds what its rows were computed with; leave resize='crop' out, or name the images."
    )
    shutil.move(photos, tmp_path / "moved")
    with pytest.raises(DataError, match="any more. Say where with data"):
        show(path)
    assert show(path, count=4, data=tmp_path / "moved").images[0].path == sheet.images[0].path


def test_every_class_has_its_share_and_its_position(make_folder):
    photos = make_folder({"ants": 3, "bees": 40, "cats": 40})
    sheet = show(photos, count=12, image_size=32)
    labels = [one.label for one in sheet.images]
    assert labels == ["0 ants"] * 3 + sorted(labels[3:])
    assert {labels.count("1 bees"), labels.count("2 cats")} <= {4, 5}
    for one in sheet.images:
        assert one.label.split()[1] == one.path.split("/")[0]
    assert str(sheet).splitlines()[1] == "12 of 83 images; classes: 0 = ants, 1 = bees, 2 = cats"
    assert len(show(photos, count=2, image_size=32).images) == 2


def test_the_seed_chooses(make_folder):
    photos = make_folder({"cats": 20, "dogs": 20})
    first, again, other = (
        [one.path for one in show(photos, count=8, image_size=32, seed=seed).images] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_tables_with_labels_and_numbers(make_folder, tmp_path: Path):
    photos = make_folder({"cats": 3, "dogs": 3})
    names = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.png"))
    for name, column in (("tags.csv", "tags"), ("ages.csv", "age")):
        with open(tmp_path / name, "w", newline="") as file:
            values = ["a;b" if i % 2 else "a" for i in range(6)] if column == "tags" else [i / 2 for i in range(6)]
            csv.writer(file).writerows([("file", column), *zip(names, values, strict=True)])
    where = {"images": str(photos), "path": "file"}
    tags = show(tmp_path / "tags.csv", image_size=32, label="tags", label_separator=";", **where)
    assert {one.label for one in tags.images} == {"a", "a, b"}
    ages = show(tmp_path / "ages.csv", image_size=32, target="age", **where)
    assert [one.label for one in ages.images if one.path == names[3]] == ["1.5"]


def test_what_cannot_be_read_is_told_and_replaced(make_folder):
    photos = make_folder({"cats": 4, "dogs": 4})
    for name in ("0", "1"):
        (photos / "cats" / f"{name}.png").write_bytes(b"no image")
    sheet = show(photos, count=6, image_size=32)
    assert len(sheet.images) == 6
    assert {one.path for one in sheet.skipped} <= {"cats/0.png", "cats/1.png"}
    for path in photos.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"^no image of .* could be read \(.*\)\.$"):
        show(photos, image_size=32)


def test_hostile_names_are_drawn(tmp_path: Path, rng):
    for name in ("$a_b$", "x\ny", "\U0001f98a 猫", "a" * 150):
        (tmp_path / "p" / name).mkdir(parents=True)
        picture(rng).save(tmp_path / "p" / name / "0.png")
    sheet = write_sheet(tmp_path / "p", image_size=32, out=tmp_path / "s.webp")
    np.testing.assert_array_equal(pixels_of(tmp_path / "s.webp"), np.asarray(sheet.picture))
    assert len(drawable("a" * 150)) == 40
    assert sheet._repr_png_() == sheet.picture._repr_png_()


def test_a_file_that_is_there_is_left_alone(make_folder, tmp_path: Path):
    photos = make_folder({"cats": 2, "dogs": 2})
    before = (photos / "cats" / "0.png").read_bytes()
    with pytest.raises(OptionError, match="exists and is not overwritten"):
        write_sheet(photos, out=photos / "cats" / "0.png")
    assert (photos / "cats" / "0.png").read_bytes() == before
    with pytest.raises(OptionError, match=r"^out is .*s\.bmp; needed: a name that ends in \.png or \.webp\.$"):
        write_sheet(photos, out=tmp_path / "s.bmp")
