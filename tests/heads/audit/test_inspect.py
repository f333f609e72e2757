import csv
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, OptionError
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads.audit import label_errors
from onepass.heads.audit.inspect import inspect
from onepass.heads.audit.label_errors import nearest_labels, out_of_fold, suspects
from onepass.heads.audit.outliers import find_outliers, neighbour_distances
from onepass.heads.fitting.temperature import best_inverse_temperature
from onepass.heads.inference.network import softmax, standardisation
from support import GOLDEN, make_spec, make_table, plain, run_process

WIDTH, CLASSES, IMAGES = 48, 3, 240
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Planted:
    """A feature file with known errors, by position."""

    path: Path
    flipped: list[int]
    near: list[tuple[int, int]]
    copies: tuple[int, int]
    stranger: int
    unreadable: int
    paths: tuple[str, ...]


def class_rows(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Rows not below 0 of classes that a head tells apart nearly always."""
    centres = 1.6 * rng.normal(size=(CLASSES, WIDTH))
    return np.maximum(1 + centres[labels] + rng.normal(size=(len(labels), WIDTH)), 0).astype(np.float32)


@pytest.fixture
def planted(tmp_path: Path, rng: np.random.Generator) -> Planted:
    table = make_table(IMAGES, CLASSES)
    rows = class_rows(rng, table.labels)
    flipped = [10, 33, 52, 71, 95, 130, 161, 190, 202, 225]
    labels = table.labels.copy()
    labels[flipped] = (labels[flipped] + 1) % CLASSES
    # 4, 9, 14 ... are the test part; 3 + 3 * 5 would be another class than 3.
    near = [(0, 9), (3, 24)]
    for left, right in near:
        rows[right] = rows[left] * rng.uniform(0.9, 1.1, WIDTH)
    copies, stranger, unreadable = (100, 101), 200, 210
    rows[101], table.content_hashes[101] = rows[100], table.content_hashes[100]
    rows[stranger] = np.eye(WIDTH)[7] * 30
    path = tmp_path / "planted.h5"
    spec = make_spec(width=WIDTH)
    write_feature_file(path, spec, replace(table, labels=labels), {}, np.ones((1, 2, WIDTH), np.float32))
    with RowWriter(path) as writer:
        kept = [i for i in range(IMAGES) if i != unreadable]
        writer.commit(plain(kept), rows[kept])
        writer.skip(unreadable, "empty file")
    return Planted(path, flipped, near, copies, stranger, unreadable, table.paths)


def test_everything_planted_is_found_and_little_else(planted: Planted):
    found = inspect(planted.path, threshold=0.8)
    name = planted.paths.__getitem__

    assert [(p.image.path, p.other.path) for p in found.near_duplicates] == [
        (name(i), name(j)) for i, j in sorted(planted.near, key=lambda pair: -cosine_of(found, name(pair[0])))
    ]
    assert all(pair.across_splits and not pair.across_classes for pair in found.near_duplicates)
    assert [(group.paths, group.classes) for group in found.copies] == [
        ([name(100), name(101)], ["class1", "class2"])
    ]  # fmt: skip
    assert [(s.path, s.reason) for s in found.unreadable] == [(name(planted.unreadable), "empty file")]
    assert [outlier.image.path for outlier in found.outliers] == [name(planted.stranger)]
    assert found.label_errors is not None
    suspected = {error.image.path for error in found.label_errors}
    wrong = {name(i) for i in planted.flipped}
    # Of the two copies in different classes one is wrong for certain, and the stranger belongs nowhere.
    excusable = {name(100), name(101), name(planted.stranger)}
    assert len(suspected & wrong) >= 9
    assert len(suspected - wrong - excusable) <= 1
    assert found.labels_by == "confident learning"


def cosine_of(found, path: str) -> float:
    return next(pair.cosine for pair in found.near_duplicates if pair.image.path == path)


def test_label_errors_name_the_class_that_the_image_came_from_the_surest_first(planted: Planted):
    found = inspect(planted.path, threshold=0.8)
    assert found.label_errors is not None
    confidences = [error.confidence for error in found.label_errors]
    assert confidences == sorted(confidences)
    true = {planted.paths[i]: f"class{i % CLASSES}" for i in planted.flipped}
    for error in found.label_errors:
        assert error.suggested == true.get(error.image.path, error.suggested)
        assert error.suggested != error.image.label
        assert error.suggested_confidence > error.confidence


def test_a_label_is_called_with_the_reason_for_a_look(planted: Planted):
    found = inspect(planted.path, threshold=0.8)
    with FeatureFile(planted.path) as file:
        positions = np.flatnonzero(file.committed)
        x, y = file.read(positions)
    mean, scale = standardisation(x)
    nearest = (
        NearestNeighbors(n_neighbors=11, metric="cosine").fit((x - mean) / scale).kneighbors(return_distance=False)
    )
    by_path = {planted.paths[position]: row for position, row in zip(positions, nearest, strict=True)}
    alone = [e for e in found.label_errors or [] if e.image.path in map(planted.paths.__getitem__, planted.flipped)]
    assert len(alone) >= 9
    compared = 0
    for error in alone:
        # The two copies, 100 and 101, are equally near and labelled differently: which of them is tenth is chance.
        labels = [found_class(y[i]) for i in by_path[error.image.path][:10]]
        if 100 in by_path[error.image.path]:
            continue
        compared += 1
        counted = (error.nearest, error.nearest_suggested, error.nearest_own)
        assert counted == (10, labels.count(error.suggested), labels.count(error.image.label))
    assert compared >= 5
    first = replace(
        alone[0],
        suggested="dog",
        confidence=0.01,
        suggested_confidence=0.9,
        image=replace(alone[0].image, label="cat"),
        nearest_suggested=9,
        nearest_own=0,
    )
    assert first.reason == (
        "dog 0.900, cat 0.010 by heads that did not see it; of the 10 most like it 9 are dog, none cat"
    )
    assert replace(first, nearest_suggested=0, nearest_own=3).reason.endswith("most like it none are dog, 3 cat")


def found_class(label: int) -> str:
    return f"class{label}"


def test_the_record_is_plain_json_with_every_finding(planted: Planted):
    found = inspect(planted.path, threshold=0.8)
    record = json.loads(json.dumps(found.record()))
    assert record["path"] == str(planted.path)
    assert record["counts"]["train"].keys() == {"class0", "class1", "class2"}
    assert sum(sum(counts.values()) for counts in record["counts"].values()) == IMAGES - 1
    assert record["imbalance"] == round(found.imbalance, 3)
    assert record["near_duplicates"][0]["image"]["split"] in ("train", "test")
    assert [error["reason"] for error in record["label_errors"]] == [error.reason for error in found.label_errors or []]
    assert record["label_errors"][0]["image"]["label"] != record["label_errors"][0]["suggested"]


def test_the_csv_has_one_line_per_finding_and_is_not_overwritten(planted: Planted, tmp_path: Path):
    found, path = inspect(planted.path, threshold=0.8), tmp_path / "findings.csv"
    found.write_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    kinds = [line["kind"] for line in lines]
    assert kinds.count("unreadable") == kinds.count("copy") == kinds.count("outlier") == 1
    assert kinds.count("near duplicate") == 2
    assert [line["reason"] for line in lines if line["kind"] == "label"] == [e.reason for e in found.label_errors or []]
    name = planted.paths.__getitem__
    assert list(lines[0].values()) == ["unreadable", name(planted.unreadable), "", "", "empty file", "", ""]
    assert list(lines[1].values()) == ["copy", name(101), "train", "class1+class2", name(100), "1", ""]
    near = next(line for line in lines if line["path"] == name(3))
    assert (near["other"], near["split"], near["class"]) == (name(24), "train", "class0")

    with pytest.raises(
        OptionError, match=f"^{path} exists and is not overwritten. Choose another name with csv, or delete it.$"
    ):
        found.write_csv(path)
    nowhere = tmp_path / "none" / "f.csv"
    with pytest.raises(
        OptionError, match=f"^the folder of csv='{nowhere}' does not exist. Make it, or name another one.$"
    ):
        found.write_csv(nowhere)


def test_the_text_names_what_was_found_what_does_harm_first(planted: Planted):
    text = str(inspect(planted.path, threshold=0.8))
    name = planted.paths.__getitem__
    assert f"{planted.path}: 239 images, 3 classes, the largest 1.1 times the smallest\n  class " in text
    assert f"unreadable: 1\n  {name(planted.unreadable)}  empty file\nexact copies: 1 image is an exact copy" in text
    assert (
        "near duplicates (cosine of rows 0.80 or more, of thumbnails 0.985): 2 pairs, 2 across splits, 0 across "
        in text
    )
    assert f"{name(3)} (train)  {name(24)} (test)" in text
    assert re.search(r"\(train\)\s+class1 0\.", text)
    assert "  rather class0 0." in text
    assert "\nlabels worth a look, the likeliest errors first: " in text
    assert "  of the 10 most like it 10 are class0, none class1\n" in text
    assert text.endswith(f" {name(planted.stranger)} (train)")
    assert "\noutliers: 1\n" in text


def test_clean_data_raise_no_alarm(tmp_path: Path, rng: np.random.Generator):
    table, path = make_table(IMAGES, CLASSES), tmp_path / "clean.h5"
    write_feature_file(path, make_spec(width=WIDTH), table, {}, np.ones((1, 2, WIDTH), np.float32))
    with RowWriter(path) as writer:
        writer.commit(plain(range(IMAGES)), class_rows(rng, table.labels))
    found = inspect(path, threshold=0.8)
    assert (found.near_duplicates, found.copies, found.unreadable) == ([], [], [])
    assert len(found.label_errors or []) <= 1
    assert len(found.outliers) <= 3
    text = str(replace(found, label_errors=[], outliers=[])).splitlines()
    assert text[-5:] == [
        "unreadable: none",
        "exact copies: none",
        "near duplicates (cosine of rows 0.80 or more, of thumbnails 0.985): none",
        "labels worth a look, the likeliest errors first: none",
        "outliers: none",
    ]


def test_without_labels_scikit_learn_is_not_needed(planted: Planted):
    script = (
        "import sys; from onepass.heads.audit.inspect import inspect; found = inspect(sys.argv[1], labels=False); "
        "assert found.label_errors is None; print(found); "
        "print([name for name in ('sklearn', 'tensorflow') if name in sys.modules])"
    )
    done = run_process("python", "-c", script, str(planted.path), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "labels: not looked at; labels were not asked for" in done.stdout


def test_one_class_has_no_wrong_labels_and_few_images_no_outliers(tmp_path: Path, rng: np.random.Generator):
    table, path = make_table(12, 1), tmp_path / "few.h5"
    write_feature_file(path, make_spec(), table, {}, GOLDEN)
    with RowWriter(path) as writer:
        writer.commit(plain(range(11)), rng.random((11, 6), np.float32))
    found = inspect(path)
    assert (found.label_errors, found.labels_by) == (None, "there is only one class")
    assert found.outliers == []
    assert "1 further image has no row yet and was not looked at" in str(found)
    assert inspect(FeatureFile(path)) == found


def test_a_file_without_rows_is_refused(tmp_path: Path):
    path = tmp_path / "empty.h5"
    write_feature_file(path, make_spec(), make_table(4), {}, GOLDEN)
    message = f"^{path} holds no rows yet. Run the same extract command again to fill it.$"
    with pytest.raises(FeatureFileError, match=message):
        inspect(path)


def test_a_mislabelled_copy_cannot_vouch_for_itself(rng: np.random.Generator):
    y = np.arange(120) % CLASSES
    x = class_rows(rng, y)
    x[3] = x[0]
    y[[0, 3]] = 1  # both copies of class 0 are called class 1
    alone, together = np.arange(120), np.arange(120)
    together[3] = 0
    torn, whole = out_of_fold(x, y, alone), out_of_fold(x, y, together)
    assert whole[[0, 3], 1].max() < torn[[0, 3], 1].min()
    np.testing.assert_allclose(whole.sum(axis=1), 1)
    assert set(suspects(whole, y).positions[:2]) == {0, 3}


def test_a_class_that_cannot_be_held_out_is_not_judged(rng: np.random.Generator):
    y = np.array([0, 1] * 20 + [2])
    probabilities = out_of_fold(class_rows(rng, y), y, np.arange(41))
    assert np.isnan(probabilities[-1]).all()
    probabilities[5] = [0.999998, 1e-6, 1e-6]  # labelled 1
    assert suspects(probabilities, y).positions.tolist() == [5]
    assert suspects(probabilities, y).suggested.tolist() == [0]
    nothing = np.full((4, 2), np.nan)
    assert suspects(nothing, np.array([0, 1, 0, 1])).positions.tolist() == []


@pytest.mark.parametrize(("rate", "classes"), [(0.02, 4), (0.05, 4), (0.1, 2), (0.2, 3)])
def test_of_labels_made_wrong_seven_in_ten_are_called_and_seven_in_ten_called_are_wrong(rate: float, classes: int):
    called, wrong, both = 0, 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true = rng.integers(0, classes, 1000)
        y = np.where(rng.random(1000) < rate, (true + rng.integers(1, classes, 1000)) % classes, true)
        # Scores of heads that are right on about 95 %, with probabilities that hold for the labels there are.
        scores = 4.5 * np.eye(classes)[true] + rng.normal(size=(1000, classes)) * 1.5
        found = suspects(softmax(best_inverse_temperature(scores, y) * scores), y).positions
        called, wrong, both = called + len(found), wrong + (y != true).sum(), both + (y != true)[found].sum()
    assert both / wrong >= 0.7
    assert both / called >= 0.7


def test_as_many_labels_are_called_as_are_confidently_seen_in_another_class():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.15, 0.85], [0.3, 0.7], [0.45, 0.55]])
    y = np.array([0, 0, 0, 1, 1, 1, 1])
    # Means: 0.633 of class 0, 0.75 of class 1. Only the third image is at least as probable in the other class.
    found = suspects(probabilities, y)
    assert (found.positions.tolist(), found.suggested.tolist()) == ([2], [1])
    sure = np.where(probabilities > 0.5, 0.999, 0.001)
    sure[2] = [0.015, 0.985]
    # Now the mean of class 1 is 0.999, which the third image does not reach; but it is obvious.
    assert suspects(sure, y).positions.tolist() == [2]
    sure[2] = [0.025, 0.975]
    assert suspects(sure, y).positions.tolist() == []


def test_the_nearest_labels_leave_out_the_group_and_do_not_depend_on_the_pieces(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
):
    y = np.arange(60) % CLASSES
    x, groups, some = class_rows(rng, y), np.arange(60), np.arange(0, 60, 7)
    groups[1] = groups[0]
    x[1] = x[0]
    whole = nearest_labels(x, y, groups, some)
    assert whole.shape == (9, 10)
    apart = nearest_labels(x, y, np.arange(60), some)
    assert apart[0, 0] == y[1]
    np.testing.assert_array_equal(whole[0, :9], apart[0, 1:])
    monkeypatch.setattr(label_errors, "_COSINES", 120)
    np.testing.assert_array_equal(nearest_labels(x, y, groups, some), whole)
    assert nearest_labels(x[:4], y[:4], np.arange(4), np.array([0])).shape == (1, 3)
    assert nearest_labels(x, y, groups, some[:0]).shape == (0, 10)


def test_neighbour_distances_are_those_of_scikit_learn(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onepass.heads.audit.outliers.BLOCK", 300)
    x, trained = rng.random((90, 12), np.float32), np.arange(90) % 3 > 0
    search = NearestNeighbors(n_neighbors=11, metric="cosine").fit(x[trained])
    distances, _ = search.kneighbors(x)
    wanted = np.where(trained, distances[:, 1:].mean(axis=1), distances[:, :10].mean(axis=1))
    np.testing.assert_allclose(neighbour_distances(x, trained), wanted, atol=1e-6)


def test_outliers_stop_at_one_in_a_hundred_unless_more_are_clear(rng: np.random.Generator):
    x = (4 + rng.random((300, 20))).astype(np.float32)
    trained = np.ones(300, bool)
    assert len(find_outliers(x, trained).positions) <= 3
    x[:8] = np.eye(20, dtype=np.float32)[:8]
    far = find_outliers(x, trained)
    assert sorted(far.positions.tolist()) == list(range(8))
    assert (np.diff(far.scores) <= 0).all()
    assert far.scores.min() > 5


def test_groups_copies_and_near_duplicates_are_held_out_together(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
):
    table, path = make_table(IMAGES, CLASSES), tmp_path / "groups.h5"
    rows = class_rows(rng, table.labels)
    rows[9] = rows[0] * rng.uniform(0.9, 1.1, WIDTH)
    table.content_hashes[20] = table.content_hashes[9]
    groups = tuple("patient 7" if i in (20, 31, 44) else "" for i in range(IMAGES))
    write_feature_file(path, make_spec(width=WIDTH), replace(table, groups=groups), {}, np.ones((1, 2, WIDTH), "f4"))
    with RowWriter(path) as writer:
        writer.commit(plain(range(IMAGES)), rows)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(label_errors, "out_of_fold", lambda x, y, groups: seen.append(groups) or np.eye(CLASSES)[y])
    inspect(path, threshold=0.8)
    assert np.flatnonzero(seen[0] == seen[0][0]).tolist() == [0, 9, 20, 31, 44]
    assert len(np.unique(seen[0])) == IMAGES - 4
