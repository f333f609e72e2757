import random

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from onepass.extract.frameworks import import_keras, plain_keras
from onepass.features.errors import OptionError, TrainingError
from onepass.heads import KNNHead, MLPHead, SoftmaxHead
from onepass.heads.classifiers.net_head import NetRows, first_kernels
from onepass.heads.fitting.net_settings import LINEAR_GRIDS, MLP_GRIDS, NetSetting, settings_of
from onepass.heads.inference.keras_layers import summary, to_keras
from onepass.heads.inference.network import ACTIVATIONS, DenseNetwork
from onepass.heads.tasks.objectives import Classes
from support import FAST_NETS, blobs

FAST = {"tune": "none", **FAST_NETS["mlp"]}


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_numpy_inference_equals_keras(activation: str, output: str, rng: np.random.Generator):
    x, _ = blobs(rng, 50)
    sizes = (20, 8, 5, 3 if output == "softmax" else 1)
    kernels = [3 * kernel for kernel in first_kernels(sizes, 1)]
    biases = [rng.normal(size=units).astype(np.float32) for units in sizes[1:]]
    mean, scale = x.mean(axis=0), x.std(axis=0)
    network = DenseNetwork(mean, scale, tuple(kernels), tuple(biases), output, activation)
    expected = np.asarray(to_keras(network, dropout=0.5)(x))
    if output == "sigmoid":
        assert expected.shape == (50, 1)
        expected = np.concatenate([1 - expected, expected], axis=1)
    np.testing.assert_allclose(network.outputs(x), expected, atol=2e-5)


def test_a_head_that_is_no_dense_net_has_no_keras_layers(rng: np.random.Generator):
    network = KNNHead().fit(*blobs(rng, 60)).network_
    with pytest.raises(OptionError) as caught:
        to_keras(network)
    assert str(caught.value) == (
        "a head of form neighbours has no Keras layers. Use one made of dense layers, such as mlp or logreg."
    )


@pytest.mark.parametrize("options", [
    {"hidden": (8, 4), "activation": "gelu", "dropout": 0.1},
    {"hidden": (8,), "output": "sigmoid", "dropout": 0.0, "optimizer": "sgd"},
])  # fmt: skip
def test_nets_of_any_shape_learn(options: dict, rng: np.random.Generator):
    x, y = blobs(rng, k=2)
    head = MLPHead(**{**FAST, "epochs": 20, "lr": None, **options}).fit(x[:160], np.array(["ant", "bee"])[y[:160]])
    assert head.score(x[160:], np.array(["ant", "bee"])[y[160:]]) > 0.8
    np.testing.assert_allclose(head.predict_proba(x).sum(axis=1), 1, atol=1e-12)
    assert head.network_.activation == options.get("activation", "relu")
    assert [len(bias) for bias in head.network_.biases[:-1]] == list(options["hidden"])


def test_the_softmax_head_is_logistic_regression(rng: np.random.Generator):
    x, y = blobs(rng, 300, spread=1.0)
    head = SoftmaxHead(epochs=200, patience=20, lr=3e-3, weight_decay=0.0, tune="none").fit(x, y)
    z = (x - head.network_.mean) / head.network_.scale
    reference = LogisticRegression(C=1.0, max_iter=1000).fit(z, y)
    assert (head.predict(x) == reference.predict(z)).mean() > 0.97
    assert len(head.network_.kernels) == 1


def test_settings_are_tuned_on_the_folds_and_given_ones_kept(rng: np.random.Generator):
    x, y = blobs(rng, 200, spread=0.8)
    head = MLPHead(hidden=(16,), lr=0.004, epochs=8).fit(x, y)
    assert head.chosen_["lr"] == 0.004
    assert (head.chosen_["dropout"], head.chosen_["weight_decay"]) in [(d, w) for _, d, w in MLP_GRIDS["fast"]]
    assert 1 <= head.chosen_["epochs"] <= 8
    assert head.held_out_.shape == (200, 3)
    held_out = (head.held_out_.argmax(axis=1) == y).mean()
    assert held_out <= head.score(x, y)


def test_a_grid_gives_each_setting_once_and_scales_with_the_optimizer():
    assert len(settings_of(MLP_GRIDS["thorough"], "adam")) == len(settings_of(LINEAR_GRIDS["thorough"], "adam")) == 24
    assert settings_of(MLP_GRIDS["none"], "adam") == settings_of(MLP_GRIDS["fast"], "adam")[:1]
    given = {"lr": 1e-3, "dropout": 0.1, "weight_decay": 0.0, "label_smoothing": 0.2}
    assert settings_of(MLP_GRIDS["thorough"], "lion", **given) == [NetSetting(1e-3, 0.1, 0.0, 0.2)]
    adam, lion = (settings_of(MLP_GRIDS["thorough"], name) for name in ("adam", "lion"))
    for a, b in zip(adam, lion, strict=True):
        assert b.lr == pytest.approx(a.lr / 10)
        assert b.lr * b.weight_decay == pytest.approx(a.lr * a.weight_decay), "what a step takes off a kernel"


def test_validation_rows_say_when_to_stop(rng: np.random.Generator):
    x, y = blobs(rng)
    head = MLPHead(**{**FAST, "epochs": 40, "patience": 2, "lr": 0.05})
    worse_and_worse = (x[:30], np.append((y[:29] + 1) % 3, 7))  # and a label that training does not know
    assert head.fit(x, y, validation=worse_and_worse).chosen_["epochs"] <= 3
    assert clone(head).fit(x, y, validation=(x[:30], y[:30])).chosen_["epochs"] > 3


def test_of_validation_views_the_plain_one_counts(rng: np.random.Generator):
    x, y = blobs(rng, 90)
    views = np.stack([x, x + 1e3], axis=1)
    heads = [MLPHead(**FAST).fit(x, y, validation=(rows, y)) for rows in (views, x)]
    np.testing.assert_array_equal(heads[0].network_.kernels[0], heads[1].network_.kernels[0])


def test_validation_rows_do_not_go_with_folds(rng: np.random.Generator):
    x, y = blobs(rng, 30)
    with pytest.raises(OptionError) as caught:
        MLPHead().fit(x, y, validation=(x, y))
    assert str(caught.value) == (
        "validation rows say when to stop, but with tune='fast' the folds do. Set tune='none', or train on all rows."
    )


def test_without_folds_a_seventh_of_the_groups_says_when_to_stop(rng: np.random.Generator):
    from onepass.heads.classifiers.net_head import _stopping_samples

    y, groups = np.arange(140) % 2, np.arange(140) // 2 // 2
    rows = NetRows(np.zeros((140, 1, 3)), y, np.ones(140), np.ones(2), groups, np.zeros((140, 0), bool), Classes(2))
    samples, held_out_by = _stopping_samples(rows, seed=0)
    assert held_out_by == "part"
    stopping = samples.held_out[:, 0]
    assert stopping.sum() == 20
    assert y[stopping].sum() == 10
    assert not set(groups[stopping]) & set(groups[~stopping])
    assert not samples.held_out[:, 1].any(), "the last net, which becomes the head, trains on all"
    np.testing.assert_allclose(samples.weights[:, 0], np.where(stopping, 0, 140 / 120), rtol=1e-6)
    np.testing.assert_allclose(samples.weights[:, 1], 1)


@pytest.mark.parametrize(("options", "message"), [
    ({"dropout": 1.0}, "dropout is 1.0; needed: 0 or more and below 1."),
    ({"label_smoothing": -0.1}, "label_smoothing is -0.1; needed: 0 or more and below 1."),
    ({"weight_decay": -1.0}, "weight_decay is -1.0; needed: a finite number, 0 or more."),
    ({"hidden": (0, 3)}, "hidden is (0, 3); needed: layers of at least one unit."),
    ({"output": "relu"}, "output is 'relu'; needed: one of softmax, sigmoid."),
    ({"activation": "step"}, f"activation is 'step'; needed: one of {', '.join(ACTIVATIONS)}."),
    ({"optimizer": "newton"}, "optimizer is 'newton'; needed: one of adam, adamw, sgd, rmsprop, nadam, lion."),
    ({"output": "sigmoid"}, "one sigmoid unit tells two classes apart; there are 3. Use output='softmax'."),
    ({"lr": 0}, "lr is 0; needed: a finite number above 0."),
    ({"lr": float("inf")}, "lr is inf; needed: a finite number above 0."),
    ({"batch_size": 0}, "batch_size is 0; needed: a finite number above 0."),
    ({"patience": -1}, "patience is -1; needed: a finite number above 0."),
    ({"seed": -1}, "seed is -1; needed: 0 to 4294967295."),
    ({"epochs": 0}, "epochs is 0; needed: a finite number above 0."),
])  # fmt: skip
def test_wrong_settings_are_refused(options: dict, message: str, rng: np.random.Generator):
    with pytest.raises(OptionError) as caught:
        MLPHead(**options).fit(*blobs(rng, 30))
    assert str(caught.value) == message


def test_a_net_that_diverges_is_refused(rng: np.random.Generator):
    with pytest.raises(TrainingError) as caught:
        MLPHead(lr=1e38, hidden=(8,), epochs=3, tune="none").fit(*blobs(rng, 60))
    assert str(caught.value) == (
        "training diverged to infinite or undefined weights. Try a smaller learning rate (lr)."
    )


def test_the_same_seed_gives_the_same_head_and_another_seed_another(rng: np.random.Generator):
    x, y = blobs(rng, n=90)
    first, second, other = (MLPHead(**FAST, seed=seed).fit(x, y).predict_proba(x) for seed in (0, 0, 2**32 - 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_training_leaves_the_users_random_numbers_and_settings_alone(rng: np.random.Generator):
    keras = import_keras()
    keras.config.set_floatx("float64")
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].copy()
    try:
        MLPHead(**FAST).fit(*blobs(rng, 60))
        assert keras.config.floatx() == "float64"
    finally:
        keras.config.set_floatx("float32")
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_the_summary_is_keras_own(rng: np.random.Generator):
    network = DenseNetwork(np.zeros(20, np.float32), np.ones(20, np.float32), tuple(first_kernels((20, 128, 1), 0)),
        (np.zeros(128, np.float32), np.zeros(1, np.float32)), "sigmoid")  # fmt: skip
    text = summary(network, dropout=0.5)
    lines: list[str] = []
    to_keras(network, dropout=0.5).summary(print_fn=lambda line, **_: lines.append(line))
    assert text == "\n".join(lines)
    assert "dense_1 (Dense)" in text
    assert "dropout_1 (Dropout)" in text


def test_kernels_begin_as_keras_would_draw_them():
    with plain_keras() as keras:
        expected = np.asarray(keras.initializers.GlorotNormal(seed=0)((400, 100)))
    first, last = first_kernels((400, 100, 30), 0)
    assert first.std() == pytest.approx(expected.std(), rel=0.03)
    assert (first.shape, last.shape) == ((400, 100), (100, 30))
    assert not first_kernels((400, 30), 0)[0].any(), "a softmax alone has one minimum, wherever it begins"
