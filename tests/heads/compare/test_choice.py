"""What is said of a choice between backbones: the sentence, the table, the next command, JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from onepass.heads.compare.choice import BackboneChoice, TriedBackbone
from onepass.heads.compare.report import HeadsComparison, HeadScore
from onepass.heads.stats.intervals import Difference
from onepass.heads.stats.multiple_comparison import Comparison

BEST = Difference(0.0, (0.0, 0.0), 1.0)
SMALL = Difference(-0.008, (-0.020, 0.004), 0.2)
LARGE = Difference(-0.063, (-0.095, -0.031), 0.001)


def tried(name: str, seconds: float, score: float, to_best: Difference) -> TriedBackbone:
    return TriedBackbone(
        name=name,
        weights="imagenet",
        features=Path(f"photos.trials/{name}.0a.h5"),
        score=score,
        interval=(score - 0.03, score + 0.02),
        to_best=to_best,
        tied=to_best.interval[0] <= 0 <= to_best.interval[1],
        images_per_second=2527 / seconds,
        memory=180_000_000,
        seconds=seconds,
        licence="",
    )


def choice(*backbones: TriedBackbone, metric: str = "accuracy", detectable: float = 0.021) -> BackboneChoice:
    scores = [
        HeadScore(
            f"{one.name}/logreg", "logreg", str(one.features), {}, one.score, one.interval, 0.1, 0.1, None, 1, 1, 9
        )
        for one in backbones
    ]
    names = [score.name for score in scores]
    test = Comparison(
        names=tuple(names),
        best=names[0],
        ties=tuple(name for name, one in zip(names, backbones, strict=True) if one.tied),
        to_best={name: one.to_best for name, one in zip(names, backbones, strict=True)},
        adjusted_p={},
        detectable=dict.fromkeys(names[1:], detectable),
    )
    found = HeadsComparison("5 folds x 2 of 600 images outside the test part", 600, metric, scores, test)
    return BackboneChoice(
        list(backbones), found, "logreg", 2527, data=[Path("photos")], options={"precision": "float32"}
    )


def test_a_cheaper_one_within_the_noise_is_taken():
    found = choice(tried("resnet50", 240, 0.871, BEST), tried("mobilenetv2", 80, 0.863, SMALL))
    assert found.taken.name == "mobilenetv2"
    assert found.answer() == (
        "Take mobilenetv2: at a third of the cost it is within the noise of the best (resnet50, +0.8 points, -0.4 to "
        "2.0) on 600 images; a difference of 2.1 points would have been seen in four of five cases; resnet50 would "
        "take 4 min instead of 80 s for your 2,527 images."
    )


def test_the_best_is_taken_where_all_others_are_worse():
    found = choice(
        tried("resnet50", 240, 0.871, BEST),
        tried("mobilenetv2", 80, 0.808, LARGE),
        tried("mobilenet_0.25", 20, 0.7, LARGE),
    )
    assert found.answer() == (
        "Take resnet50: on 600 images it is better than mobilenetv2 and all others, by 6.3 points (3.1 to 9.5); it "
        "takes 4 min for your 2,527 images, mobilenetv2 80 s."
    )
    assert (
        choice(*found.tried[:2]).answer().startswith("Take resnet50: on 600 images it is better than mobilenetv2, by")
    )


def test_the_best_is_taken_where_it_is_the_cheapest_of_the_tied():
    found = choice(
        tried("mobilenetv2", 80, 0.871, BEST), tried("vgg16", 600, 0.866, SMALL), tried("resnet50", 240, 0.86, SMALL)
    )
    assert found.answer() == (
        "Take mobilenetv2: it has the best score on 600 images, and none within 1.0 points of it is clearly cheaper; "
        "vgg16, resnet50 cannot be told apart from it; a difference of 2.1 points would have been seen in four of five "
        "cases; resnet50, 0.8 points behind, would take 4 min instead of 80 s for your 2,527 images."
    )


def test_one_far_behind_is_not_taken_although_few_images_cannot_tell():
    far = Difference(-0.053, (-0.133, 0.026), 0.2)
    found = choice(
        tried("efficientnet_lite0", 80, 0.991, BEST), tried("mobilenet_0.25", 20, 0.938, far), detectable=0.125
    )
    assert found.taken.name == "efficientnet_lite0"
    assert found.answer() == (
        "Take efficientnet_lite0: it has the best score on 600 images, and none within 1.0 points of it is clearly "
        "cheaper; mobilenet_0.25 cannot be told apart from it; a difference of 12.5 points would have been seen in "
        "four of five cases; mobilenet_0.25, 5.3 points behind, would take 20 s instead of 80 s for your 2,527 images."
    )


def test_a_difference_in_cost_that_is_noise_itself_decides_nothing():
    found = choice(tried("resnet50", 84, 0.871, BEST), tried("mobilenetv2", 80, 0.863, SMALL))
    assert found.taken.name == "resnet50"


def test_a_tie_says_so_where_nothing_could_have_been_seen():
    found = choice(
        tried("resnet50", 240, 0.871, BEST), tried("mobilenetv2", 140, 0.863, SMALL), detectable=float("inf")
    )
    assert found.answer() == (
        "Take mobilenetv2: at 58 % of the cost it is within the noise of the best (resnet50, +0.8 points, -0.4 to "
        "2.0) on 600 images, too few to see any difference in four of five cases; resnet50 would take 4 min instead of "
        "2 min for your 2,527 images."
    )


def test_a_loss_has_no_points():
    gap = Difference(0.008, (-0.004, 0.020), 0.2)
    found = choice(tried("a", 400, 0.3, BEST), tried("b", 100, 0.308, gap), metric="log-loss")
    assert (
        "at a quarter of the cost it is within the noise of the best (a, -0.008, -0.020 to 0.004) on" in found.answer()
    )


def test_the_table_fits_and_ends_with_the_sentence():
    heavy = replace(tried("efficientnet_lite0", 300, 0.808, LARGE), licence="Apache-2.0")
    found = replace(choice(tried("resnet50", 240, 0.871, BEST), heavy), failed={"vgg16": "there is no weights file x."})
    assert str(found).splitlines() == [
        "accuracy of logreg on 5 folds x 2 of 600 images outside the test part",
        "                                            images/          all",
        "backbone            accuracy (95 %)         s        memory  2,527  licence",
        "resnet50            0.871 (0.841 to 0.891)  11       180 MB  4 min  not stated",
        "efficientnet_lite0  0.808 (0.778 to 0.828)  8.4      180 MB  5 min  Apache-2.0",
        "efficientnet_lite0 is worse than the best by 6.3 points (3.1 to 9.5)",
        "vgg16 could not be tried: there is no weights file x.",
        found.answer(),
    ]
    assert found._repr_html_().startswith("<table><caption>Take resnet50: on 600 images")


def test_the_next_command_takes_the_rows_over():
    found = choice(tried("resnet50", 240, 0.871, BEST), tried("mobilenetv2", 80, 0.863, SMALL))
    command = "extract photos --precision float32 --backbone mobilenetv2"
    assert found.next_command == f"{command} --base photos.trials/mobilenetv2.0a.h5"
    own = replace(found, tried=[replace(one, weights="my weights.h5") for one in found.tried])
    assert own.next_command == f"{command} --weights 'my weights.h5' --base photos.trials/mobilenetv2.0a.h5"


def test_json_holds_all_of_it():
    found = choice(tried("resnet50", 240, 0.871, BEST), tried("mobilenetv2", 80, 0.863, SMALL))
    record = json.loads(json.dumps(found.record()))
    assert record["take"] == "mobilenetv2"
    assert record["answer"] == found.answer()
    assert record["next"] == found.next_command
    assert [one["name"] for one in record["backbones"]] == ["resnet50", "mobilenetv2"]
    assert record["backbones"][1]["to_best"]["interval"] == [-0.020, 0.004]
    assert record["backbones"][1]["seconds"] == pytest.approx(80)
    assert (record["images"], record["sample"], record["head"]) == (2527, 600, "logreg")
    assert record["comparison"]["ties"] == ["resnet50/logreg", "mobilenetv2/logreg"]
