"""compare-heads from end to end on small feature files."""

import csv
import json
import math
import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import OnepassWarning, OptionError, TrainingError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads import compare_heads, load_head, train_head
from onepass.heads.compare import run_cache
from onepass.heads.compare.report import HeadsComparison
from onepass.heads.saved_head import head_bytes
from onepass.heads.stats.metrics import HIGHER_IS_BETTER
from support import GOLDEN, blobs, make_spec, make_table, plain, run_program

QUICK = "logreg,ridge,centroid,knn"


def written(path: Path, rows: np.ndarray, y: np.ndarray, splits: np.ndarray, **changes) -> Path:
    spec = make_spec(width=rows.shape[1], **changes)
    table = replace(make_table(len(y), int(y.max()) + 1), labels=y.astype(np.int32), splits=splits.astype(np.uint8))
    write_feature_file(path, spec, table, {"backbone": spec.backbone}, GOLDEN[..., :1].repeat(rows.shape[1], axis=2))
    with RowWriter(path) as writer:
        writer.commit(plain(range(len(y))), rows)
    return path


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """324 images, 24 wide, three classes that overlap; every third is a test image, some are val."""
    x, y = blobs(rng, 324, 24, spread=0.7)
    parts = np.array([0, 0, 2, 0, 1, 2])[np.arange(324) // 3 % 6]
    return written(tmp_path / "photos.resnet50.h5", x, y, parts)


def test_every_score_equals_the_one_of_train_head(photos: Path, tmp_path: Path):
    found = compare_heads(photos, heads=QUICK)
    for score in found.scores:
        trained = train_head(photos, head=score.head, out=tmp_path / "x.head")
        assert score.score == trained.head.evaluation.accuracy
        assert score.interval == pytest.approx(trained.head.evaluation.interval)
        assert score.log_loss == pytest.approx(trained.head.evaluation.log_loss, rel=1e-5)
        assert score.calibration_error == pytest.approx(trained.head.evaluation.calibration_error, abs=1e-5)
        without = replace(trained.head, out_of_distribution=None, abstention=None)  # which is the same for all heads
        assert score.head_bytes == pytest.approx(len(head_bytes(without)), abs=200)
        assert score.parameters == json.loads(json.dumps(trained.head.parameters)) | {"seed": 0}


def test_the_table_is_ordered_and_ends_with_the_answer(photos: Path):
    found = compare_heads(photos, heads=QUICK)
    values = [score.score for score in found.scores]
    assert values == sorted(values, reverse=True)
    assert {score.name for score in found.scores} == set(QUICK.split(","))
    assert found.test.best == found.scores[0].name
    assert found.cheapest.name in found.test.ties
    lines = str(found).splitlines()
    assert lines[0] == "accuracy on test, n=108"
    assert lines[-1] == found.answer()
    assert lines[1].endswith("  points to best (joint 95 %)")
    assert f"the cheapest is {found.cheapest.name} (" in lines[-1] or lines[-1].startswith(found.test.best)


def test_a_bad_head_is_called_worse_and_by_how_much(tmp_path: Path, rng: np.random.Generator):
    """Two rings: no linear head can tell them apart."""
    y = np.arange(600) % 2
    angle = rng.uniform(0, 2 * np.pi, 600)
    x = np.stack([np.cos(angle), np.sin(angle)], 1) * (1 + y[:, None]) + 0.1 * rng.normal(size=(600, 2))
    path = written(tmp_path / "rings.h5", x.astype(np.float32), y, np.arange(600) // 2 % 3 // 2 * 2)
    found = compare_heads(path, heads="rbf-svm,logreg")
    assert found.test.ties == ("rbf-svm",)
    gap = found.test.to_best["logreg"]
    low, high = (100 * abs(end) for end in reversed(gap.interval))
    assert found.answer().endswith(f"; logreg is worse by {-100 * gap.difference:.1f} points ({low:.1f} to {high:.1f})")


@pytest.mark.parametrize("metric", ["balanced", "macro-f1", "log-loss", "auroc"])
def test_any_metric_orders_and_tests(photos: Path, metric: str):
    found = compare_heads(photos, heads="logreg,centroid", metric=metric)
    first, second = (score.score for score in found.scores)
    assert (first <= second) if metric == "log-loss" else (first >= second)
    for score in found.scores:
        assert score.interval[0] <= score.score <= score.interval[1]


def test_repeated_folds_leave_the_test_part_alone(photos: Path):
    before = compare_heads(photos, heads="logreg,ridge", cv="4x2")
    assert before.measured_on == "4 folds x 2 of 216 images outside the test part"
    with FeatureFile(photos) as file:
        test = file.rows_of("test")
        rows = np.array(file.rows[test, 0])
    with RowWriter(photos) as writer:
        writer.commit(plain(test), -rows)
    after = compare_heads(photos, heads="logreg,ridge", cv="4x2")
    assert [score.score for score in before.scores] == [score.score for score in after.scores]


def test_seeds_are_averaged(photos: Path):
    one, three = (compare_heads(photos, heads="logreg,knn", seeds=seeds) for seeds in (1, 3))
    assert three.measured_on == "test, n=108, 3 seeds"
    for a, b in zip(sorted(one.scores, key=lambda s: s.name), sorted(three.scores, key=lambda s: s.name), strict=True):
        assert b.score == pytest.approx(a.score, abs=0.06)
        assert b.interval[0] < b.score < b.interval[1]


def test_finished_cells_are_not_trained_again(photos: Path, monkeypatch: pytest.MonkeyPatch):
    trained = []
    original = run_cache.make_head
    monkeypatch.setattr(run_cache, "make_head", lambda kind, **o: trained.append(kind) or original(kind, **o))
    first = compare_heads(photos, heads="logreg,ridge")
    again = compare_heads(photos, heads="logreg,ridge,centroid")
    assert trained == ["logreg", "ridge", "centroid"]
    kept = {score.name: score for score in again.scores}
    assert all(kept[score.name] == score for score in first.scores)
    compare_heads(photos, heads="logreg", tune="none")
    assert trained[3:] == ["logreg"]


def test_an_interrupted_comparison_goes_on(photos: Path, monkeypatch: pytest.MonkeyPatch):
    trained = []
    original = run_cache.make_head

    def stop_at_ridge(kind: str, **options):
        trained.append(kind)
        if kind == "ridge" and trained.count("ridge") == 1:
            raise KeyboardInterrupt
        return original(kind, **options)

    monkeypatch.setattr(run_cache, "make_head", stop_at_ridge)
    with pytest.raises(KeyboardInterrupt):
        compare_heads(photos, heads="logreg,ridge")
    compare_heads(photos, heads="logreg,ridge")
    assert trained == ["logreg", "ridge", "ridge"]


def test_a_damaged_cell_is_worked_out_again(photos: Path):
    first = compare_heads(photos, heads="ridge")
    (cell,) = (photos.parent / "photos.resnet50.cells").iterdir()
    data = bytearray(cell.read_bytes())
    data[-20] ^= 4
    cell.write_bytes(data)
    message = re.escape(
        f"a kept result of an earlier comparison, {cell}, is damaged (ValueError: its bytes do not match their "
        "checksum). It is computed again, and so is every other such one."
    )
    with pytest.warns(OnepassWarning, match=f"{message}$") as told:
        again = compare_heads(photos, heads="ridge")
    assert len(told) == 1
    assert again.scores[0].score == first.scores[0].score


def test_changed_rows_are_new_cells_and_old_ones_go(photos: Path):
    compare_heads(photos, heads="ridge")
    (before,) = (photos.parent / "photos.resnet50.cells").iterdir()
    with RowWriter(photos) as writer:
        writer.commit(plain([0]), np.zeros((1, 24), np.float32))
    compare_heads(photos, heads="ridge")
    (after,) = (photos.parent / "photos.resnet50.cells").iterdir()
    assert after.name.split("-")[0] != before.name.split("-")[0]
    assert after.name.split("-")[1] == before.name.split("-")[1]


def test_what_a_killed_comparison_left_half_written_goes(photos: Path):
    compare_heads(photos, heads="ridge")
    folder = photos.parent / "photos.resnet50.cells"
    (cell,) = folder.iterdir()
    (folder / f".{cell.name}.new-{socket.gethostname()}-{os.getpid()}-0a1b2c3d").mkdir()
    compare_heads(photos, heads="ridge")
    assert list(folder.iterdir()) == [cell]


def test_a_folder_that_cannot_be_written_costs_no_more_than_the_cells(photos: Path):
    (photos.parent / "photos.resnet50.cells").write_text("in the way")
    assert len(compare_heads(photos, heads="ridge").scores) == 1


def test_several_backbones_meet_on_the_same_images(photos: Path, tmp_path: Path, rng: np.random.Generator):
    with FeatureFile(photos) as file:
        rows, y, splits = np.array(file.rows[:314, 0]), file.table.labels[:314], file.table.splits[:314]
    noisy = rows[:, :20] + 2 * rng.normal(size=(314, 20)).astype(np.float32)
    other = written(tmp_path / "photos.vgg16.h5", noisy, y, splits, backbone="vgg16")
    with FeatureFile(other) as file, FeatureFile(photos) as first:
        same = file.table.content_hashes == first.table.content_hashes[:314]
    if not same.all():
        pytest.skip("the tables of both files differ")
    found = compare_heads([photos, other], heads="logreg,ridge")
    assert {score.name for score in found.scores} == {
        "resnet50/logreg", "resnet50/ridge", "vgg16/logreg", "vgg16/ridge",
    }  # fmt: skip
    assert found.scores[0].name.startswith("resnet50/")
    assert found.left_out == 10
    assert "10 images that not every feature file has are left out" in str(found)


def test_files_of_other_images_are_refused(photos: Path, tmp_path: Path, rng: np.random.Generator):
    x, y = blobs(rng, 30, 24)
    other = written(tmp_path / "other.h5", x, y, np.zeros(30))
    write_feature_file(other, make_spec(width=24), make_table(30, 3, seed=9), {}, GOLDEN[..., :1].repeat(24, axis=2))
    with RowWriter(other) as writer:
        writer.commit(plain(range(30)), x)
    with pytest.raises(TrainingError) as caught:
        compare_heads([photos, other], heads="ridge")
    assert str(caught.value) == f"{photos} and {other} have no image in common. Extract both from the same folder."


def test_the_best_is_saved_from_train_and_val(photos: Path, tmp_path: Path):
    found = compare_heads(photos, heads="logreg,ridge", save_best=True, out=tmp_path / "best.head")
    saved = load_head(tmp_path / "best.head")
    assert saved.kind == found.cheapest.head
    assert saved.trained_on["rows"] == 216
    assert saved.evaluation.measured_on == "test"
    assert f"{found.cheapest.name} is in {tmp_path / 'best.head'}" in str(found).splitlines()


def test_a_learning_curve_grows_and_ends_in_a_forecast(photos: Path):
    found = compare_heads(photos, heads="ridge", learning_curve=True)
    curve = found.learning["ridge"]
    assert list(curve.sizes) == [15, 30, 63, 129, 162]
    assert curve.scores[-1] == pytest.approx(found.scores[0].score)
    assert "twice the images: " in str(found)
    low, high = curve.doubled_interval
    assert 0 <= low <= curve.doubled <= high <= 1
    assert f"these test images will show {curve.doubled:.3f} ({low:.3f} to {high:.3f})" in str(found)


def test_copies_of_training_images_are_scored_apart(tmp_path: Path, rng: np.random.Generator):
    x, y = blobs(rng, 300, 24, spread=0.5)
    parts = np.where(np.arange(300) // 3 % 3 == 2, 2, 0)
    test, train = np.flatnonzero(parts == 2), np.flatnonzero(parts == 0)
    for i in test[:40]:  # near copies
        x[i] = x[train[y[train] == y[i]][i % 50]] + 0.001
    path = written(tmp_path / "leaky.h5", x, y, parts)
    found = compare_heads(path, heads="knn,ridge")
    assert found.copies >= 40
    for score in found.scores:
        assert score.leak_free is not None
    knn = next(score for score in found.scores if score.name == "knn")
    assert knn.leak_free < knn.score
    assert "of training images; without: " in str(found)
    assert "without copies" in str(found).split("\n\n")[1].splitlines()[0]
    trained = train_head(path, head="knn", out=tmp_path / "x.head").head.evaluation
    assert trained.leak_free.accuracy == knn.leak_free
    assert load_head(tmp_path / "x.head").evaluation == trained


@pytest.mark.parametrize(("options", "message"), [
    ({"metric": "f2"}, f"unknown metric 'f2'; there are {', '.join(HIGHER_IS_BETTER)}."),
    ({"cv": "5"}, "cv is '5'; needed: folds x repeats, such as 5x2 for five folds, twice."),
    ({"cv": "1x2"}, "cv is '1x2'; needed: folds x repeats, such as 5x2 for five folds, twice."),
    ({"seeds": 0}, "seeds is 0; needed: at least 1."),
    ({"seeds": 2, "cv": "5x2"}, "seeds does not go with cv, whose repeats have seeds of their own, such as 5x4."),
    ({"heads": "svm,svm"}, "heads names svm twice; needed: each head once."),
    ({"heads": "svm:3"}, "heads names 'svm:3'; only mlp takes layers, such as mlp:256x128."),
    ({"heads": "mlp:a"}, "heads names 'mlp:a'; needed: units of each layer, such as mlp:256x128."),
    ({"class_weight": {"emu": 2}}, "class weights name 'emu'; the classes are class0, class1, class2."),
])  # fmt: skip
def test_wrong_options_are_refused(photos: Path, options: dict, message: str):
    with pytest.raises(OptionError) as caught:
        compare_heads(photos, **{"heads": "ridge"} | options)
    assert str(caught.value) == message


def test_too_few_images_for_the_folds_are_refused(tmp_path: Path, rng: np.random.Generator):
    x, y = blobs(rng, 12, 24)
    path = written(tmp_path / "few.h5", x, y, np.zeros(12))
    with pytest.raises(TrainingError) as caught:
        compare_heads(path, heads="ridge", cv="30x1")
    assert str(caught.value) == ("12 images outside the test part are too few for 30 folds. Ask for fewer by cv.")


def test_the_command_prints_json_and_csv(photos: Path):
    done = run_program(
        "compare-heads", "--heads", "ridge,centroid", "--csv", "t.csv", "--json", "--class-weight", "class0=2",
        cwd=photos.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["answer"]
    assert {head["name"] for head in record["heads"]} == {"ridge", "centroid"}
    with open(photos.parent / "t.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [head["name"] for head in record["heads"]]
    assert float(lines[0]["score"]) == record["heads"][0]["score"]
    refused = run_program("compare-heads", "--split", "--cv", "5x2", cwd=photos.parent)
    assert refused.returncode == 2
    assert refused.stderr == "error: --split and --cv are two ways to score; give one of them.\n"


def test_the_answer_reads_well():
    from onepass.heads.compare.report import HeadScore
    from onepass.heads.stats.intervals import Difference
    from onepass.heads.stats.multiple_comparison import Comparison

    def line(name: str, score: float, seconds: float, size: int) -> HeadScore:
        return HeadScore(name, name, "f.h5", {}, score, (0, 1), 0.1, 0.01, None, seconds, 5.0, size)

    scores = [
        line("svm", 0.93, 2.0, 33_000),
        line("logreg", 0.93, 0.4, 33_400),
        line("mlp:256", 0.92, 5, 2_100_000),
        line("knn", 0.909, 0.1, 16_000_000),
    ]
    none = Difference(0.0, (-0.01, 0.01), 1.0)
    gaps = {"svm": none, "logreg": none, "mlp:256": none, "knn": Difference(-0.021, (-0.0417, -0.0003), 0.0001)}
    names, detectable = ("svm", "logreg", "mlp:256", "knn"), {"logreg": 0.0289, "mlp:256": 0.036, "knn": 0.05}
    test = Comparison(names, "svm", names[:3], gaps, {}, detectable)
    found = HeadsComparison("test, n=500", 500, "accuracy", scores, test)
    end = "; the cheapest is logreg (0.4 s, 33 kB); knn is worse by 2.1 points (0.03 to 4.2)"
    told = "svm, logreg and mlp:256 cannot be told apart with 500 images"
    seen = "would have been seen in four of five cases"
    assert found.answer() == f"{told}; a difference of 2.9 to 3.6 points, depending on the head, {seen}{end}"
    one = replace(found, test=replace(test, detectable={"logreg": 0.0289, "mlp:256": 0.0291}))
    assert one.answer() == f"{told}; a difference of 2.9 points {seen}{end}"
    few = replace(found, test=replace(test, detectable={"logreg": 0.5, "mlp:256": math.inf}))
    assert few.answer() == f"{told}, too few to see any difference in four of five cases{end}"
    alike = replace(found, test=replace(test, detectable={"logreg": 0.0, "mlp:256": 0.0}))
    assert alike.answer() == told + end
    assert [row[3] for row in found.rows()] == [
        "points to best (joint 95 %)", "best", "0.0 (-1.0 to 1.0)", "0.0 (-1.0 to 1.0)", "-2.1 (-4.2 to -0.03)",
    ]  # fmt: skip
    loss = replace(found, metric="log-loss", test=replace(test, detectable={"logreg": 0.0289, "mlp:256": 0.036}))
    assert f"; a difference of 0.029 to 0.036, depending on the head, {seen}; " in loss.answer()
    assert loss.answer().endswith("; knn is worse by 0.021 (0.0003 to 0.042)")
    assert loss.rows()[0][3] == "to best (joint 95 %)"


def test_the_table_of_nine_heads_fits_80_columns():
    from onepass.heads.compare.report import HeadScore
    from onepass.heads.head_options import HEADS_OF
    from onepass.heads.stats.intervals import Difference
    from onepass.heads.stats.multiple_comparison import Comparison

    names = [f"{head}:256" if head == "mlp" else head for head in HEADS_OF["classes"]]
    scores = [
        HeadScore(name, name, "f.h5", {}, 0.9, (0.811, 0.987), 0.123, 0.012, 0.888, 123.4, 1234.0, 16_000_000)
        for name in names
    ]
    gaps = {name: Difference(-0.123, (-0.2345, 0.0123), 0.1) for name in names}
    test = Comparison(tuple(names), names[0], tuple(names), gaps, {}, dict.fromkeys(names[1:], 0.07))
    *table, answer = str(HeadsComparison("test, n=153", 153, "balanced", scores, test)).splitlines()
    assert len(names) == 9
    assert max(len(line) for line in table) <= 80
    assert table[-11].startswith("head      without copies  log loss")
    assert "cannot be told apart with 153 images" in answer


def test_a_learning_curve_of_few_images_takes_the_parts_that_differ(tmp_path: Path):
    few = _few_images(tmp_path / "few.h5", 26)
    found = compare_heads(few, heads="ridge,centroid", tune="none", learning_curve=True)
    for forecast in found.learning.values():
        assert list(forecast.sizes) == sorted(set(forecast.sizes))
        assert len(forecast.sizes) >= 3


def test_too_few_images_for_a_learning_curve_are_refused_before_anything_is_trained(tmp_path: Path):
    fewest = _few_images(tmp_path / "fewest.h5", 10, classes=4)
    with pytest.raises(TrainingError) as refused:
        compare_heads(fewest, heads="ridge", tune="none", learning_curve=True)
    assert str(refused.value) == (
        "learning_curve needs three growing parts of the training images with two images of each class; "
        f"{fewest} has 8 training images of 4 classes. Leave it out, or add images."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["fewest.h5"]


def _few_images(path: Path, n: int, classes: int = 2) -> Path:
    table = make_table(n, classes)
    rows = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32) + 2 * table.labels[:, None]
    write_feature_file(path, make_spec(), table, {"data": "photos", "backbone": "resnet50"}, GOLDEN)
    with RowWriter(path) as writer:
        writer.commit(plain(range(n)), rows)
    return path
