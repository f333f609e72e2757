"""One suite that every head passes."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from onepass.features import FeatureFile
from onepass.features.errors import OptionError, TrainingError
from onepass.heads import load_head, train_head
from onepass.heads.classifiers.base import Head
from onepass.heads.classifiers.kinds import HEADS
from onepass.heads.head_options import OF_TEXTS
from onepass.heads.training import make_head
from support import FAST_NETS, blobs


def heads() -> list[Head]:
    return [make_head(kind, **FAST_NETS.get(kind, {})) for kind in HEADS if kind not in OF_TEXTS]


every_head = pytest.mark.parametrize("head", heads(), ids=lambda head: head.kind)


@every_head
def test_a_head_learns_classes_that_lie_apart(head: Head, rng: np.random.Generator):
    x, y = blobs(rng)
    names = np.array(["ant", "bee", "cat"])[y]
    head = clone(head).fit(x[:160], names[:160])
    assert head.score(x[160:], names[160:]) > 0.85
    probabilities = head.predict_proba(x[160:])
    assert probabilities.shape == (80, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(head.classes_, ["ant", "bee", "cat"])
    np.testing.assert_array_equal(head.predict(x), head.classes_[head.predict_proba(x).argmax(axis=1)])


@every_head
def test_a_head_gives_the_same_result_for_the_same_seed(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=90)
    first, second = (clone(head).fit(x, y).predict_proba(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@every_head
def test_probabilities_of_a_row_do_not_depend_on_the_rows_beside_it(head: Head, rng: np.random.Generator):
    """Sums are in float64: their order may change them by d * 1e-16 of their size, d = 300 here."""
    x, y = blobs(rng, n=90, d=300)
    fitted = clone(head).set_params(tune="none").fit(x, y)
    alone = np.concatenate([fitted.predict_proba(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(fitted.predict_proba(x), alone, rtol=0, atol=1e-10)


@every_head
def test_held_out_probabilities_are_honest_and_calibrated(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=600, spread=0.8)
    fitted = clone(head).fit(x[:300], y[:300])
    assert fitted.held_out_.shape == (300, 3)
    np.testing.assert_allclose(fitted.held_out_.sum(axis=1), 1, atol=1e-12)
    held_out = (fitted.held_out_.argmax(axis=1) == y[:300]).mean()
    assert held_out == pytest.approx(fitted.score(x[300:], y[300:]), abs=0.12)
    assert fitted.held_out_.max(axis=1).mean() == pytest.approx(held_out, abs=0.06)


@every_head
@pytest.mark.parametrize("n", [24, 120])
def test_no_head_is_surer_than_its_number_of_rows_allows(head: Head, n: int, rng: np.random.Generator):
    """Without an error among n held-out rows one in n + 2 is claimed; see `best_inverse_temperature`."""
    x, y = blobs(rng, n=n, k=2, spread=25)
    fitted = clone(head).fit(x, y)
    right, wrong = fitted.held_out_[np.arange(n), y], fitted.held_out_[np.arange(n), 1 - y]
    assert (right > wrong).all()
    leads = np.log(right / wrong)
    assert np.average(wrong, weights=leads) == pytest.approx(1 / (n + 2), rel=0.02)
    assert right.mean() <= 1 - 0.98 / (n + 2)
    assert (wrong >= 0.5 * (n + 1.0) ** -(leads.max() / leads.min())).all()


@every_head
def test_without_tuning_there_are_no_folds(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=90)
    fitted = clone(head).set_params(tune="none").fit(x, y)
    assert fitted.held_out_ is None
    assert fitted.score(x, y) > 0.8


@every_head
def test_a_time_limit_leaves_a_head(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=90)
    assert clone(head).set_params(time_limit=1e-9).fit(x, y).score(x, y) > 0.5


@every_head
def test_balanced_weights_favour_the_rare_class(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=1200, k=2, spread=0.35)
    kept = (y == 0) | (rng.random(1200) < 0.12)
    x, y = x[kept], y[kept]
    plain, balanced = (
        clone(head).set_params(class_weight=weight, seed=1).fit(x, y).predict_proba(x)[:, 1].mean()
        for weight in ({0: 1.0, 1: 1.0}, "balanced")
    )
    assert balanced > plain + 0.05


@every_head
def test_groups_are_held_out_together(head: Head, rng: np.random.Generator):
    """Forty objects, five near-copies each: nothing but the groups tells that their labels are pure chance."""
    x = np.repeat(rng.normal(size=(40, 30)), 5, axis=0) + 0.01 * rng.normal(size=(200, 30))
    groups, y = np.repeat(np.arange(40), 5), np.repeat(rng.integers(0, 2, 40), 5)
    fitted = clone(head).fit(x.astype(np.float32), y, groups=groups)
    assert (fitted.held_out_.argmax(axis=1) == y).mean() < 0.8


@every_head
def test_views_of_an_image_are_held_out_together(head: Head, rng: np.random.Generator):
    x = rng.normal(size=(60, 1, 30)) + 0.01 * rng.normal(size=(60, 4, 30))
    y = rng.integers(0, 2, 60)
    fitted = clone(head).fit(x.astype(np.float32), y)
    assert fitted.held_out_.shape == (60, 2)
    assert (fitted.held_out_.argmax(axis=1) == y).mean() < 0.8


@every_head
def test_half_precision_rows_do(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=120)
    half = x.astype(np.float16)
    fitted, same = (clone(head).fit(rows, y) for rows in (half, half.astype(np.float32)))
    np.testing.assert_array_equal(fitted.predict_proba(half), same.predict_proba(half.astype(np.float32)))


@every_head
def test_constant_and_nearly_constant_features_do_no_harm(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, k=2)
    x[:, 0], x[:, 1] = 7, 1e-9 * rng.normal(size=len(x))
    x[-1, 1] = 1  # a thousand million deviations
    fitted = clone(head).fit(x[:-1], y[:-1])
    assert np.isfinite(fitted.predict_proba(x)).all()
    assert fitted.score(x, y) > 0.8


@every_head
def test_one_class_is_refused(head: Head):
    with pytest.raises(TrainingError, match="all 5 training rows are of one class; a head needs two or more classes."):
        clone(head).fit(np.zeros((5, 3), np.float32), np.zeros(5))


@every_head
@pytest.mark.parametrize("n", [2, 3, 5])
def test_classes_of_one_or_two_images_can_be_trained(head: Head, n: int, rng: np.random.Generator):
    x, y = blobs(rng, n=n, k=2)
    assert clone(head).fit(x, y).predict(x).shape == (n,)


@every_head
def test_one_lonely_class_does_not_stop_the_tuning_of_the_others(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=60, k=2)
    y[0] = 2
    fitted = clone(head).fit(x, y)
    assert np.isnan(fitted.held_out_[0]).all()
    assert np.isfinite(fitted.held_out_[1:]).all()


@every_head
@pytest.mark.parametrize(("options", "message"), [
    ({"seed": -1}, "seed is -1; needed: 0 to 4294967295."),
    ({"tune": "slow"}, "tune is 'slow'; needed: one of none, fast, thorough."),
    ({"time_limit": 0}, "time_limit is 0; needed: a finite number above 0."),
    ({"class_weight": "even"}, "class weights 'even': "),
    ({"class_weight": {0: -1.0}}, "class weights {0: -1.0}: every weight must be a finite number above 0."),
])  # fmt: skip
def test_wrong_settings_are_refused(head: Head, options: dict, message: str, rng: np.random.Generator):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}"):
        clone(head).set_params(**options).fit(*blobs(rng, n=30))


@every_head
def test_groups_of_another_length_are_refused(head: Head, rng: np.random.Generator):
    with pytest.raises(OptionError, match="there are 3 groups for 30 images; needed: one for each image."):
        clone(head).fit(*blobs(rng, n=30), groups=np.arange(3))


@every_head
def test_a_head_goes_into_pipelines_and_cross_validation(head: Head, rng: np.random.Generator):
    x, y = blobs(rng, n=60)
    assert clone(head).get_params() == head.get_params()
    scores = cross_val_score(make_pipeline(FunctionTransformer(), clone(head)), x, y, cv=2)
    assert scores.mean() > 0.6


@every_head
def test_a_saved_head_answers_as_the_fitted_one(head: Head, feature_file: Path, tmp_path: Path):
    trained = train_head(feature_file, head=head.kind, out=tmp_path / "x.head", **FAST_NETS.get(head.kind, {}))
    loaded = load_head(tmp_path / "x.head")
    with FeatureFile(feature_file) as file:
        x, _ = file.read(np.arange(40))
    np.testing.assert_array_equal(loaded.predict_proba(x), trained.head.predict_proba(x))
    assert loaded.evaluation == trained.head.evaluation
    assert type(loaded.network) is type(trained.head.network)


def untuned(kinds: list[str]) -> list[Head]:
    return [make_head(kind, tune="none", **FAST_NETS.get(kind, {})) for kind in kinds]


EACH_OF_A_KIND = ("logreg", "rbf-svm", "mlp")
"""Linear, of support vectors, trained by Keras."""


@parametrize_with_checks(untuned(list(EACH_OF_A_KIND)))
def test_scikit_learns_own_checks(estimator: Head, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(untuned([kind for kind in HEADS if kind not in (*EACH_OF_A_KIND, *OF_TEXTS)]))
def test_scikit_learns_own_checks_of_the_other_heads(estimator: Head, check):
    check(estimator)
