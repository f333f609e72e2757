"""The arithmetic of heads from texts, against formulas and an independent optimiser."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import clone

from onepass.features.errors import OptionError
from onepass.heads.classifiers.linear import LogisticHead
from onepass.heads.fitting.temperature import best_inverse_temperature, log_loss
from onepass.heads.zero_shot.text_head import CERTAINTY, TextHead, TextLogisticHead
from support import blobs


def embeddings(rng: np.random.Generator, n: int = 240, d: int = 20, k: int = 3, noise: float = 1.0):
    """Rows of images that lie around the texts of their classes, (n, d), at lengths of their own; labels; texts."""
    texts = rng.normal(size=(k, d))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    y = np.arange(n) % k
    rows = 2 * texts[y] + noise * rng.normal(size=(n, d))
    return (rows * rng.uniform(0.5, 3, (n, 1))).astype(np.float32), y, texts


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("tune", ["none", "fast"])
def test_labels_are_those_of_the_largest_cosine_whatever_the_training_images(views: int, tune: str, rng):
    x, y, texts = embeddings(rng)
    rows = x[:, None] + 0.1 * rng.normal(size=(len(x), views, 20)).astype(np.float32)
    rows[:, 0] = x
    fitted = TextHead(tune=tune).fit(rows, rng.permutation(y), texts=texts)
    cosines = x @ texts.T / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_array_equal(fitted.predict(x), cosines.argmax(axis=1))
    network = fitted.network_
    assert (network.mean == 0).all()
    assert (network.scale == 1).all()
    assert (network.biases[0] == 0).all()


def test_probabilities_are_a_softmax_of_the_products_at_one_temperature(rng):
    x, y, texts = embeddings(rng, noise=2.5)
    scores = x @ texts.T
    fitted = TextHead().fit(x, y, texts=texts)
    wanted = np.exp(log_softmax(best_inverse_temperature(scores, y) * scores, axis=1))
    np.testing.assert_allclose(fitted.predict_proba(x), wanted, atol=1e-5)
    np.testing.assert_allclose(fitted.held_out_, wanted, atol=1e-5)
    right = (fitted.held_out_.argmax(axis=1) == y).mean()
    assert fitted.held_out_.max(axis=1).mean() == pytest.approx(right, abs=0.05)


def test_untuned_a_row_of_mean_length_has_clip_s_certainty(rng):
    x, y, texts = embeddings(rng)
    fitted = TextHead(tune="none").fit(x, y, texts=texts)
    length = np.linalg.norm(x, axis=1).mean()
    row = texts[:1] * length
    np.testing.assert_allclose(fitted.network_.scores(row), CERTAINTY * texts[:1] @ texts.T, rtol=1e-5)


def divisors(x: np.ndarray) -> np.ndarray:
    """What features are divided by: their deviation, or the average one where that is larger."""
    deviation = x.std(axis=0, dtype=np.float64)
    return np.maximum(deviation, np.sqrt((deviation**2).mean()))


def independent(x: np.ndarray, y: np.ndarray, texts: np.ndarray, strength: float) -> np.ndarray:
    """Scores of the minimum of the few-shot objective on its own rows, by scipy's BFGS on all of its numbers."""
    n, d, k = len(x), x.shape[1], len(texts)
    products = x.astype(np.float64) @ texts.T
    start = best_inverse_temperature(products.astype(np.float32), y) * products
    z = (x - x.mean(axis=0, dtype=np.float64)) / divisors(x)
    z1 = np.concatenate([z, np.ones((n, 1))], axis=1)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        added = flat.reshape(d + 1, k)
        log = log_softmax(start + z1 @ added, axis=1)
        slope = np.exp(log)
        slope[np.arange(n), y] -= 1
        value = -log[np.arange(n), y].sum() + (added**2).sum() / (2 * strength)
        return value, (z1.T @ slope + added / strength).ravel()

    found = minimize(objective, np.zeros((d + 1) * k), jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 5000})
    return start + z1 @ found.x.reshape(d + 1, k)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_few_shot_start_minimises_the_pulled_loss(strength: float, rng):
    x, y, texts = embeddings(rng, n=60, d=8, noise=1.5)
    fitted = TextLogisticHead(C=strength, tune="none").fit(x, y, texts=texts)
    wanted = np.exp(log_softmax(independent(x, y, texts, strength), axis=1))
    np.testing.assert_allclose(fitted.predict_proba(x), wanted, atol=2e-4)


def test_fewer_images_than_features_leave_the_texts_where_no_image_lies(rng):
    """Across all images the weights stay those of the texts, although rows are rotated onto what images span."""
    x, y, texts = embeddings(rng, n=12, d=40)
    fitted = TextLogisticHead(C=1.0, tune="none").fit(x, y, texts=texts)
    across = np.linalg.svd((x - x.mean(axis=0)) / divisors(x))[2][-1]  # of standardised rows
    kernel = fitted.network_.kernels[0]
    factor = best_inverse_temperature((x @ texts.T).astype(np.float32), y)
    np.testing.assert_allclose(across @ kernel, across @ (divisors(x)[:, None] * texts.T * factor), atol=1e-3)


def test_under_a_pull_without_end_it_is_the_text_head(rng):
    x, y, texts = embeddings(rng, noise=2.0)
    zero_shot = TextHead().fit(x, y, texts=texts)
    bound = TextLogisticHead(C=1e-9, tune="none").fit(x, y, texts=texts)
    np.testing.assert_allclose(bound.predict_proba(x), zero_shot.predict_proba(x), atol=1e-4)
    stayed = TextLogisticHead(C=0.0, tune="none").fit(x, y, texts=texts)  # as tuning may find
    np.testing.assert_allclose(stayed.predict_proba(x), zero_shot.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_with_hardly_any_pull_it_is_plain_logistic_regression(k: int, rng):
    x, y = blobs(rng, n=400, d=5, k=k, spread=0.5)
    _, _, texts = embeddings(rng, d=5, k=k)
    free = TextLogisticHead(C=1e4, tune="none").fit(x, y, texts=texts)
    plain = LogisticHead(C=1e4, tune="none").fit(x, y)
    np.testing.assert_allclose(free.predict_proba(x), plain.predict_proba(x), atol=2e-3)


def test_few_images_do_more_beside_good_texts_than_alone(rng):
    x, y, texts = embeddings(rng, n=615, d=60, noise=1.2)
    beside = TextLogisticHead().fit(x[:15], y[:15], texts=texts)
    alone = LogisticHead().fit(x[:15], y[:15])
    assert beside.score(x[15:], y[15:]) > alone.score(x[15:], y[15:]) + 0.05


def test_many_images_leave_texts_that_say_nothing(rng):
    x, y, _ = embeddings(rng, n=600)
    wrong = rng.normal(size=(3, 20)) / np.sqrt(20)
    learned = TextLogisticHead().fit(x[:300], y[:300], texts=wrong)
    assert learned.chosen_["C"] > 0
    plain = LogisticHead().fit(x[:300], y[:300])
    assert learned.score(x[300:], y[300:]) > plain.score(x[300:], y[300:]) - 0.03
    assert TextHead().fit(x[:300], y[:300], texts=wrong).score(x[300:], y[300:]) < 0.7


@pytest.mark.parametrize("seed", range(4))
def test_tuned_it_is_never_worse_by_cross_validation_than_the_texts(seed: int):
    """The text head is one of the settings, at the temperature of each fold's own images."""
    rng = np.random.default_rng(seed)
    x, y, texts = embeddings(rng, n=45, d=30, noise=1.0 + seed)

    def loss(head: TextLogisticHead) -> float:
        fit = head._fit(replace(head._training_rows(x, y, None, None), texts=texts))
        return log_loss(fit.held_out, y)

    assert loss(TextLogisticHead()) <= loss(TextLogisticHead(C=0.0))


@pytest.mark.parametrize("head", [TextHead(), TextLogisticHead()], ids=["text", "text-logreg"])
def test_texts_are_demanded(head, rng):
    x, y, texts = embeddings(rng)
    with pytest.raises(OptionError) as refused:
        clone(head).fit(x, y)
    assert str(refused.value) == (
        "a head from texts needs the rows of the names of its classes; `train_head` computes them by prompts, and "
        "`fit` takes them as texts."
    )
    with pytest.raises(OptionError, match=r"^texts are \(2, 20\); needed: a finite row for each class, \(3, 20\)\.$"):
        clone(head).fit(x, y, texts=texts[:2])


@pytest.mark.parametrize("head", [TextHead(), TextLogisticHead()], ids=["text", "text-logreg"])
def test_class_weights_and_groups_are_taken(head, rng):
    x, y, texts = embeddings(rng, noise=3.0)
    fitted = clone(head).set_params(class_weight="balanced").fit(x, y, groups=np.arange(len(y)) // 4, texts=texts)
    again = clone(head).set_params(class_weight="balanced").fit(x, y, groups=np.arange(len(y)) // 4, texts=texts)
    assert fitted.held_out_.shape == (240, 3)
    np.testing.assert_array_equal(fitted.predict_proba(x), again.predict_proba(x))
