import itertools
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest

from onepass.extract.frameworks import plain_keras
from onepass.heads.fitting.net_settings import NetSetting
from onepass.heads.fitting.net_sweep import (
    Samples,
    SweepOptions,
    batches,
    best_epoch,
    best_setting,
    held_out_losses,
    held_out_scores,
)
from onepass.heads.fitting.row_chunks import ResidentRows
from onepass.heads.fitting.temperature import calibrated_loss
from onepass.heads.inference.network import DenseNetwork
from support import blobs

SETTINGS = [
    NetSetting(2e-3, weight_decay=0.5, label_smoothing=0.1),
    NetSetting(1e-2),
    NetSetting(5e-4, weight_decay=2.0),
]

slow = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def keras() -> Iterator[Any]:
    with plain_keras() as keras:
        yield keras


def start(*sizes: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.normal(size=pair).astype(np.float32) / 4 for pair in itertools.pairwise(sizes)]


def nets_of(kernels: list[np.ndarray], settings: list[NetSetting], **options: Any) -> Any:
    from onepass.heads.fitting.batched_nets import BatchedNets

    output = "sigmoid" if kernels[-1].shape[1] == 1 else "softmax"
    return BatchedNets(kernels, settings, **{"output": output, **options})


@pytest.fixture
def rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(64, 1, 10) x, y, weights for three nets, and an order of 8 steps of 16."""
    x, y = blobs(rng, n=64, d=10)
    weights = (rng.random((64, 3)) < 0.8) * rng.uniform(0.5, 2, (64, 1))
    return x[:, None], y, weights.astype(np.float32), np.resize(rng.permutation(64), (8, 16))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_nets_side_by_side_equal_each_alone(optimizer: str, rows):
    x, y, weights, order = rows
    kernels = start(10, 8, 6, 3)
    together = nets_of(kernels, SETTINGS, optimizer=optimizer)
    together.train(x, y, weights, order)
    for net, setting in enumerate(SETTINGS):
        alone = nets_of(kernels, [setting], optimizer=optimizer)
        alone.train(x, y, weights[:, net : net + 1], order)
        pairs = (chain(*nets.weights_of(at)) for nets, at in ((alone, 0), (together, net)))
        for a, b in zip(*pairs, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def optimizer_of_keras(keras: Any, name: str, setting: NetSetting) -> Any:
    momentum = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    optimizer = keras.optimizers.get({
        "class_name": name,
        "config": {"learning_rate": setting.lr, "weight_decay": setting.weight_decay, **momentum},
    })  # fmt: skip
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@pytest.mark.parametrize(
    ("optimizer", "units"),
    [
        ("adam", 3), ("adam", 1), ("sgd", 3),
        *(pytest.param(name, 3, marks=slow) for name in ("adamw", "rmsprop", "nadam", "lion")),
    ],
)  # fmt: skip
def test_a_net_among_others_equals_plain_keras_step_by_step(optimizer: str, units: int, rows, keras):
    x, y, weights, order = rows
    y = y if units == 3 else np.minimum(y, 1)
    kernels, setting = start(10, 8, units), SETTINGS[0]
    nets = nets_of(kernels, SETTINGS, optimizer=optimizer, activation="tanh")
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(units)])
    for layer, kernel in zip(model.layers, kernels, strict=True):
        layer.set_weights([kernel, np.zeros(kernel.shape[1])])
    kind = keras.losses.CategoricalCrossentropy if units == 3 else keras.losses.BinaryCrossentropy
    loss = kind(from_logits=True, label_smoothing=setting.label_smoothing)
    model.compile(optimizer_of_keras(keras, optimizer, setting), loss, run_eagerly=True)
    target = (np.eye(3)[y] if units == 3 else y[:, None]).astype(np.float32)
    for batch in order:
        nets.train(x, y, weights, batch[None])
        model.train_on_batch(x[batch, 0], target[batch], sample_weight=weights[batch, 0])
        kernels, biases = nets.weights_of(0)
        expected = model.get_weights()
        for a, b in zip([*kernels, *biases], expected[::2] + expected[1::2], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_each_net_drops_its_own_share_and_none_when_it_scores(keras):
    from onepass.heads.fitting.batched_nets import BatchedDropout

    layer = BatchedDropout([0.0, 0.3, 0.8], seed=1)
    ones = np.ones((3, 200, 100), np.float32)
    np.testing.assert_array_equal(layer(ones), ones)
    first, second = (np.asarray(layer(ones, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first[0], ones[0])
    np.testing.assert_allclose((first > 0).mean(axis=(1, 2)), [1, 0.7, 0.2], atol=0.01)
    np.testing.assert_allclose(first.mean(axis=(1, 2)), 1, atol=0.05)
    assert (first[1][first[2] > 0] > 0).all(), "what a low rate drops, a higher one drops too"
    assert not np.array_equal(first, second)
    again = np.asarray(BatchedDropout([0.0, 0.3, 0.8], seed=1)(ones, training=True))
    np.testing.assert_array_equal(first, again)


def five_folds(y: np.ndarray) -> Samples:
    held_out = np.arange(len(y))[:, None] % 5 == np.arange(5)
    return Samples.of(y, np.ones(len(y)), ~held_out, held_out)


def test_held_out_scores_come_from_the_net_that_did_not_see_the_image(rng: np.random.Generator):
    x, y = blobs(rng, n=50, d=10)
    samples, settings = five_folds(y), SETTINGS[:2]
    nets = nets_of(start(10, 8, 3), settings * 5)
    views = rng.normal(size=(50, 2, 10)).astype(np.float32)
    nets.train(x[:, None], y, np.repeat(samples.weights, 2, axis=1), batches(50, 16, rng))
    views[:, 0] = x
    scores = held_out_scores(nets, ResidentRows(views, y), samples)
    zero, one = np.zeros(10, np.float32), np.ones(10, np.float32)
    for fold in range(5):
        for j in range(2):
            kernels, biases = nets.weights_of(2 * fold + j)
            network = DenseNetwork(zero, one, tuple(kernels), tuple(biases))
            held = np.arange(50) % 5 == fold
            np.testing.assert_allclose(scores[j, held], network.scores(x[held]), atol=1e-5)


def test_losses_are_those_at_the_best_temperature(rng: np.random.Generator):
    y = rng.integers(0, 4, 300)
    importance = rng.uniform(0.5, 2, 300)
    held_out = (np.arange(300) < 250)[:, None]
    samples = Samples.of(y, importance, ~held_out, held_out)
    scores = rng.normal(size=(3, 300, 4)).astype(np.float32) + np.eye(4, dtype=np.float32)[y]
    scores *= np.array([0.4, 1.7, 6], np.float32)[:, None, None]
    expected = [calibrated_loss(some[:250], y[:250], importance[:250]) for some in scores]
    np.testing.assert_allclose(held_out_losses(scores, samples), expected, rtol=0.01)
    scores[1, 3, 2] = np.nan
    assert held_out_losses(scores, samples)[1] == np.inf


@pytest.mark.parametrize(("n", "size"), [(100, 32), (5, 64), (64, 64), (7, 2)])
def test_batches_are_full_and_leave_nobody_out(n: int, size: int, rng: np.random.Generator):
    order = batches(n, size, rng)
    assert order.shape[1] <= size
    assert order.size < n + len(order)
    np.testing.assert_array_equal(np.unique(order), np.arange(n))


class StubNets:
    """Two nets that tell classes apart as well as they are told, epoch by epoch; NaN for one that diverged."""

    count, width, classes = 2, 1, 2

    def __init__(self, y: np.ndarray, *skills: tuple[float, float]) -> None:
        self.y, self.skills = y, skills
        self.orders: list[np.ndarray] = []

    def train(self, rows: np.ndarray, y: np.ndarray, weights: np.ndarray, order: np.ndarray) -> np.ndarray:
        self.orders.append(order)
        return len(self.orders) * np.array([1.0, 1.0, 0.1, 1.0])

    def scores(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        skill = np.array(self.skills[len(self.orders) - 1])[:, None]
        score = skill * (2 * self.y[images] - 1) + np.random.default_rng(0).normal(size=images.shape)
        return np.stack([np.zeros_like(score), score], axis=2).astype(np.float32)

    def weights_of(self, net: int) -> tuple[list, list]:
        return [np.array([[len(self.orders)]])], [np.zeros(1)]


Y = np.arange(60) // 2 % 2
HELD_OUT = np.arange(60)[:, None] % 2 == 0
SOURCE = ResidentRows(np.zeros((60, 3, 1), np.float32), Y)


def run_of(**changes: Any) -> SweepOptions:
    return SweepOptions(**{"epochs": 6, "batch_size": 8, "patience": 2, "late": lambda: False, "seed": 0, **changes})


def setting_chosen(nets: StubNets, **changes: Any) -> int:
    samples = Samples.of(Y, np.ones(60), ~HELD_OUT, HELD_OUT)
    return best_setting(nets, SOURCE, samples, run_of(**changes))  # type: ignore[arg-type]


def test_training_goes_on_while_it_helps_and_returns_the_best_epoch():
    held_out = HELD_OUT & [True, False]
    samples = Samples.of(Y, np.ones(60), ~held_out, held_out)
    nets = StubNets(Y, (1, 1), (4, 1), (2, 1), (1, 1), (9, 1))
    trained = best_epoch(nets, SOURCE, samples, run_of())  # type: ignore[arg-type]
    assert trained.epochs == 2
    assert trained.kernels[0] == 2
    assert len(nets.orders) == 4, "two epochs of patience"
    np.testing.assert_allclose(trained.history[:, :2], [[1, 0.1]] * 4, err_msg="means of what training sums up")
    assert trained.history[1, 3] == (trained.scores[::2].argmax(axis=1) == Y[::2]).mean()
    assert trained.history[:, 4].argmin() == 1
    assert np.isnan(trained.scores[1::2]).all()
    np.testing.assert_array_equal(trained.scores[::2].argmax(axis=1), Y[::2])


def test_without_patience_all_epochs_are_trained_and_the_last_net_is_taken():
    held_out = HELD_OUT & [True, False]
    samples = Samples.of(Y, np.ones(60), ~held_out, held_out)
    nets = StubNets(Y, (4, 1), *[(1, 1)] * 4, (np.nan, 1))
    trained = best_epoch(nets, SOURCE, samples, run_of(patience=None))  # type: ignore[arg-type]
    assert (trained.epochs, len(nets.orders), len(trained.history)) == (6, 6, 6)
    assert trained.kernels[0] == 6
    np.testing.assert_array_equal(np.isfinite(trained.history[:, 2]), [True] * 5 + [False])


def test_a_net_that_diverges_disqualifies_its_setting_alone():
    assert setting_chosen(StubNets(Y, *[(np.nan, 0)] * 6)) == 1
    assert setting_chosen(StubNets(Y, (0, 1), (np.inf, 2), *[(np.nan, 2)] * 4)) == 1
    assert setting_chosen(StubNets(Y, (3, 1), (np.inf, 2), *[(np.nan, 2)] * 4)) == 0, "it was good before"
    nets = StubNets(Y, (np.nan, np.nan))
    assert setting_chosen(nets) == 0
    assert len(nets.orders) == 1, "nothing is left to train"


def test_a_sweep_ends_when_it_is_late():
    nets = StubNets(Y, (1, 2))
    assert setting_chosen(nets, late=lambda: True) == 1
    assert len(nets.orders) == 1


def test_each_epoch_draws_one_view_of_each_image():
    nets = StubNets(Y, *[(i, i) for i in range(30)])
    setting_chosen(nets, epochs=30, patience=30)
    assert len(nets.orders) == 30
    assert all((np.unique(order // 3) == np.arange(60)).all() for order in nets.orders)
    drawn = np.concatenate([order.ravel() % 3 for order in nets.orders])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 1 / 3, atol=0.04)
    assert not np.array_equal(nets.orders[0], nets.orders[1])
