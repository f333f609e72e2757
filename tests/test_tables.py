"""No line of a table is wider than 80 columns for usual names, and each result says what comes next."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.backbones.listing import Backbones, Stages
from onepass.extract.backbones.stages import Stage
from onepass.features import SkippedImage
from onepass.features.tables import WIDTH, command_line, facts_table, fitted_table, shortened, text_table
from onepass.heads.audit.report import InspectedImage, Inspection, LabelError, NearDuplicate, Outlier
from onepass.heads.compare.report import HeadsComparison, HeadScore
from onepass.heads.evaluation import Answers, Evaluation, score
from onepass.heads.head_options import HEADS_OF
from onepass.heads.predict.nearest import Nearest, Neighbour
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.multiple_comparison import Comparison

BACKBONES = ["resnet50", "efficientnet_lite0", "efficientnetv2b0", "efficientnetv2b1"]
CLASSES = ["cardboard", "glass", "metal", "paper", "plastic", "trash", "biological", "batteries", "clothes", "shoes"]
PHOTO = "train/biological waste/IMG_20260412_1530{}_Burst.jpeg"


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def comparison(backbones: list[str], *, metric: str = "balanced") -> HeadsComparison:
    heads = [f"{kind}:256x128" if kind == "mlp" else kind for kind in HEADS_OF["classes"]]
    names = [f"{one}/{head}" if len(backbones) > 1 else head for one in backbones for head in heads]
    scores = [
        HeadScore(name, name, "f.h5", {}, 0.9, (0.811, 0.987), 0.123, 0.012, 0.888, 123.4, 1234.0, 16_000_000)
        for name in names
    ]
    gaps = {name: Difference(-0.123, (-0.2345, -0.0123), 0.1) for name in names}
    test = Comparison(tuple(names), names[0], tuple(names), gaps, {}, dict.fromkeys(names[1:], 0.07))
    return HeadsComparison("test, n=153", 153, metric, scores, test)


@pytest.mark.parametrize("backbones", [BACKBONES[:1], BACKBONES[:2], BACKBONES])
@pytest.mark.parametrize("metric", ["accuracy", "log-loss"])
def test_heads_compared_on_several_backbones(backbones: list[str], metric: str):
    found = comparison(backbones, metric=metric)
    table = str(found).splitlines()[:-1]
    assert max(map(len, table)) <= WIDTH
    named = [line.split("  ")[0] for line in table if " 0.900 " in line or " 123.4 " in line]
    assert [len(set(named)), len(named)] == [len(found.scores), 2 * len(found.scores)] or metric == "log-loss"


def evaluation(classes: list[str]) -> Evaluation:
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(classes), 4000)
    named = np.where(rng.random(4000) < 0.7, y, rng.integers(0, len(classes), 4000))
    return score(Answers(named, None), y, tuple(classes), measured_on="test")


def test_classes_and_who_is_taken_for_whom():
    for count in (2, 6, 10):
        found = evaluation(CLASSES[:count])
        assert widest(found.details()) <= WIDTH
        assert widest(found.confusions()) <= WIDTH
        assert found.confusions().startswith("confusion (rows: true class, columns: predicted)\n")
    *_, last = evaluation(CLASSES).confusions().splitlines()
    assert last.split()[:2] == ["10", "shoes"]
    many = evaluation([*CLASSES, *(f"further {name}" for name in CLASSES)])
    lines = many.confusions().splitlines()
    assert lines[0] == "most often confused"
    assert len(lines) == 11
    assert widest(many.confusions()) <= WIDTH
    wrong = [n for i, row in enumerate(many.confusion) for j, n in enumerate(row) if i != j]
    assert lines[1].split()[-1] == str(max(wrong))


def test_what_an_inspection_finds():
    images = [InspectedImage(PHOTO.format(i), "train", "biological waste") for i in range(20)]
    found = Inspection(
        path=Path("photos.resnet50.h5"),
        counts={"train": dict.fromkeys(CLASSES, 100), "test": dict.fromkeys(CLASSES, 20)},
        pending=0,
        unreadable=[
            SkippedImage(one.path, "not an image (JPEG, PNG, BMP, GIF, WebP and TIFF are read)") for one in images
        ],
        copies=[],
        near_duplicates=[NearDuplicate(one, images[0], 0.987, "thumbnails") for one in images[1:]],
        threshold=0.9,
        label_errors=[LabelError(one, "cardboard", 0.1, 0.9, 10, 8, 1) for one in images],
        labels_by="confident learning",
        outliers=[Outlier(one, 0.5, 12.3) for one in images],
    )
    tables = [line for line in str(found).splitlines() if line.startswith("  ")]
    assert len(tables) > 40
    assert max(map(len, tables)) <= WIDTH
    assert found.next_command == "onepass inspect photos.resnet50.h5 --csv findings.csv"


def test_training_images_like_an_image_have_a_heading():
    found = Nearest("new.jpg", [Neighbour(PHOTO.format(i), "biological waste", "train", 0.9) for i in range(5)])
    assert str(found).splitlines()[0].split() == ["image", "class", "split", "cosine"]
    assert widest(str(found)) <= WIDTH


def test_backbones_and_their_stages():
    name, boundary = "convnext_xlarge_stage_2_block_26_layer_scale", "convnext_xlarge_stage_1_block_2_identity"
    stages = [Stage(f"cell_reduce_{i}", name, i, 100, 123_456_789, boundary, (14, 14, 2048)) for i in range(12)]
    assert widest(str(Stages("convnextxlarge", stages))) <= WIDTH
    assert widest(str(Backbones())) <= WIDTH


def test_long_values_of_facts_are_wrapped():
    text = facts_table([["classes", ", ".join(CLASSES * 3)], ["folder", "/a" * 60], ["n", "3"]])
    first, second, *_ = text.splitlines()
    assert (len(first) <= WIDTH, second[:9].strip()) == (True, "")
    assert ("/a" * 60) in text  # what has no spaces stays in one piece, to be copied
    assert text.splitlines()[-1] == "n        3"


def test_names_stay_different_or_whole():
    names = [["name"], ["a" * 50 + "1" + "b" * 50], ["a" * 50 + "2" + "b" * 50]]
    assert fitted_table(names, width=40) == text_table(names)
    assert shortened("abc", 3) == "abc"
    assert [len(shortened("x" * 30, most)) for most in (8, 9, 29)] == [8, 9, 29]


@pytest.mark.parametrize(
    "path", ["my pets.head", "-v.head", "it's.head", "a\x1b[2J.head", "caf\udce9.head", "ü$(x).head"]
)
def test_a_next_command_means_the_file_that_it_names(path: str):
    import os
    import subprocess

    line = command_line("printf", "%s", Path(path))
    assert line.isprintable()
    said = subprocess.run(["bash", "-c", line], capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}).stdout
    assert said == os.fsencode(path if path[0] != "-" else f"./{path}")


def test_the_next_command_after_a_comparison_trains_the_cheapest_of_the_best():
    found = comparison(BACKBONES[:1])
    words = shlex.split(found.next_command)
    assert words[:3] == ["train-head", "f.h5", "--head"]
    assert words[3] == found.cheapest.head
