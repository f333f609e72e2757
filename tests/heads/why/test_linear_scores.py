"""The sum over positions is the head's own score, for every head that is one dense layer, whatever it folds."""

import numpy as np
import pytest

from onepass.extract import MapGrid
from onepass.heads.classifiers.base import Head
from onepass.heads.inference.network import DenseNetwork
from onepass.heads.training import make_head
from onepass.heads.why.linear_scores import LinearScores
from support import FAST_NETS

LINEAR = ("logreg", "svm", "ridge", "lda", "centroid", "linear")
OTHER = ("rbf-svm", "knn", "mlp", "kernel-ridge")
GRID = MapGrid(height=3, width=4, depth=10, start=5)
"""Rows of 5 columns, the mean of a map over 10, and 2 more columns."""


def maps(rng: np.random.Generator, n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 17) rows, (n, 3, 4, 10) maps and (n,) classes."""
    y = np.arange(n) % classes
    cells = rng.gamma(1.0, size=(n, 3, 4, 10)) * rng.uniform(0.1, 30, 10) + 3 * y[:, None, None, None]
    rest = rng.normal(size=(n, 7)) + y[:, None]
    rows = np.concatenate([rest[:, :5], cells.mean(axis=(1, 2)), rest[:, 5:]], axis=1)
    return rows.astype(np.float32), cells.astype(np.float32), y


def require_exact(network: DenseNetwork, rows: np.ndarray, cells: np.ndarray, scores: np.ndarray) -> None:
    linear = LinearScores.of(network)
    assert linear is not None
    for label in range(scores.shape[1]):
        for row, map_, score in zip(rows, cells, scores[:, label], strict=True):
            heat, rest = linear.heat(row, map_, GRID, label)
            assert heat.shape == (3, 4)
            assert heat.sum() + rest + linear.bias[label] == pytest.approx(score, abs=1e-4)


def fitted(kind: str, rows: np.ndarray, y: np.ndarray, **options: object) -> Head:
    return make_head(kind, **FAST_NETS.get(kind, {}), **options).fit(rows, y)


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("tune", ["fast", "none"])
def test_every_linear_head_is_explained_exactly(kind: str, tune: str, rng: np.random.Generator):
    rows, cells, y = maps(rng, 90)
    network = fitted(kind, rows, y, tune=tune).network_
    require_exact(network, rows[:8], cells[:8], network.scores(rows[:8]))


def test_a_single_sigmoid_unit_has_log_odds_of_both_classes(rng: np.random.Generator):
    rows, cells, y = maps(rng, 60, 2)
    network = make_head("mlp", hidden="0", output="sigmoid", epochs=10, lr=0.01).fit(rows, y).network_
    probabilities = network.outputs(rows[:5])
    require_exact(network, rows[:5], cells[:5], np.log(probabilities / probabilities[:, ::-1]))


@pytest.mark.parametrize("kind", ["logreg", "ridge"])
def test_labels_and_numbers_are_explained_too(kind: str, rng: np.random.Generator):
    rows, cells, y = maps(rng, 90)
    several = np.stack([y != 0, y == 1], axis=1).astype(np.int64)
    network = make_head(kind, task="labels").fit(rows, several).network_
    require_exact(network, rows[:5], cells[:5], network.scores(rows[:5]))
    if kind == "ridge":
        number = make_head(kind, task="number").fit(rows, y * 1.5).network_
        require_exact(number, rows[:5], cells[:5], number.outputs(rows[:5]))


@pytest.mark.parametrize("kind", ["text", "text-logreg"])
def test_heads_from_texts_are_explained_too(kind: str, rng: np.random.Generator):
    rows, cells, y = maps(rng, 90)
    network = make_head(kind, prompts=["a photo of a {}"]).fit(rows, y, texts=rng.normal(size=(3, 17))).network_
    require_exact(network, rows[:5], cells[:5], network.scores(rows[:5]))


@pytest.mark.parametrize("kind", OTHER)
def test_other_heads_are_not_linear(kind: str, rng: np.random.Generator):
    rows, _, y = maps(rng, 60)
    task = {"task": "number"} if kind == "kernel-ridge" else {}
    assert LinearScores.of(fitted(kind, rows, y, tune="none", **task).network_) is None


def test_the_mean_training_image_has_no_heat(rng: np.random.Generator):
    """Each position counts against the mean of the training rows."""
    rows, _, y = maps(rng, 90)
    network = fitted("logreg", rows, y).network_
    linear = LinearScores.of(network)
    assert linear is not None
    heat, rest = linear.heat(network.mean, np.broadcast_to(network.mean[GRID.columns], (3, 4, 10)), GRID, 1)
    np.testing.assert_allclose(heat, 0, atol=1e-9)
    assert rest == pytest.approx(0, abs=1e-9)
