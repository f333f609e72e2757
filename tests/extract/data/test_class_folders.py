"""What cannot be meant by the names and places of class folders is refused before the pass, by `extract` and `plan`."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.data.source import check_source, scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.one_pass.estimate import plan
from onepass.extract.one_pass.run import run_extraction
from onepass.features import OnepassWarning
from onepass.features.errors import DataError
from support import READ, picture

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"

Make = Callable[[Path], object]


def folders(*paths: str) -> Make:
    """Makes folders with one picture in each."""

    def make(data: Path) -> None:
        rng = np.random.default_rng(0)
        for path in paths:
            (data / path).mkdir(parents=True)
            picture(rng).save(data / path / "1.png")

    return make


def also(make: Make, then: Make) -> Make:
    return lambda data: (make(data), then(data))


def write(path: str, text: str = "x") -> Make:
    def make(data: Path) -> None:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_text(text)

    return make


REFUSED: dict[str, tuple[Make, str]] = {
    "composed and decomposed in two splits": (
        folders(f"train/{COMPOSED}", "train/tea", f"val/{DECOMPOSED}", "val/tea"),
        (
            "two classes have names that differ only by Unicode form: 'DATA/val/cafe\\u0301' and "
            "'DATA/train/caf\\xe9'. Give both folders one name, or names that differ."
        ),
    ),
    "composed and decomposed side by side": (
        folders(COMPOSED, DECOMPOSED),
        (
            "two classes have names that differ only by Unicode form: 'DATA/cafe\\u0301' and 'DATA/caf\\xe9'. Give "
            "both folders one name, or names that differ."
        ),
    ),
    "full-width letters": (
        folders("train/cats", "train/dogs", "test/ｃａｔｓ"),
        (
            "two classes have names that differ only by Unicode form: 'DATA/train/cats' and "
            "'DATA/test/\\uff43\\uff41\\uff54\\uff53'. Give both folders one name, or names that differ."
        ),
    ),
    "outer spaces": (
        folders("train/cats", "train/dogs", "val/cats ", "val/dogs"),
        (
            "two classes have names that differ only by spaces: 'DATA/train/cats' and 'DATA/val/cats '. Give both "
            "folders one name, or names that differ."
        ),
    ),
    "case in two splits": (
        folders("train/cats", "train/dogs", "val/Cats", "val/dogs"),
        (
            "two classes have names that differ only by upper and lower case: 'DATA/val/Cats' and "
            "'DATA/train/cats'. Give both folders one name, or names that differ."
        ),
    ),
    "case and spaces": (
        folders("Hot Dog", "hotdog"),
        (
            "two classes have names that differ only by spaces, case or Unicode form: 'DATA/Hot Dog' and "
            "'DATA/hotdog'. Give both folders one name, or names that differ."
        ),
    ),
    "plural and singular": (
        folders("train/cats", "train/dogs", "valid/cat", "valid/dog"),
        (
            "DATA has no training image of cat, dog, which DATA/valid/cat is for; its training images are of cats, "
            "dogs. Is cat the class cats? Name the folders of a class alike in all splits, and put images of every "
            "class into train."
        ),
    ),
    "a class that is only tested": (
        folders("train/cats", "train/dogs", "test/cats", "test/zebra"),
        (
            "DATA has no training image of zebra, which DATA/test/zebra is for; its training images are of cats, dogs. "
            "Name the folders of a class alike in all splits, and put images of every class into train."
        ),
    ),
    "years": (
        folders("2023/cats", "2023/dogs", "2024/cats", "2024/dogs"),
        (
            "DATA has the folders 2023, 2024, each with cats, dogs inside, so 2023 would be a class. Name these "
            "folders instead, and they are put together class by class: DATA/2023 DATA/2024."
        ),
    ),
    "sites": (
        folders("site_a/cats", "site_a/dogs", "site_b/cats", "site_b/dogs"),
        (
            "DATA has the folders site_a, site_b, each with cats, dogs inside, so site_a would be a class. Name these "
            "folders instead, and they are put together class by class: DATA/site_a DATA/site_b."
        ),
    ),
    "years within splits": (
        folders("train/2023/cats", "train/2023/dogs", "train/2024/cats", "train/2024/dogs"),
        (
            "DATA has the folders 2023, 2024, each with cats, dogs inside, so 2023 would be a class. Name these "
            "folders instead, and they are put together class by class: DATA/train/2023 DATA/train/2024."
        ),
    ),
    "splits below classes": (
        folders("cats/train", "cats/test", "dogs/train", "dogs/test"),
        (
            "DATA/cats holds the split folders test, train, so cats would be a class. Name DATA/cats itself if it "
            "holds the images; or put classes into splits, as in DATA/test/cats."
        ),
    ),
    "one folder too high": (
        folders("photos/cats", "photos/dogs"),
        (
            "DATA holds only one class, photos, whose folder holds cats, dogs. If these are the classes, name "
            "DATA/photos instead. Needed: a folder each for two or more classes."
        ),
    ),
    "one class": (
        folders("cats"),
        "DATA holds only one class, cats. Needed: a folder each for two or more classes.",
    ),
    "two names of one split": (
        folders("train/cats", "train/dogs", "val/cats", "validation/dogs"),
        (
            "DATA holds val and validation, which both mean the split val. Put their images into one folder, or move "
            "one of them away."
        ),
    ),
    "a link to the whole": (
        also(folders("cats", "dogs"), lambda data: (data / "loop").symlink_to(data)),
        "DATA/loop is a link to DATA, and so its images are those of DATA/cats as well. Remove the link.",
    ),
    "a link to another class": (
        also(folders("cats", "dogs"), lambda data: (data / "pets").symlink_to(data / "dogs")),
        "DATA/pets is a link to DATA/dogs, and so its images are those of DATA/dogs as well. Remove the link.",
    ),
    "a class of no images": (
        also(folders("cats", "dogs"), write("birds/1.jpg", "no image")),
        (
            f"no image of birds can be read; DATA/birds/1.jpg, for one, is not an image ({READ}). Replace these files, "
            "or move their folder away."
        ),
    ),
    "no readable training image": (
        also(folders("train/cats", "test/cats", "test/dogs"), write("train/dogs/1.png", "no image")),
        (
            f"no training image of dogs can be read; DATA/train/dogs/1.png, for one, is not an image ({READ}). Replace "
            "these files, or move their folder away."
        ),
    ),
    "a class of notes": (
        also(folders("cats", "dogs"), write("notes/1.txt")),
        "no image in notes of DATA. Put images of the class there, or remove the folder.",
    ),
}


@pytest.fixture
def refuse_work(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a backbone was loaded before the folder was looked at")

    monkeypatch.setattr("onepass.extract.one_pass.run.load_backbone", refuse)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_before_the_pass(name: str, tmp_path: Path, refuse_work: None):
    make, message = REFUSED[name]
    make(tmp_path)
    for call in (lambda data: check_source(open_source(data)), run_extraction, plan):
        with pytest.raises(DataError) as caught:
            call(tmp_path)
        assert str(caught.value).replace(str(tmp_path), "DATA") == message


TAKEN: dict[str, Make] = {
    "letters of both cases": folders("A", "a", "B"),
    "a class that is not tested": folders("train/cats", "train/dogs", "test/cats"),
    "only images to score": folders("test/cats", "test/dogs"),
    "digits": folders(*map(str, range(10))),
    "sessions of some classes": folders("cats/day 1", "cats/day 2", "dogs/day 1"),
    "hidden folders": also(folders("cats", "dogs"), folders(".cache/x", "__MACOSX/cats")),
    "a link of one class into two splits": also(
        folders("train/cats", "train/dogs", "test/dogs"),
        lambda data: (data / "test" / "cats").symlink_to(data / "train" / "cats"),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_may_be_meant_is_taken_without_a_word(name: str, tmp_path: Path):
    TAKEN[name](tmp_path)
    check_source(open_source(tmp_path))
    assert len(scan_source(open_source(tmp_path)).table.class_names) > 1


DOUBTED: dict[str, tuple[Make, str]] = {
    "case side by side": (
        folders("Cats", "cats", "dogs"),
        (
            "DATA has the classes Cats and cats, which differ only by upper and lower case. If they are one class, put "
            "their images into one folder."
        ),
    ),
    "the same folders in all classes": (
        folders("indoor/cats", "indoor/dogs", "outdoor/cats", "outdoor/dogs"),
        (
            "the classes are indoor, outdoor, and each of their folders holds cats, dogs. If these are the classes, "
            "name the folders above them instead: DATA/indoor DATA/outdoor."
        ),
    ),
    "images beside the classes": (
        also(folders("cats", "dogs"), lambda data: [write(name)(data) for name in ("b.jpg", "a.jpg", "readme.md")]),
        "2 images lie outside the class folders and are left out, a.jpg for one.",
    ),
}


@pytest.mark.parametrize("name", DOUBTED)
def test_what_is_rarely_meant_is_said_before_the_pass(name: str, tmp_path: Path):
    make, message = DOUBTED[name]
    make(tmp_path)
    with pytest.warns(OnepassWarning) as caught:
        check_source(open_source(tmp_path))
    assert [str(one.message).replace(str(tmp_path), "DATA") for one in caught] == [message]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan_source(open_source(tmp_path))


def test_one_class_of_several_folders_can_be_scored(tmp_path: Path):
    folders("cats/day 1", "cats/day 2")(tmp_path)
    assert scan_source(open_source(tmp_path, least_classes=1)).table.class_names == ("cats",)


def test_years_that_are_named_are_put_together_class_by_class(tmp_path: Path):
    folders("2023/cats", "2023/dogs", "2024/cats", "2024/dogs")(tmp_path)
    check_source(open_source([tmp_path / "2023", tmp_path / "2024"]))
    assert scan_source(open_source([tmp_path / "2023", tmp_path / "2024"])).table.class_names == ("cats", "dogs")


def test_names_of_several_folders_are_compared_too(tmp_path: Path):
    folders("a/cats", "a/dogs", "b/Cats", "b/dogs")(tmp_path)
    with pytest.raises(DataError) as caught:
        check_source(open_source([tmp_path / "a", tmp_path / "b"]))
    assert str(caught.value).replace(str(tmp_path), "DATA") == (
        "two classes have names that differ only by upper and lower case: 'DATA/b/Cats' and "
        "'DATA/a/cats'. Give both folders one name, or names that differ."
    )
