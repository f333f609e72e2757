import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from onepass import info
from onepass.extract.frameworks import plain_keras
from onepass.heads import MLPHead, SoftmaxHead, load_head, train_head
from onepass.heads.fitting.net_settings import NetSetting
from onepass.heads.fitting.net_sweep import Samples, SweepOptions, batches, best_epoch
from onepass.heads.fitting.row_chunks import ResidentRows
from onepass.heads.inference.history import HELD_OUT, History
from onepass.heads.saved_head import head_bytes
from support import blobs, run_program

SETTLED = {"hidden": (8,), "dropout": 0.0, "lr": 0.01, "weight_decay": 0.0}


def problem(rng: np.random.Generator, output: str) -> tuple[np.ndarray, np.ndarray, int]:
    x, y = blobs(rng, n=64, d=10)
    return {
        "softmax": (x, y, 3),
        "sigmoids": (x, (rng.random((64, 4)) < 0.3).astype(np.float32), 4),
        "linear": (x, x[:, :1] + 0.3 * rng.normal(size=(64, 1)).astype(np.float32), 1),
    }[output]


@pytest.mark.parametrize("output", ["softmax", "sigmoids", "linear"])
def test_each_epoch_tells_what_plain_keras_tells(output: str, rng: np.random.Generator):
    (x, y, units), smoothing = problem(rng, output), 0.0 if output == "linear" else 0.1
    held_out = np.stack([np.arange(64) % 4 == 0, np.zeros(64, bool)], axis=1)
    samples = Samples.of(y, np.ones(64), ~held_out, held_out, output)
    options = SweepOptions(3, 16, None, lambda: False, 5, smoothing)
    kernels = [rng.normal(size=pair).astype(np.float32) / 4 for pair in itertools.pairwise((10, 8, units))]
    setting, source = NetSetting(1e-2, label_smoothing=smoothing), ResidentRows(x[:, None], y)
    with plain_keras() as keras:
        from onepass.heads.fitting.batched_nets import BatchedNets

        nets = BatchedNets(kernels, [setting] * 2, output=output)
        history = best_epoch(nets, source, samples, options).history
        expected = []
        models = [plain_model(keras, kernels, output, smoothing) for _ in range(2)]
        for epoch in range(3):
            random = np.random.default_rng((5, epoch))
            source.chunks(int(random.integers(2**31)))
            order = batches(64, 16, random)
            order += random.integers(1, size=order.shape)
            order = order.ravel()
            wanted = np.eye(3, dtype=np.float32)[y] if output == "softmax" else y
            for model, weights in zip(models, samples.weights.T, strict=True):
                fit = {"batch_size": 16, "shuffle": False, "verbose": 0, "sample_weight": weights[order]}
                told = model.fit(x[order], wanted[order], **fit).history
            judged = models[0].evaluate(x[held_out[:, 0]], wanted[held_out[:, 0]], verbose=0)
            metric = next(name for name in told if name != "loss")
            expected.append([told["loss"][0], told[metric][0], *judged])
    np.testing.assert_allclose(np.array(history[:, :4], np.float64), expected, rtol=2e-4)


def plain_model(keras: Any, kernels: list[np.ndarray], output: str, smoothing: float) -> Any:
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(kernels[-1].shape[1])]
    model = keras.Sequential([keras.Input((10,)), *layers])
    model.set_weights([kernels[0], np.zeros(8), kernels[1], np.zeros(kernels[1].shape[1])])
    losses, metrics = keras.losses, keras.metrics
    loss, metric = {
        "softmax": (losses.CategoricalCrossentropy(True, smoothing), metrics.CategoricalAccuracy()),
        "sigmoids": (losses.BinaryCrossentropy(True, smoothing), metrics.BinaryAccuracy(threshold=0.0)),
        "linear": (losses.MeanSquaredError(), metrics.MeanAbsoluteError()),
    }[output]
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=[metric])
    return model


@pytest.mark.parametrize("head", [MLPHead(hidden=(8,), lr=0.1), SoftmaxHead(lr=0.1)])
def test_ten_epochs_without_tuning_are_ten_epochs(head: MLPHead | SoftmaxHead, rng: np.random.Generator):
    x, y = rng.normal(size=(90, 20)), rng.integers(0, 3, 90)  # nothing to learn: held-out rows would stop it early
    fitted = head.set_params(epochs=10, tune="none").fit(x, y)
    assert (len(fitted.history_), fitted.history_.kept, fitted.chosen_["epochs"]) == (10, 10, 10)
    assert "a seventh of the training images" in fitted.history_.measured_on
    stopped = head.set_params(patience=2).fit(x, y)
    assert len(stopped.history_) < 10
    assert stopped.history_.kept == len(stopped.history_) - 2


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_last_epoch_is_the_loss_at_the_weights_that_are_kept(output: str, rng: np.random.Generator):
    x, y = blobs(rng, n=150, k=2, spread=0.7)
    held_out = (x[100:], y[100:])
    head = MLPHead(**SETTLED, output=output, tune="none", epochs=4).fit(x[:100], y[:100], validation=held_out)
    columns = head.history_.columns
    assert list(columns)[:4] == ["loss", "accuracy", "held_out_loss", "held_out_accuracy"]
    assert columns["held_out_loss"][-1] == pytest.approx(log_loss(y[100:], head.predict_proba(x[100:])), rel=1e-4)
    assert columns["held_out_accuracy"][-1] == head.score(*held_out)
    assert head.history_.measured_on == HELD_OUT["validation"]
    assert columns["loss"][-1] < columns["loss"][0]
    assert columns["accuracy"][-1] == pytest.approx(head.score(x[:100], y[:100]), abs=0.1), "before the last steps"


def test_of_folds_each_image_is_judged_by_a_net_that_did_not_see_it(rng: np.random.Generator):
    x, y = blobs(rng, n=120, spread=0.7)
    head = MLPHead(**SETTLED, epochs=8).fit(x, y)
    columns, kept = head.history_.columns, head.chosen_["epochs"] - 1
    assert columns["held_out_accuracy"][kept] == (head.held_out_.argmax(axis=1) == y).mean()
    best = log_loss(y, head.held_out_)
    assert columns["held_out_loss_at_best_temperature"][kept] == pytest.approx(best, rel=0.01)
    assert columns["held_out_loss_at_best_temperature"].argmin() == kept
    assert "training images, each by the net of a fold" in head.history_.measured_on


def test_of_numbers_errors_are_in_their_own_unit(rng: np.random.Generator):
    x = rng.normal(size=(120, 10)).astype(np.float32)
    y = 500 + 40 * x[:, 0] + 5 * rng.normal(size=120)
    head = MLPHead(**SETTLED, epochs=8, task="number").fit(x, y)
    columns, kept = head.history_.columns, head.chosen_["epochs"] - 1
    errors = head.held_out_[:, 0] - y
    assert columns["held_out_mae"][kept] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert columns["held_out_loss"][kept] == pytest.approx(np.square(errors).mean(), rel=1e-4)
    assert columns["mae"][kept] < columns["mae"][0]


def test_of_labels_the_share_of_labels_right_is_told(rng: np.random.Generator):
    x = rng.normal(size=(120, 10)).astype(np.float32)
    y = (x[:, :3] + 0.3 * rng.normal(size=(120, 3)) > 0.5).astype(int)
    head = MLPHead(**SETTLED, epochs=6, tune="none", task="labels").fit(x[:90], y[:90], validation=(x[90:], y[90:]))
    right = (head.predict_proba(x[90:]) > 0.5) == (y[90:] > 0)
    assert head.history_.columns["held_out_labels_right"][-1] == pytest.approx(right.mean(), abs=1e-9)


def test_where_nothing_can_be_held_out_nothing_is_told_of_it(rng: np.random.Generator):
    x, y = rng.normal(size=(4, 5)), np.array([0, 0, 1, 1])
    history = MLPHead(**SETTLED, tune="none", epochs=2).fit(x, y, groups=np.zeros(4)).history_
    assert np.isnan(history.values[:, 2:]).all()
    assert np.isfinite(history.values[:, :2]).all()
    assert str(history).endswith("; nothing was held out")
    assert history.record()["held_out_loss"] == [None, None]


def test_a_head_keeps_its_history_in_its_file_as_csv_and_in_what_info_says(feature_file: Path, tmp_path: Path):
    table = tmp_path / "epochs.csv"
    head = train_head(feature_file, head="mlp", epochs=3, out=tmp_path / "x.head", history=table).head
    loaded = load_head(head.path).history
    np.testing.assert_array_equal(loaded.values, head.history.values)
    assert (loaded.kept, loaded.rate, loaded.held_out_by) == (head.parameters["epochs"], "accuracy", "folds")
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["epoch", *loaded.columns, "kept"]
    for name, values in loaded.columns.items():
        np.testing.assert_array_equal([float(line[name]) for line in lines], values)
    assert [int(line["epoch"]) for line in lines if line["kept"] == "1"] == [loaded.kept]
    told = info(head.path)
    assert f" history {loaded} " in " ".join(str(told).split())
    assert json.loads(json.dumps(told.record()))["history"]["loss"] == loaded.columns["loss"].tolist()


def test_heads_of_other_kinds_and_of_earlier_files_have_none(feature_file: Path, tmp_path: Path):
    other = train_head(feature_file, head="svm", out=tmp_path / "x.head").head
    assert other.history is None
    assert load_head(other.path).history is None
    net = train_head(feature_file, head="linear", epochs=2, out=tmp_path / "y.head").head
    net.path.write_bytes(head_bytes(replace(net, history=None)))
    assert load_head(net.path).history is None
    assert info(net.path).record()["history"] is None


@pytest.mark.parametrize(("facts", "words"), [
    ({"kept": 0}, "epoch 0 kept of 2"),
    ({"kept": 3}, "epoch 3 kept of 2"),
    ({"kept": True}, "epoch True kept of 2"),
    ({"rate": "mae"}, "a history of 'mae', held out by 'folds'"),
    ({"held_out_by": "luck"}, "a history of 'accuracy', held out by 'luck'"),
])  # fmt: skip
def test_a_history_that_makes_no_sense_is_refused(facts: dict, words: str):
    good = {"kept": 2, "rate": "accuracy", "held_out_by": "folds"}
    values = np.ones((2, 5))
    assert History.restore(values, good, "classes").kept == 2
    with pytest.raises(ValueError, match=words):
        History.restore(values, {**good, **facts}, "classes")
    with pytest.raises(ValueError, match="a history of shape"):
        History.restore(values[:, :4], good, "classes")


def test_a_history_that_cannot_be_written_is_told(feature_file: Path, tmp_path: Path):
    (tmp_path / "e.csv").mkdir()
    done = run_program("train-head", str(feature_file), "--head", "mlp", "--history", "e.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: --history e.csv is a folder; needed: the name of a file.\n")
