from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from features.errors import OptionError, TrainingError
from features.frameworks import import_keras
from heads import LogisticHead, MLPHead, SVMHead
from heads.base import Head
from heads.keras_layers import summary, to_keras
from heads.lbfgs import minimize_convex
from heads.network import standardisation
from heads.solver import fit_path, multinomial, principal_axes, squared_hinge

FAST_MLP = {"epochs": 12, "hidden": (16,), "lr": 0.01}


def blobs(
    rng: np.random.Generator, n: int = 240, d: int = 20, k: int = 3, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % k
    centres = np.random.default_rng(42).normal(size=(k, d)) * spread / np.sqrt(d) * 3
    return (centres[y] + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d)).astype(np.float32), y


def heads() -> list[Head]:
    return [LogisticHead(), SVMHead(), MLPHead(**FAST_MLP)]


@pytest.mark.parametrize("head", heads(), ids=lambda h: h.kind)
def test_every_head_learns_classes_that_lie_apart(head: Head, rng: np.random.Generator):
    x, y = blobs(rng)
    names = np.array(["ant", "bee", "cat"])[y]
    head = clone(head).fit(x[:160], names[:160])
    assert head.score(x[160:], names[160:]) > 0.85
    probabilities = head.predict_proba(x[160:])
    assert probabilities.shape == (80, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(head.classes_, ["ant", "bee", "cat"])
    np.testing.assert_array_equal(head.predict(x), head.classes_[head.predict_proba(x).argmax(axis=1)])


@pytest.mark.parametrize("head", heads(), ids=lambda h: h.kind)
def test_every_head_gives_the_same_result_for_the_same_seed(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=90)
    first, second = (clone(head).fit(x, y).predict_proba(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("head", heads(), ids=lambda h: h.kind)
def test_every_head_follows_scikit_learn(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=60)
    assert clone(head).get_params() == head.get_params()
    scores = cross_val_score(make_pipeline(FunctionTransformer(), clone(head)), x, y, cv=2)
    assert scores.mean() > 0.6


@pytest.mark.parametrize("head", heads(), ids=lambda h: h.kind)
def test_constant_and_nearly_constant_features_do_no_harm(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, k=2)
    x[:, 0], x[:, 1] = 7, 1e-9 * rng.normal(size=len(x))
    x[-1, 1] = 1  # a thousand million deviations
    fitted = clone(head).fit(x[:-1], y[:-1])
    assert np.isfinite(fitted.predict_proba(x)).all()
    assert fitted.score(x, y) > 0.8


@pytest.mark.parametrize("head", heads(), ids=lambda h: h.kind)
def test_one_class_is_refused(head: Head):
    with pytest.raises(TrainingError, match="all 5 training rows are of one class; a head needs two or more classes."):
        clone(head).fit(np.zeros((5, 3), np.float32), np.zeros(5))


@pytest.mark.parametrize("head", heads(), ids=lambda h: h.kind)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_classes_of_one_or_two_images_can_be_trained(head: Head, n: int, rng: np.random.Generator):
    x, y = blobs(rng, n=n, k=2)
    assert clone(head).fit(x, y).predict(x).shape == (n,)


@pytest.mark.parametrize("kind", [LogisticHead, SVMHead])
def test_a_strength_that_is_not_positive_is_refused(kind: type[Head], rng: np.random.Generator):
    with pytest.raises(OptionError, match="C is -1; needed: a finite number above 0."):
        kind(C=-1).fit(*blobs(rng))


def scaled(x: np.ndarray) -> np.ndarray:
    mean, scale = standardisation(x)
    return ((x - mean) / scale).astype(np.float64)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("shape", [(200, 30), (60, 150)], ids=["tall", "wide"])
def test_logistic_regression_equals_scikit_learns(k: int, shape: tuple[int, int], rng: np.random.Generator):
    x, y = blobs(rng, *shape, k)
    head = LogisticHead(C=0.05).fit(x, y)
    reference = LogisticRegression(C=0.05, tol=1e-10, max_iter=10_000).fit(scaled(x), y)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(scaled(x)), atol=2e-4)


def test_the_svm_equals_liblinear(rng: np.random.Generator):
    x, y = blobs(rng, 200, 30, 3)
    z = scaled(x)
    ((fit,),) = fit_path(z, y, np.ones((200, 1), bool), (0.01,), squared_hinge, tolerance=1e-8)
    reference = LinearSVC(C=0.01, dual=False, tol=1e-10, intercept_scaling=1e4, max_iter=100_000).fit(z, y)
    np.testing.assert_allclose(fit.scores(z), reference.decision_function(z), atol=2e-3)


@pytest.mark.parametrize("loss", [multinomial, squared_hinge])
def test_the_derivatives_of_the_losses_are_right(loss, rng: np.random.Generator):
    y = np.array([0, 2, 1])

    def value(flat: np.ndarray) -> float:
        return loss(flat.reshape(3, 1, 3), y)[0].sum()

    def slope(flat: np.ndarray) -> np.ndarray:
        return loss(flat.reshape(3, 1, 3), y)[1].ravel()

    assert check_grad(value, slope, rng.normal(size=9)) < 1e-5


def test_folds_side_by_side_equal_folds_one_by_one(rng: np.random.Generator):
    x, y = blobs(rng, 120, 10)
    z = scaled(x)
    train = rng.random((120, 2)) < 0.7
    strengths = (0.01, 0.1)
    together = list(fit_path(z, y, train, strengths, multinomial, tolerance=1e-8))[-1]
    for fold in (0, 1):
        rows = train[:, fold]
        alone = list(fit_path(z[rows], y[rows], np.ones((rows.sum(), 1), bool), strengths, multinomial, tolerance=1e-8))
        np.testing.assert_allclose(together[fold].scores(z), alone[-1][0].scores(z), atol=1e-3)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_principal_axes_lose_nothing(shape: tuple[int, int], rng: np.random.Generator):
    x = rng.normal(size=shape).astype(np.float32)
    x -= x.mean(axis=0)
    axes, rotated = principal_axes(x)
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)
    np.testing.assert_allclose(rotated @ axes.T, x, atol=1e-5)
    np.testing.assert_allclose(
        np.square(rotated).sum(axis=0), np.linalg.svd(x)[1][: axes.shape[1]][::-1] ** 2, rtol=1e-4
    )


def test_tuning_chooses_as_well_as_a_grid_search(rng: np.random.Generator):
    x, y = blobs(rng, 300, 60, 4, spread=1.0)
    head = LogisticHead().fit(x[:200], y[:200])
    search = GridSearchCV(
        LogisticRegression(max_iter=5000), {"C": LogisticHead.strengths}, scoring="neg_log_loss",
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    ).fit(scaled(x[:200]), y[:200])  # fmt: skip
    assert abs(np.log10(head.chosen_["C"]) - np.log10(search.best_params_["C"])) <= 0.51


def test_svm_probabilities_are_calibrated_on_held_out_folds(rng: np.random.Generator):
    x, y = blobs(rng, 1200, 20, 3, spread=0.8)
    head = SVMHead().fit(x[:600], y[:600])
    probabilities = head.predict_proba(x[600:])
    confidence, right = probabilities.max(axis=1), head.predict(x[600:]) == y[600:]
    assert abs(confidence.mean() - right.mean()) < 0.05


@pytest.mark.parametrize("options", [
    {"hidden": (8, 4)}, {"hidden": ()}, {"hidden": (8,), "output": "sigmoid"}, {"hidden": (8,), "dropout": 0.0},
])  # fmt: skip
def test_numpy_inference_equals_keras(options: dict, rng: np.random.Generator):
    x, y = blobs(rng, 120, k=2)
    head = MLPHead(epochs=4, lr=0.01, **options).fit(x, y)
    model = to_keras(head.network_, dropout=0.5)
    expected = model.predict(x, verbose=0)
    if options.get("output") == "sigmoid":
        assert expected.shape == (120, 1)
        expected = np.concatenate([1 - expected, expected], axis=1)
    np.testing.assert_allclose(head.predict_proba(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [LogisticHead, SVMHead])
def test_linear_heads_fold_into_keras_too(kind: type[Head], rng: np.random.Generator):
    x, y = blobs(rng)
    head = kind().fit(x, y)
    np.testing.assert_allclose(head.predict_proba(x), to_keras(head.network_).predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"dropout": 1.0}, "dropout is 1.0; needed: 0 or more and below 1."),
    ({"hidden": (0, 3)}, r"hidden is \(0, 3\); needed: layers of at least one unit."),
    ({"output": "relu"}, "output is 'relu'; needed: one of softmax, sigmoid."),
    ({"output": "sigmoid"}, "one sigmoid unit tells two classes apart; there are 3. Use softmax."),
    ({"lr": 0}, "lr is 0; needed: a finite number above 0."),
    ({"lr": float("inf")}, "lr is inf; needed: a finite number above 0."),
    ({"seed": -1}, "seed is -1; needed: 0 to 4294967295."),
    ({"epochs": 0}, "epochs is 0; needed: a finite number above 0."),
])  # fmt: skip
def test_wrong_mlp_settings_are_refused(options: dict, message: str, rng: np.random.Generator):
    with pytest.raises(OptionError, match=message):
        MLPHead(**options).fit(*blobs(rng))


def test_the_mlp_stops_by_the_validation_rows_it_is_given(rng: np.random.Generator):
    x, y = blobs(rng)
    head = MLPHead(epochs=40, patience=2, lr=0.05, hidden=(8,))
    head.fit(x, y, validation=(x[:30], (y[:30] + 1) % 3))  # labels that get worse with every step
    assert head.chosen_["epochs"] <= 3


def test_the_summary_is_keras_own(rng: np.random.Generator, tmp_path: Path):
    x, y = blobs(rng, k=2)
    network = MLPHead(epochs=1, hidden=(128,), output="sigmoid").fit(x, y).network_
    text = summary(network, dropout=0.5)
    lines: list[str] = []
    to_keras(network, dropout=0.5).summary(print_fn=lambda line, **_: lines.append(line))
    assert text == "\n".join(lines)
    assert "dense_1 (Dense)" in text
    assert "dropout_1 (Dropout)" in text
    assert import_keras().backend.backend() == "tensorflow"


def test_a_net_that_diverges_is_refused(rng: np.random.Generator):
    x, y = blobs(rng)
    with pytest.raises(
        TrainingError, match="training diverged to infinite or undefined weights. Try a smaller learning rate"
    ):
        MLPHead(lr=1e38, epochs=3).fit(x, y)


def test_lbfgs_finds_the_minimum_of_a_quadratic_in_closed_form(rng: np.random.Generator):
    a = rng.normal(size=(40, 40))
    matrix, right = a @ a.T + 0.1 * np.eye(40), rng.normal(size=40)
    found = minimize_convex(
        lambda x: (0.5 * x @ matrix @ x - right @ x, matrix @ x - right), np.zeros(40), tolerance=1e-9
    )
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-6)


def test_lbfgs_equals_scipys(rng: np.random.Generator):
    first_five = (np.arange(30) < 5).astype(float)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        value = np.logaddexp(0, x).sum() + 0.05 * x @ x - x @ first_five
        return float(value), 1 / (1 + np.exp(-x)) + 0.1 * x - first_five

    start = 10 * rng.normal(size=30)
    expected = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(minimize_convex(objective, start, tolerance=1e-9), expected, atol=1e-5)
