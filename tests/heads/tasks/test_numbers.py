"""Numbers per image: fitted, scored, kept, predicted and compared."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from onepass import compare_heads, evaluate, info, inspect, label, load_head, train_head
from onepass.features import FeatureFile
from onepass.features.errors import HeadFileError, OptionError, TrainingError
from onepass.heads import KernelRidgeHead, KNNHead, RidgeHead
from onepass.heads.evaluation import Answers
from onepass.heads.head_options import HEADS_OF
from onepass.heads.stats.metrics import metric
from onepass.heads.stats.power_law import forecast_error
from onepass.heads.tasks.conformal import Residuals
from onepass.heads.tasks.number_evaluation import score_numbers
from onepass.heads.training import make_head
from support import FAST_NETS, run_program
from task_files import numbers, write_numbers

KINDS = HEADS_OF["number"]
ALL = "ridge, kernel-ridge, knn, mlp, linear"
OWN_WEIGHTS = "Leave it out, or give images weights of their own in the table they come from."
every_head = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def file_of_numbers(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_numbers(tmp_path / "ages.h5", *numbers(rng))


@every_head
def test_a_head_learns_numbers(kind: str, rng: np.random.Generator):
    x, y = numbers(rng)
    head = make_head(kind, task="number", **FAST_NETS.get(kind, {})).fit(x[:180], y[:180])
    assert head.score(x[180:], y[180:]) > (0.2 if kind in ("knn", "mlp", "linear") else 0.9)
    assert head.score(x, y) == pytest.approx(sk.r2_score(y, head.predict(x)))
    assert not hasattr(head, "predict_proba")
    left = head.held_out_[:, 0]
    assert np.isfinite(left).all()
    assert np.abs(left - y[:180]).mean() >= np.abs(head.predict(x[:180]) - y[:180]).mean() * 0.9


def standard(x: np.ndarray, head: RidgeHead) -> np.ndarray:
    return ((x - head.network_.mean) / head.network_.scale).astype(np.float64)


def test_ridge_is_scikit_learns_with_weights(rng: np.random.Generator):
    x, y = numbers(rng, 60)
    w = rng.uniform(0.5, 2, 60)
    head = RidgeHead(task="number", alpha=2.0, tune="none").fit(x, y, weights=w)
    expected = Ridge(alpha=2.0).fit(standard(x, head), y, sample_weight=w).predict(standard(x, head))
    np.testing.assert_allclose(head.predict(x), expected, rtol=1e-6)


def test_kernel_ridge_is_scikit_learns_on_a_centred_kernel(rng: np.random.Generator):
    x, y = numbers(rng, 60)
    head = KernelRidgeHead(alpha=0.3, gamma=0.05, tune="none").fit(x, y)
    z = standard(x, head)
    kernel = np.exp(-0.05 * np.square(z[:, None] - z).sum(axis=2))
    middle = np.eye(60) - 1 / 60
    found = KernelRidge(alpha=0.3, kernel="precomputed").fit(middle @ kernel @ middle, y - y.mean())
    expected = y.mean() + middle @ kernel @ middle @ found.dual_coef_
    np.testing.assert_allclose(head.predict(x), expected, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_kernel_ridge_leaves_groups_out_exactly(weighted: bool, rng: np.random.Generator):
    x, y = numbers(rng, 40)
    w, groups = rng.uniform(0.5, 2, 40) if weighted else np.ones(40), np.arange(40) // 2
    head = KernelRidgeHead(alpha=0.3, gamma=0.05).fit(x, y, weights=w, groups=groups)
    z, kept = standard(x, head), np.arange(2, 40)
    kernel = np.exp(-0.05 * np.square(z[:, None] - z).sum(axis=2))
    k, v = kernel[np.ix_(kept, kept)], w[kept]
    left = np.block([[k * v @ k + 0.3 * k, (k @ v)[:, None]], [(v @ k)[None], np.full((1, 1), v.sum())]])
    solved = np.linalg.lstsq(left, np.append(k @ (v * y[kept]), v @ y[kept]), rcond=None)[0]
    np.testing.assert_allclose(head.held_out_[:2, 0], kernel[:2, kept] @ solved[:-1] + solved[-1], rtol=1e-5)


def test_nearest_neighbours_are_scikit_learns(rng: np.random.Generator):
    x, y = numbers(rng, 80)
    head = KNNHead(task="number", neighbours=7, decay=0.1, tune="none").fit(x, y)
    z = standard(x, head)
    z /= np.linalg.norm(z, axis=1, keepdims=True)

    def nearness(distances: np.ndarray) -> np.ndarray:
        return np.exp(-np.square(distances) / 2 / 0.1)  # of unit vectors, 1 - cosine is half the squared distance

    expected = KNeighborsRegressor(7, weights=nearness).fit(z, y).predict(z)
    np.testing.assert_allclose(head.predict(x), expected, rtol=1e-4)


@every_head
def test_the_unit_of_the_numbers_does_not_matter(kind: str, rng: np.random.Generator):
    x, y = numbers(rng, 90)
    options = FAST_NETS.get(kind, {}) | {"tune": "none"}
    one, other = (make_head(kind, task="number", **options).fit(x, values).predict(x) for values in (y, 1e-3 * y + 7))
    np.testing.assert_allclose(1e-3 * one + 7, other, rtol=1e-3)


@every_head
def test_heavier_images_pull_harder(kind: str, rng: np.random.Generator):
    """Every image is there twice, with two numbers; the answer lies nearer to that of the heavier one."""
    x, y = numbers(rng, 60)
    both, values = np.concatenate([x, x]), np.concatenate([y, y + 1000])
    options = FAST_NETS.get(kind, {}) | {"tune": "none"}
    means = [
        make_head(kind, task="number", **options).fit(both, values, weights=np.repeat(weights, 60)).predict(x).mean()
        for weights in ([9.0, 1.0], [1.0, 9.0])
    ]
    assert means[1] - means[0] > 300


@pytest.mark.parametrize(("y", "message"), [
    (np.full(20, 3.0), "all 20 training images have the number 3; there is nothing to learn."),
    (1.7e9 + np.arange(20.0), "the numbers lie around 1.7e+09 and differ by about 5.76628, which float32 cannot tell"),
])  # fmt: skip
def test_numbers_without_a_difference_are_refused(y: np.ndarray, message: str, rng: np.random.Generator):
    with pytest.raises(TrainingError) as caught:
        RidgeHead(task="number").fit(rng.normal(size=(20, 3)), y)
    assert str(caught.value).startswith(message)


def test_groups_stay_together_and_everything_is_held_out(rng: np.random.Generator):
    x, _ = numbers(rng, 60)
    y, groups = np.repeat(rng.normal(size=12), 5), np.repeat(np.arange(12), 5)
    x = (x[groups * 5] + 0.01 * x).astype(np.float32)
    held_out = RidgeHead(task="number").fit(x, y, groups=groups).held_out_[:, 0]
    assert np.isfinite(held_out).all()
    assert sk.r2_score(y, held_out) < 0.5


def test_scores_equal_scikit_learns(rng: np.random.Generator):
    y, told, w = rng.normal(size=50), rng.normal(size=(50, 1)), rng.uniform(0.5, 2, 50)
    found = score_numbers(told, y, "age", weights=w)
    assert found.mae == pytest.approx(sk.mean_absolute_error(y, told, sample_weight=w))
    assert found.rmse == pytest.approx(sk.mean_squared_error(y, told, sample_weight=w) ** 0.5)
    assert found.r2 == pytest.approx(sk.r2_score(y, told, sample_weight=w))
    for name, ends in (("mae", found.mae_interval), ("rmse", found.rmse_interval), ("r2", found.r2_interval)):
        assert ends[0] < getattr(found, name) < ends[1]


def test_copies_are_told_apart(rng: np.random.Generator):
    y = rng.normal(size=30)
    copies = np.arange(30) < 10
    told = np.where(copies, y, y + 1)[:, None]
    found = score_numbers(told, y, "age", copies=copies)
    assert (found.leak_free.leaked, found.leak_free.n, found.leak_free.mae) == (10, 20, pytest.approx(1))
    assert score_numbers(told, y, "age", copies=np.ones(30, bool)).leak_free.mae is None
    with pytest.raises(TrainingError, match="no images to score in val"):
        score_numbers(told[:0], y[:0], "age", measured_on="val")


def test_few_images_have_scores_without_intervals():
    one = score_numbers(np.array([[2.0]]), np.array([1.0]), "age")
    assert (one.mae, one.mae_interval, one.r2) == (1.0, None, None)
    assert "R2                       -      -" in one.details()


def test_the_interval_of_the_error_holds_it(rng: np.random.Generator):
    inside = 0
    for _ in range(60):
        errors = rng.normal(size=80)
        low, high = score_numbers(errors[:, None], np.zeros(80) + 1e-9 * rng.normal(size=80), "x").mae_interval
        inside += low <= (2 / np.pi) ** 0.5 <= high
    assert inside >= 52


@pytest.mark.parametrize("weighted", [False, True])
def test_prediction_intervals_hold_what_they_promise(weighted: bool):
    """Mean coverage over 100 trainings of 60 images each."""
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(100):
        x, y = numbers(rng, 260, 4)
        w = rng.uniform(0.5, 2, 60) if weighted else np.ones(60)
        head = RidgeHead(task="number").fit(x[:60], y[:60], weights=w)
        width = Residuals.of(head.held_out_[:, 0], y[:60], w).half_width(0.1)
        shares.append(np.mean(np.abs(head.predict(x[60:]) - y[60:]) <= width))
    assert 0.885 <= np.mean(shares) <= 0.93


def test_too_few_held_out_images_give_no_interval():
    few = Residuals.of(np.zeros(18), np.ones(18), np.ones(18))
    assert few.half_width(0.05) == np.inf
    assert few.measured(np.zeros(5), np.zeros(5)) is None
    assert Residuals.of(np.full(3, np.nan), np.ones(3), np.ones(3)) is None


@every_head
def test_from_a_feature_file_to_a_head_file_and_back(kind: str, file_of_numbers: Path, tmp_path: Path):
    trained = train_head(file_of_numbers, head=kind, out=tmp_path / "x.head", **FAST_NETS.get(kind, {}))
    loaded = load_head(tmp_path / "x.head")
    assert (loaded.task, loaded.class_names) == ("number", ("age",))
    assert loaded.evaluation == trained.head.evaluation
    assert loaded.coverage == trained.head.coverage
    with FeatureFile(file_of_numbers) as file:
        x, _ = file.read(np.arange(40))
    np.testing.assert_array_equal(loaded.predict(x), trained.head.predict(x))
    ends = loaded.predict_interval(x)
    np.testing.assert_allclose(ends.mean(axis=1), loaded.predict(x))
    assert loaded.coverage.coverage > 0.8
    again = evaluate(tmp_path / "x.head", file_of_numbers, split="test")
    assert again.mae == pytest.approx(loaded.evaluation.mae)
    assert again.record()["rmse"] == again.rmse
    assert "mean absolute error" in str(info(tmp_path / "x.head"))
    with pytest.raises(OptionError, match="gives numbers and no probabilities; call predict"):
        loaded.predict_proba(x)


def test_without_a_head_named_it_is_ridge(file_of_numbers: Path, tmp_path: Path):
    done = run_program("train-head", str(file_of_numbers), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ages.ridge.head: ridge, test mean absolute error ")
    assert load_head(tmp_path / "ages.ridge.head").kind == "ridge"


@pytest.mark.parametrize(("options", "message"), [
    ({"head": "logreg"}, f"head='logreg' does not learn numbers, which this feature file holds; needed: one of {ALL}."),
    ({"class_weight": "balanced"}, f"class_weight is for classes, and this feature file holds numbers. {OWN_WEIGHTS}"),
    ({"head": "mlp", "output": "sigmoid"}, "output is for classes, and this feature file holds numbers. Leave it out."),
])  # fmt: skip
def test_what_is_for_classes_is_refused(options: dict, message: str, file_of_numbers: Path, tmp_path: Path):
    with pytest.raises(OptionError) as caught:
        train_head(file_of_numbers, out=tmp_path / "x.head", **options)
    assert str(caught.value) == message
    assert not (tmp_path / "x.head").exists()


def test_images_without_a_number_count_nowhere(tmp_path: Path, rng: np.random.Generator):
    x, y = numbers(rng, 100)
    y[::3] = np.nan
    path = write_numbers(tmp_path / "some.h5", x, y)
    trained = train_head(path, out=tmp_path / "x.head")
    known = np.flatnonzero(np.isfinite(y))
    assert trained.head.trained_on["rows"] == (known % 5 != 4).sum()
    assert trained.head.evaluation.n == (known % 5 == 4).sum()
    assert compare_heads(path, heads="ridge", cv="3x1").images == (known % 5 != 4).sum()


def test_unlabelled_files_say_how_to_label_them(tmp_path: Path, rng: np.random.Generator):
    x, y = numbers(rng, 40)
    table = {"class_names": (), "labels": np.full(40, -1, np.int32), "task": "none", "targets": np.zeros((40, 0))}
    path = write_numbers(tmp_path / "none.h5", x, y, **table)
    for command in (train_head, compare_heads):
        with pytest.raises(TrainingError, match=r"none.h5 has no labels. Give them with `onepass label .*none.h5`\."):
            command(path)


def test_inspection_finds_numbers_that_are_far_off(tmp_path: Path, rng: np.random.Generator):
    x, y = numbers(rng, 300)
    wrong = np.arange(5, 300, 30)
    y[wrong] += np.where(wrong % 60 > 30, 120, -120)
    path = write_numbers(tmp_path / "wrong.h5", x, y)
    found = inspect(path)
    assert found.labels_by == "robust deviations"
    with FeatureFile(path) as file:
        listed = [file.paths.index(one.image.path) for one in found.label_errors]
    assert set(wrong) <= set(listed)
    assert len(listed) <= len(wrong) + 3
    worst = found.label_errors[0]
    assert worst.score == max(one.score for one in found.label_errors)
    assert abs(float(worst.image.label) - worst.predicted) > 80
    assert worst.nearest[0] < worst.nearest[1]
    assert f"rather {worst.predicted:.4g} ({worst.score:.1f} away)" in str(found)
    (line,) = (line for line in found.findings() if line[0] == "label" and line[1] == worst.image.path)
    assert line[4:6] == (f"{worst.predicted:.4g}", f"{worst.score:.2f}")
    assert found.record()["label_errors"][0]["reason"] == worst.reason
    assert inspect(path, labels=False).label_errors is None


def test_numbers_are_corrected_by_what_inspection_wrote(tmp_path: Path, rng: np.random.Generator):
    x, y = numbers(rng, 200)
    path, right = write_numbers(tmp_path / "wrong.h5", x, np.where(np.arange(200) == 9, y + 400, y)), round(y[9])
    found = inspect(path)
    found.write_csv(tmp_path / "findings.csv")
    wrong = found.label_errors[0].image
    text = (tmp_path / "findings.csv").read_text()
    assert f"label,{wrong.path},{wrong.split},{wrong.label}," in text
    (tmp_path / "fixes.csv").write_text(text.replace(f",{wrong.split},{wrong.label},", f",{wrong.split},{right},"))
    label(path, relabel=tmp_path / "fixes.csv")
    with FeatureFile(path) as file:
        assert file.wanted(np.array([9])) == right
        np.testing.assert_allclose(np.delete(file.wanted(np.arange(200)), 9), np.delete(y, 9), rtol=1e-5)


def test_heads_are_compared_by_their_errors(file_of_numbers: Path, tmp_path: Path):
    found = compare_heads(file_of_numbers, heads="ridge,knn")
    assert (found.metric, found.test.ties, found.test.best) == ("mae", ("ridge",), "ridge")
    ridge, knn = found.scores
    assert ridge.score == pytest.approx(train_head(file_of_numbers, out=tmp_path / "x.head").head.evaluation.mae)
    assert ridge.score < knn.score
    gap = found.test.to_best["knn"]
    assert gap.interval[0] < gap.difference < gap.interval[1]
    assert set(ridge.further) == {"rmse", "r2"}
    assert found.record()["heads"][0]["r2"] == ridge.further["r2"]
    assert "log loss" not in str(found)
    again = compare_heads(file_of_numbers, heads="ridge,knn", cv="4x1", metric="rmse")
    assert again.scores[0].name == "ridge"
    found.write_csv(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().startswith("name,head,features,score,rmse,r2,leak_free,")


def test_all_heads_of_numbers_are_compared_and_equal_ones_tie(tmp_path: Path, rng: np.random.Generator):
    path = write_numbers(tmp_path / "noise.h5", *numbers(rng, 80))
    found = compare_heads(path, tune="none")
    assert {score.head for score in found.scores} == set(KINDS)


@pytest.mark.parametrize(("options", "message"), [
    ({"metric": "accuracy"}, "metric='accuracy' is not for numbers; needed: one of mae, rmse, r2."),
    ({"heads": "svm"}, "head='svm' does not learn numbers, "),
    ({"class_weight": "balanced"}, "class_weight is for classes, "),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(options: dict, message: str, file_of_numbers: Path):
    with pytest.raises(OptionError) as caught:
        compare_heads(file_of_numbers, **options)
    assert str(caught.value).startswith(message)


def test_a_learning_curve_falls_and_ends_in_a_forecast_in_the_unit_of_the_numbers(
    file_of_numbers: Path, tmp_path: Path
):
    found = compare_heads(file_of_numbers, heads="ridge", learning_curve=True)
    curve = found.learning["ridge"]
    assert (curve.score, curve.is_error) == ("mean absolute error", True)
    assert curve.scores[-1] == pytest.approx(found.scores[0].score)
    assert curve.scores[0] > curve.scores[-1]
    assert all(low < score < high for (low, high), score in zip(curve.intervals, curve.scores, strict=True))
    low, high = curve.doubled_interval
    assert 0 < low < curve.doubled < high < curve.scores[0]
    assert curve.gain_interval[0] <= curve.gain <= curve.gain_interval[1]
    said = f"ridge: mean absolute error {curve.scores[0]:.4g} with {curve.sizes[0]}"
    assert said in str(found).replace("\n", " ")
    assert f"these test images will show {curve.doubled:.4g} ({low:.4g} to {high:.4g})" in str(found)
    scaled = write_numbers(tmp_path / "months.h5", *_in_months(file_of_numbers))
    other = compare_heads(scaled, heads="ridge", learning_curve=True).learning["ridge"]
    assert other.gain == pytest.approx(12 * curve.gain, rel=1e-3)
    assert other.doubled == pytest.approx(12 * curve.doubled, rel=1e-3)


def _in_months(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with FeatureFile(path) as file:
        every = np.arange(len(file))
        return file.read(every)[0], 12 * file.wanted(every)


def test_errors_of_a_known_power_law_are_forecast(rng: np.random.Generator):
    sizes = np.array([50, 100, 200, 400, 500])
    means = 2 + 30 * sizes**-0.5
    errors = np.abs(rng.normal(size=(3, 1, 400)) * 0.1 + 1) * means[None, :, None]
    found = forecast_error(sizes, errors)
    true = 30 * (500**-0.5 - 1000**-0.5)
    assert found.gain_interval[0] < true < found.gain_interval[1]
    assert found.gain == pytest.approx(true, rel=0.4)
    assert forecast_error(sizes, 0 * errors).gain == 0


@pytest.mark.parametrize("change", [
    {"task": "classes"}, {"task": "colours"}, {"class_names": ["a", "b"]}, {"settings": {"output": "softmax"}},
    {"coverage": {"alpha": 2.0, "n": 3, "coverage": 1.0, "interval": [0.5, 1.0], "half_width": 1.0}},
])  # fmt: skip
def test_a_head_file_that_makes_no_sense_is_refused(change: dict, file_of_numbers: Path, tmp_path: Path):
    from onepass.heads.tensor_file import read_tensors, tensor_bytes

    train_head(file_of_numbers, out=tmp_path / "x.head")
    found = read_tensors(tmp_path / "x.head")
    facts = dict(found.facts)
    facts["settings"] = facts["settings"] | change.get("settings", {})
    facts |= {name: value for name, value in change.items() if name != "settings"}
    (tmp_path / "x.head").write_bytes(tensor_bytes(facts, found.arrays))
    with pytest.raises(HeadFileError):
        load_head(tmp_path / "x.head")


def test_metrics_of_numbers_are_weighted_as_repeated(rng: np.random.Generator):
    told, y, times = rng.normal(size=(20, 1)), rng.normal(size=(20, 1)), rng.integers(1, 4, 20)
    for name in ("mae", "rmse", "r2"):
        found = metric(name, told, y, weights=times[None].astype(float))[0]
        assert found == pytest.approx(metric(name, np.repeat(told, times, axis=0), np.repeat(y, times, axis=0)))


def test_answers_of_a_regressor_are_numbers(rng: np.random.Generator):
    x, y = numbers(rng, 30)
    head = Ridge().fit(x, y)
    assert Answers.of(head, [x], np.float64).named == pytest.approx(head.predict(x))
