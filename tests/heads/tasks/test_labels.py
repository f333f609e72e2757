"""Several labels or none per image: fitted, calibrated, scored, kept and compared."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from onepass import compare_heads, evaluate, inspect, load_head, train_head
from onepass import label as put_labels
from onepass.features import FeatureFile
from onepass.features.errors import HeadFileError, OptionError, TrainingError
from onepass.heads import LogisticHead, RidgeHead
from onepass.heads.head_options import HEADS_OF
from onepass.heads.inference.network import sigmoid
from onepass.heads.stats.metrics import metric
from onepass.heads.tasks.label_evaluation import score_labels
from onepass.heads.tasks.labels import best_thresholds, calibrated
from onepass.heads.training import make_head
from support import FAST_NETS
from task_files import NAMES, labelled, write_labels

every_head = pytest.mark.parametrize("kind", HEADS_OF["labels"])


@pytest.fixture
def file_of_labels(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_labels(tmp_path / "many.h5", *labelled(rng))


@every_head
def test_a_head_learns_labels(kind: str, rng: np.random.Generator):
    x, y = labelled(rng, 300)
    head = make_head(kind, task="labels", **FAST_NETS.get(kind, {})).fit(x[:220], y[:220])
    p, named = head.predict_proba(x[220:]), head.predict(x[220:])
    assert p.shape == named.shape == (80, 3)
    assert sk.average_precision_score(y[220:], p, average="macro") > 0.7
    np.testing.assert_array_equal(named, p >= head.thresholds_)
    assert head.score(x, y) == sk.accuracy_score(y, head.predict(x))
    assert np.abs(p.mean(axis=0) - y[220:].mean(axis=0)).max() < 0.12


@every_head
def test_a_label_does_not_hang_on_its_place(kind: str, rng: np.random.Generator):
    x, y = labelled(rng, 120)
    options = FAST_NETS.get(kind, {}) | {"tune": "none"}
    one, other = (make_head(kind, task="labels", **options).fit(x, z).predict_proba(x) for z in (y, y[:, ::-1]))
    np.testing.assert_allclose(one, other[:, ::-1], atol=0.25 if kind in ("mlp", "linear") else 1e-3)


def standard(x: np.ndarray, head: RidgeHead) -> np.ndarray:
    return ((x - head.network_.mean) / head.network_.scale).astype(np.float64)


@pytest.mark.parametrize("strength", [0.05, 2.0])
def test_logistic_regression_is_scikit_learns_one_against_the_rest(strength: float, rng: np.random.Generator):
    x, y = labelled(rng, 150)
    head = LogisticHead(task="labels", C=strength, tune="none").fit(x, y)
    reference = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=1000, tol=1e-8)).fit(standard(x, head), y)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(standard(x, head)), atol=2e-4)


def test_ridge_is_scikit_learns_on_all_labels_at_once(rng: np.random.Generator):
    x, y = labelled(rng, 100)
    w = rng.uniform(0.5, 2, 100)
    head = RidgeHead(task="labels", alpha=3.0, tune="none").fit(x, y, weights=w)
    reference = Ridge(alpha=3.0).fit(standard(x, head), 2 * y - 1, sample_weight=w)
    np.testing.assert_allclose(head.network_.scores(x), reference.predict(standard(x, head)), atol=1e-5)


def test_calibration_is_platts_by_an_independent_fit(rng: np.random.Generator):
    """His smoothed targets are a logistic regression on rows of both labels, weighted by the targets."""
    scores, w = 5 * rng.normal(size=(80, 2)) + 3, rng.uniform(0.5, 2, 80)
    y = (rng.random((80, 2)) < sigmoid(0.4 * scores - 1)).astype(float)
    slopes, shifts = calibrated(scores, y, w)
    count = w.sum() ** 2 / np.square(w).sum()
    for label in range(2):
        having = count * (w @ y[:, label]) / w.sum()
        t = np.where(y[:, label] == 1, (having + 1) / (having + 2), 1 / (count - having + 2))
        both = np.concatenate([scores[:, [label]]] * 2)
        found = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(
            both, np.repeat([1, 0], 80), sample_weight=np.concatenate([w * t, w * (1 - t)])
        )
        assert slopes[label] == pytest.approx(found.coef_[0, 0], rel=1e-2)
        assert shifts[label] == pytest.approx(found.intercept_[0], rel=2e-2, abs=1e-2)


def test_a_label_that_scores_say_nothing_of_keeps_its_share_and_its_order(rng: np.random.Generator):
    y = np.zeros((40, 2))
    y[:10, 0] = 1
    slopes, shifts = calibrated(np.where(y == 1, -1.0, 1.0) + 0.01 * rng.normal(size=(40, 2)), y, np.ones(40))
    assert (slopes > 0).all()
    p = sigmoid(slopes * 0 + shifts)
    assert p[0] == pytest.approx(0.25, abs=0.05)
    assert p[1] < 0.03


def test_thresholds_have_the_best_f1_of_all(rng: np.random.Generator):
    y = (rng.random((60, 3)) < 0.3).astype(float)
    p = np.clip(0.3 * y + 0.6 * rng.random((60, 3)), 0, 1)
    p[:5] = np.nan
    found = best_thresholds(p, y, np.ones(60))
    for label in range(3):
        told, true = p[5:, label], y[5:, label]
        best = max(sk.f1_score(true, told >= t) for t in told)
        assert sk.f1_score(true, told >= found[label]) == pytest.approx(best)


@pytest.mark.parametrize("name", ["map", "micro-f1", "macro-f1", "subset", "log-loss"])
def test_metrics_equal_scikit_learns(name: str, rng: np.random.Generator):
    y = (rng.random((50, 4)) < 0.4).astype(float)
    p = np.round(rng.random((50, 4)), 1)  # with ties
    w = rng.integers(1, 4, 50).astype(float)
    named = p >= 0.5
    expected = {
        "map": lambda: sk.average_precision_score(y, p, average="macro", sample_weight=w),
        "micro-f1": lambda: sk.f1_score(y, named, average="micro", sample_weight=w),
        "macro-f1": lambda: sk.f1_score(y, named, average="macro", sample_weight=w),
        "subset": lambda: sk.accuracy_score(y, named, sample_weight=w),
        "log-loss": lambda: np.mean(
            [sk.log_loss(y[:, i], np.clip(p[:, i], 2.2e-16, 1 - 2.2e-16), sample_weight=w) for i in range(4)]
        ),
    }[name]()
    assert metric(name, p, y, weights=w[None])[0] == pytest.approx(expected, rel=1e-6)


def test_scores_equal_scikit_learns(rng: np.random.Generator):
    y = (rng.random((50, 3)) < 0.4).astype(float)
    p = rng.random((50, 3))
    named = (p >= 0.4).astype(int)
    found = score_labels(named, p, y, NAMES, measured_on="test", copies=np.arange(50) < 10)
    columns = sk.precision_recall_fscore_support(y, named)
    for i, one in enumerate(found.per_label.values()):
        np.testing.assert_allclose((one.precision, one.recall, one.f1, one.n), [column[i] for column in columns])
    assert found.leak_free.n == 40
    assert found.leak_free.value == pytest.approx(sk.average_precision_score(y[10:], p[10:], average="macro"))
    for name, value in found.scores.items():
        assert found.intervals[name][0] < value < found.intervals[name][1]
    with pytest.raises(TrainingError, match="no images to score in val"):
        score_labels(named[:0], p[:0], y[:0], NAMES, measured_on="val")


def test_weighted_scores_equal_scikit_learns(rng: np.random.Generator):
    y = (rng.random((60, 3)) < 0.4).astype(float)
    p, w = rng.random((60, 3)), rng.uniform(0.5, 3, 60)
    named = (p >= 0.4).astype(int)
    found = score_labels(named, p, y, NAMES, weights=w)
    columns = sk.precision_recall_fscore_support(y, named, sample_weight=w)
    for i, one in enumerate(found.per_label.values()):
        np.testing.assert_allclose((one.precision, one.recall, one.f1), [column[i] for column in columns[:3]])
    assert found.scores["map"] == pytest.approx(sk.average_precision_score(y, p, average="macro", sample_weight=w))
    assert found.scores["subset"] == pytest.approx(sk.accuracy_score(y, named, sample_weight=w))


@pytest.mark.parametrize("kind", ["logreg", "ridge", "kernel-ridge", "knn"])
def test_groups_are_held_out_together(kind: str, rng: np.random.Generator):
    """Labels that hang on the group alone cannot be told of a group that is left out."""
    groups = np.repeat(np.arange(15), 6)
    x = (rng.normal(size=(15, 10))[groups] + 0.01 * rng.normal(size=(90, 10))).astype(np.float32)
    y = (rng.random((15, 3)) < 0.4).astype(float)[groups]
    apart, alone = (make_head(kind, task="labels").fit(x, y, groups=g).held_out_ for g in (groups, None))
    assert sk.average_precision_score(y, alone, average="macro") > 0.9
    assert sk.average_precision_score(y, apart, average="macro") < 0.75


def test_the_calibration_of_each_label_is_scikit_learns(rng: np.random.Generator):
    p = rng.random((200, 3))
    y = (rng.random((200, 3)) < p).astype(float)
    found = score_labels((p >= 0.5).astype(int), p, y, NAMES, measured_on="test")
    for i, one in enumerate(found.per_label.values()):
        shares, told = calibration_curve(y[:, i], p[:, i], n_bins=10)
        np.testing.assert_allclose([row[:2] for row in one.calibration], np.stack([told, shares], axis=1))
        assert sum(row[2] for row in one.calibration) == 200


@every_head
def test_from_a_feature_file_to_a_head_file_and_back(kind: str, file_of_labels: Path, tmp_path: Path):
    trained = train_head(file_of_labels, head=kind, out=tmp_path / "x.head", **FAST_NETS.get(kind, {}))
    loaded = load_head(tmp_path / "x.head")
    assert (loaded.task, loaded.class_names, loaded.evaluation) == ("labels", NAMES, trained.head.evaluation)
    with FeatureFile(file_of_labels) as file:
        x, _ = file.read(np.arange(40))
    np.testing.assert_array_equal(loaded.predict(x), trained.head.predict(x))
    np.testing.assert_array_equal(loaded.predict(x), loaded.predict_proba(x) >= loaded.thresholds)
    again = evaluate(tmp_path / "x.head", file_of_labels, split="test")
    assert again.scores == loaded.evaluation.scores
    assert "mean average precision" in str(again)


def test_images_without_labels_known_count_nowhere(tmp_path: Path, rng: np.random.Generator):
    x, y = labelled(rng, 150)
    y[::3] = np.nan
    trained = train_head(write_labels(tmp_path / "some.h5", x, y), out=tmp_path / "x.head")
    known = np.flatnonzero(np.isfinite(y).all(axis=1))
    assert trained.head.trained_on["rows"] == (known % 5 != 4).sum()
    assert trained.head.evaluation.n == (known % 5 == 4).sum()


@pytest.mark.parametrize(("options", "message"), [
    ({"head": "lda"}, "head='lda' does not learn several labels per image, which this feature file holds; needed: "),
    ({"class_weight": "balanced"}, "class_weight is for classes, and this feature file holds several labels per "),
])  # fmt: skip
def test_what_is_for_classes_is_refused(options: dict, message: str, file_of_labels: Path, tmp_path: Path):
    with pytest.raises(OptionError) as caught:
        train_head(file_of_labels, out=tmp_path / "x.head", **options)
    assert str(caught.value).startswith(message)


def test_a_label_without_a_training_image_is_named(tmp_path: Path, rng: np.random.Generator):
    x, y = labelled(rng, 60)
    y[:, 1] = 0
    with pytest.raises(TrainingError, match="holds no training image with the label red. Every label needs some"):
        train_head(write_labels(tmp_path / "x.h5", x, y), out=tmp_path / "x.head")


def test_heads_are_compared_by_average_precision_and_by_f1(file_of_labels: Path, tmp_path: Path):
    found = compare_heads(file_of_labels, heads="logreg,ridge,knn")
    assert found.metric == "map"
    by_name = {score.name: score for score in found.scores}
    trained = train_head(file_of_labels, head="ridge", out=tmp_path / "x.head").head.evaluation
    assert by_name["ridge"].score == pytest.approx(trained.scores["map"], abs=1e-5)
    assert by_name["ridge"].further["subset"] == pytest.approx(trained.scores["subset"])
    again = compare_heads(file_of_labels, heads="logreg,ridge,knn", metric="micro-f1")
    by_name = {score.name: score for score in again.scores}
    assert by_name["ridge"].score == pytest.approx(trained.scores["micro-f1"], abs=1e-6)
    assert " points" in again.answer() or "cannot be told apart" in again.answer()


def test_a_learning_curve_counts_the_labels_that_are_right(file_of_labels: Path):
    found = compare_heads(file_of_labels, heads="ridge", learning_curve=True)
    curve = found.learning["ridge"]
    with FeatureFile(file_of_labels) as file:
        train, test = file.rows_of("train"), file.rows_of("test")
        (x, x_test), y, y_test = (file.read(part)[0] for part in (train, test)), file.wanted(train), file.wanted(test)
        groups = file.group_ids()[train]
    right = (RidgeHead(task="labels").fit(x, y, groups=groups).predict(x_test) == y_test).mean()
    assert curve.scores[-1] == pytest.approx(right, abs=1e-6)
    assert len(curve.sizes) == 5
    assert f"share of labels right {curve.scores[0]:.3f} with {curve.sizes[0]}" in str(found)
    assert curve.doubled_interval[0] <= curve.doubled <= curve.doubled_interval[1]


def test_inspection_finds_labels_that_are_missing_or_too_many(tmp_path: Path, rng: np.random.Generator):
    x, y = labelled(rng, 300)
    y = ((x[:, :3] + 0.1 * rng.normal(size=(300, 3))) > 0.3).astype(float)
    wrong, right = np.arange(0, 300, 20), y.copy()
    y[wrong, wrong // 20 % 3] = 1 - y[wrong, wrong // 20 % 3]
    path = write_labels(tmp_path / "wrong.h5", x, y)
    found = inspect(path)
    assert found.labels_by == "confident learning"
    with FeatureFile(path) as file:
        listed = [file.paths.index(error.image.path) for error in found.label_errors]
    assert len(set(listed) & set(wrong)) >= 12
    assert len(set(listed) - set(wrong)) <= 20
    for place, error in zip(listed, found.label_errors, strict=True):
        about = NAMES.index(error.about)
        assert error.has == (y[place, about] == 1)
        assert error.nearest == error.nearest_own + error.nearest_suggested
        if place in wrong and error.about == NAMES[place // 20 % 3]:
            assert error.confidence < 0.5
    firm = sum(
        error.suggested == ", ".join(n for n, has in zip(NAMES, right[place], strict=True) if has)
        for place, error in zip(listed, found.label_errors, strict=True)
        if place in wrong
    )
    assert firm >= 10
    worst = found.label_errors[0]
    assert f"rather {'without' if worst.has else 'with'} {worst.about}" in str(found)
    (line,) = (line for line in found.findings() if line[0] == "label" and line[1] == worst.image.path)
    assert line[4:6] == (worst.suggested, f"{worst.confidence:.4f}")
    assert line[6].endswith(worst.like_it)
    assert found.record()["label_errors"][0]["about"] == worst.about
    assert str(found).startswith(f"{path}: 300 images, 3 labels")


def test_labels_are_corrected_by_what_inspection_wrote(tmp_path: Path, rng: np.random.Generator):
    x, _ = labelled(rng, 200)
    y = (x[:, :3] > 0.2).astype(float)
    y[7, 1] = 1 - y[7, 1]
    path = write_labels(tmp_path / "wrong.h5", x, y)
    found = inspect(path)
    (error,) = (one for one in found.label_errors if one.image.path == _path(path, 7))
    found.write_csv(tmp_path / "findings.csv")
    with open(tmp_path / "findings.csv", newline="") as file:
        lines = list(csv.reader(file))
    for line in lines:
        if line[:2] == ["label", error.image.path]:
            assert line[3:5] == [error.image.label, error.suggested]
            line[3] = line[4]
    with open(tmp_path / "fixes.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    put_labels(path, relabel=tmp_path / "fixes.csv")
    with FeatureFile(path) as file:
        np.testing.assert_array_equal(file.wanted(np.arange(200)), x[:, :3] > 0.2)


def _path(path: Path, place: int) -> str:
    with FeatureFile(path) as file:
        return file.paths[place]


@pytest.mark.parametrize("change", ["thresholds", "settings", "scores"])
def test_a_head_file_that_makes_no_sense_is_refused(change: str, file_of_labels: Path, tmp_path: Path):
    from onepass.heads.tensor_file import read_tensors, tensor_bytes

    train_head(file_of_labels, out=tmp_path / "x.head")
    found = read_tensors(tmp_path / "x.head")
    facts, arrays = dict(found.facts), dict(found.arrays)
    if change == "thresholds":
        arrays["decision.thresholds"] = np.array([0.5, 2.0, 0.5], np.float32)
    elif change == "settings":
        facts["settings"] = facts["settings"] | {"output": "softmax"}
    else:
        facts["evaluation"] = facts["evaluation"] | {"scores": {"map": 1.5}}
    (tmp_path / "x.head").write_bytes(tensor_bytes(facts, arrays))
    with pytest.raises(HeadFileError):
        load_head(tmp_path / "x.head")
