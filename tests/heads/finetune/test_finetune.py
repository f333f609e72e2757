"""Fine-tuning on a small network of the user's own: the start, the rules, the rescue, and what is kept."""

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_sample_weight

from onepass import info, predict
from onepass.extract import BackboneOrigin, LabelledPixels, load_trainable, random_layers, run_extraction
from onepass.extract.frameworks import plain_keras
from onepass.features import FeatureFile
from onepass.features.errors import DataError, FeatureFileError, OnepassWarning, OptionError, TrainingError
from onepass.heads import fine_tune, train_head
from onepass.heads.export.run import export
from onepass.heads.file_kinds import FileKind, file_kind
from onepass.heads.finetune.boundary import BoundaryInputs, boundary_cost, remove_if_damaged, worth_keeping
from onepass.heads.finetune.joined import Joined, require_agreement
from onepass.heads.finetune.model_file import load_model, read_facts, tuned_model
from onepass.heads.finetune.plan import TuningStage, stages_to_train
from onepass.heads.finetune.result import Epoch, FineTuned, class_changes, gain_of, history_figure, without_copies
from onepass.heads.finetune.splits import Parts, start_head
from onepass.heads.finetune.trainer import Trainer
from onepass.heads.head_options import HEADS_OF
from onepass.heads.saved_head import SavedHead
from onepass.heads.stats.decision import best_epoch, is_better
from onepass.heads.stats.intervals import wilson_interval
from onepass.heads.tensor_file import tensor_bytes
from support import flip_bit, run_process, run_program, started, wait_for, write_folder
from task_files import relabelled

FOLDABLE = ("logreg", "svm", "ridge", "lda", "centroid", "mlp", "linear")
TWO = TuningStage("3", 1e-3, 2)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, tiny_backbone) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(folder / "photos" / part, {"ant": 12, "bee": 11, "fly": 9}, seed=seed)
    run_extraction(folder / "photos", tiny_backbone, out=folder / "photos.h5")
    return folder / "photos.h5"


@pytest.fixture(scope="module")
def logreg(features: Path) -> SavedHead:
    return train_head(features, head="logreg", C=0.1, tune="none", out=features.with_name("logreg.head")).head


def tuned(head: SavedHead, out: Path, *stages: TuningStage, **options) -> FineTuned:
    return fine_tune(head, stages=stages or (TWO,), out=out, **options)


@pytest.fixture(scope="module")
def kept(logreg: SavedHead, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FineTuned]:
    """A fine-tuned model as each kind of file."""
    folder = tmp_path_factory.mktemp("kept")
    return {ending: tuned(logreg, folder / f"x.{ending}", keep="always") for ending in ("keras", "h5")}


def weights_of(path: Path) -> list[np.ndarray]:
    return load_model(path).get_weights()


@pytest.mark.parametrize("kind", FOLDABLE)
def test_the_joined_model_is_the_cached_head(kind: str, features: Path, tmp_path: Path):
    head = train_head(features, head=kind, out=tmp_path / "x.head").head
    with FeatureFile(features) as file, plain_keras():
        joined = Joined.of(
            load_trainable(file.spec, source=BackboneOrigin.of(file.provenance), needed_by="x"), head.network
        )
        test = file.rows_of("test")
        pixels = LabelledPixels(file).read(test)
        expected = head.network.scores(file.read(test)[0])
        np.testing.assert_allclose(joined.logits.predict(pixels, verbose=0), expected, atol=1e-3)
        both = joined.probabilities().predict(pixels, verbose=0)
        np.testing.assert_allclose(both, head.predict_proba(file.read(test)[0]), atol=1e-4)
        assert (both.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("kind", sorted(set(HEADS_OF["classes"]) - set(FOLDABLE)))
def test_heads_that_are_no_layers_say_which_are(kind: str, features: Path, tmp_path: Path):
    head = train_head(features, head=kind, tune="none", out=tmp_path / "x.head").head
    with pytest.raises(OptionError, match="logreg, svm, ridge, lda, centroid, mlp or linear"):
        tuned(head, tmp_path / "x.keras")


def test_a_sigmoid_head_becomes_a_softmax_of_two(tmp_path: Path, tiny_backbone):
    write_folder(tmp_path / "photos", {"ant": 14, "bee": 14})
    run_extraction(tmp_path / "photos", tiny_backbone, out=tmp_path / "photos.h5")
    head = train_head(tmp_path / "photos.h5", head="mlp", hidden=(4,), output="sigmoid", tune="none", epochs=4,
                      out=tmp_path / "x.head").head  # fmt: skip
    with FeatureFile(tmp_path / "photos.h5") as file, plain_keras():
        joined = Joined.of(
            load_trainable(file.spec, source=BackboneOrigin.of(file.provenance), needed_by="x"), head.network
        )
        every = np.arange(len(file))
        found = joined.probabilities().predict(LabelledPixels(file).read(every), verbose=0)
        np.testing.assert_allclose(found, head.predict_proba(file.read(every)[0]), atol=1e-5)


def test_other_pixels_than_those_of_the_rows_are_noticed(
    features: Path, logreg: SavedHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = LabelledPixels.read
    monkeypatch.setattr(LabelledPixels, "read", lambda *args: read(*args)[..., ::-1])
    with pytest.raises(
        TrainingError, match=r"not the head that was trained: .* images, .*\nMost|Most of all differs val"
    ):
        tuned(logreg, tmp_path / "x.keras")


def test_agreement_is_exact_for_float32_and_by_label_below():
    cached = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0004]])
    close = cached + 4e-4 * np.array([1, -1])
    assert require_agreement(close, cached, precision="float32", name=str).flips == 0  # the third is a tie
    with pytest.raises(
        TrainingError,
        match=r"^the joined model is not the head that was trained: 3 images, 0 labels differ, logits by 3\.0e-03 at "
        r"most; needed: no label, logits within 0\.002\. Most of all differs 2: \[0\.003, 1\.003\] against "
        r"\[0\.0, 1\.0\]\. Check the rows with `onepass verify`, then train the head again\.$",
    ):
        require_agreement(cached + np.array([[0], [3e-3], [0]]), cached, precision="float32", name=lambda i: str(i + 1))
    assert require_agreement(cached * 1.1, cached, precision="bfloat16", name=str).flips == 0
    with pytest.raises(TrainingError, match="labels differ"):
        require_agreement(-cached, cached, precision="bfloat16", name=str)


def test_logits_may_differ_in_proportion_to_the_largest():
    cached = np.array([[532.0, -532.0], [-10.0, 3.0]])
    found = require_agreement(cached + 0.3, cached, precision="float32", name=str)
    assert found.tolerance == 532 / 1024
    with pytest.raises(TrainingError, match=r"logits by 6\.0e-01 at most; needed: no label, logits within 0\.52\."):
        require_agreement(cached + 0.6, cached, precision="float32", name=str)
    with pytest.raises(TrainingError, match="not the head that was trained"):
        require_agreement(np.full_like(cached, np.nan), cached, precision="float32", name=str)


@pytest.mark.parametrize("kind", ["logreg", "svm", "lda"])
def test_a_head_that_is_right_on_all_validation_images_can_be_tuned(kind: str, tmp_path: Path, tiny_backbone):
    for part, seed in (("train", 1), ("val", 2)):
        write_shades(tmp_path / "photos" / part, {"night": 20, "noon": 235}, count=20, seed=seed)
    path = tmp_path / "photos.h5"
    run_extraction(tmp_path / "photos", tiny_backbone, out=path)
    head = train_head(path, head=kind, out=tmp_path / "x.head").head
    with FeatureFile(path) as file:
        x, y = file.read(file.rows_of("val"))
        start = start_head(head, file, Parts.of(file)).scores(x)
    assert (start.argmax(axis=1) == y).all()
    assert np.ptp(start, axis=1).max() < 30
    done = tuned(head, tmp_path / "x.keras", TuningStage("3", 1e-4, 1), keep="always")
    assert (done.agreement.images, done.agreement.flips) == (40, 0)


def write_shades(folder: Path, shades: dict[str, int], *, count: int, seed: int) -> None:
    """Photos of one shade a class with some noise, which no head can mistake."""
    random = np.random.default_rng(seed)
    for label, shade in shades.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = (shade + random.integers(-15, 16, (36, 36, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def test_batchnorm_stays_as_it_is_unless_it_is_told_to_learn(features: Path, logreg: SavedHead):
    with FeatureFile(features) as file, plain_keras() as keras:
        network = load_trainable(file.spec, source=BackboneOrigin.of(file.provenance), needed_by="x")
        joined = Joined.of(network, logreg.network)
        pixels, y = LabelledPixels(file).read(file.rows_of("train")), file.read(file.rows_of("train"))[1]
        (norm,) = [one for one in network.network.layers if isinstance(one, keras.layers.BatchNormalization)]
        for learns in (False, True):
            before = [np.array(weight) for weight in norm.weights]
            kernel = np.array(network.network.layers[-2].weights[0])
            joined.unfreeze(0, batchnorm=learns)
            joined.logits.compile(keras.optimizers.SGD(1e-2), keras.losses.SparseCategoricalCrossentropy(True))
            joined.logits.fit(pixels, y, epochs=1, verbose=0)
            for weight, old in zip(norm.weights, before, strict=True):
                assert (np.abs(np.array(weight) - old).max() > 1e-7) == learns
            assert np.abs(np.array(network.network.layers[-2].weights[0]) - kernel).max() > 1e-6


def test_a_frozen_layer_does_not_move_and_layer_decay_slows_the_lower_ones(features: Path, logreg: SavedHead, tmp_path):
    tuned(logreg, tmp_path / "start.keras", replace(TWO, lr=1e-12), keep="always")
    start = weights_of(tmp_path / "start.keras")
    tuned(logreg, tmp_path / "x.keras", keep="always")
    moved = [np.abs(a - b).max() for a, b in zip(start, weights_of(tmp_path / "x.keras"), strict=True)]
    names = [variable.path for variable in load_model(tmp_path / "x.keras").weights]
    for name, change in zip(names, moved, strict=True):
        trains = "depthwise" in name or "dense" in name
        assert (change > 1e-5) == trains, name
    tuned(logreg, tmp_path / "slow.keras", layer_decay=1e-3, keep="always")
    slow = [np.abs(a - b).max() for a, b in zip(start, weights_of(tmp_path / "slow.keras"), strict=True)]
    for name, fast, change in zip(names, moved, slow, strict=True):
        if "depthwise" in name:
            assert change < fast / 5


def test_a_boundary_gives_what_end_to_end_gives(features: Path, logreg: SavedHead, tmp_path: Path):
    plan = {"stages": "3:1e-3x3", "views": 3, "augment": "classic", "keep": "always"}
    said: list[str] = []
    cut = fine_tune(logreg, out=tmp_path / "cut.keras", say=said.append, **plan)
    whole = fine_tune(logreg, out=tmp_path / "whole.keras", boundary_cache="off", **plan)
    assert "boundary cache: output of" in said[0]
    assert cut.boundary
    assert not whole.boundary
    for a, b in zip(cut.history[1:], whole.history[1:], strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-3)
        assert a.val_loss == pytest.approx(b.val_loss, rel=1e-3, abs=1e-5)
    for a, b in zip(weights_of(tmp_path / "cut.keras"), weights_of(tmp_path / "whole.keras"), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-4)


def test_the_history_is_of_all_images_of_an_epoch(features: Path, logreg: SavedHead, tmp_path: Path):
    still = TuningStage("all", 1e-12, 1)
    done = tuned(logreg, tmp_path / "x.keras", still, batch_size=9, class_weight="balanced", label_smoothing=0)
    with FeatureFile(features) as file:
        parts = Parts.of(file, seed=0)
        x, y = file.read(parts.train)
        start = start_head(logreg, file, parts)
    p, weights = start.outputs(x), compute_sample_weight("balanced", y)
    assert done.history[1].loss == pytest.approx(np.mean(-np.log(p[np.arange(len(y)), y]) * weights), rel=1e-3)
    assert done.history[1].accuracy == pytest.approx(np.average(p.argmax(axis=1) == y, weights=weights), abs=1e-6)


def test_weights_of_images_count_in_training_and_in_every_score(features: Path, tmp_path: Path):
    with FeatureFile(features) as file:
        n, y = len(file), file.table.labels
        uneven = np.where(y == 0, 5.0, 1.0) * np.random.default_rng(0).uniform(0.5, 2, n)
    done = {}
    for name, weights in (("none", np.ones(n)), ("alike", np.full(n, 3.0)), ("uneven", uneven)):
        again = relabelled(features, tmp_path / f"{name}.h5", weights=weights)
        head = train_head(again, head="logreg", C=0.1, tune="none", out=tmp_path / f"{name}.head").head
        done[name] = tuned(head, tmp_path / f"{name}.keras", keep="always", data=features.parent / "photos")
        assert done[name].before[0] == pytest.approx(head.evaluation.accuracy)
        assert done[name].before[1] == pytest.approx(head.evaluation.interval)
    assert [e.loss for e in done["none"].history[1:]] == [e.loss for e in done["alike"].history[1:]]
    assert done["none"].history[1].loss != done["uneven"].history[1].loss
    with FeatureFile(tmp_path / "uneven.h5") as file:
        test = file.rows_of("test")
        pixels = LabelledPixels(file, data=[features.parent / "photos"]).read(test)
        found = load_model(tmp_path / "uneven.keras").predict(pixels, verbose=0).argmax(axis=1)
        assert done["uneven"].after[0] == pytest.approx(
            np.average(found == file.table.labels[test], weights=file.weights(test))
        )


def test_reduced_precision_trains_nearly_the_same_and_leaves_a_float32_model(
    features: Path, logreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = TuningStage("all", 1e-3, 2)
    exact = tuned(logreg, tmp_path / "exact.keras", stage, keep="always")
    computed, networks, read = [], [], LabelledPixels.read

    def watched(*args) -> np.ndarray:
        computed.append({layer.compute_dtype for layer in networks[-1].network.layers[1:]})
        return read(*args)

    def loaded(*args, **kwargs):
        networks.append(load_trainable(*args, **kwargs))
        return networks[-1]

    monkeypatch.setattr(LabelledPixels, "read", watched)
    monkeypatch.setattr("onepass.heads.finetune.sources.load_trainable", loaded)
    half = tuned(logreg, tmp_path / "half.keras", stage, keep="always", precision="bfloat16", boundary_cache="off")
    assert computed[0] == computed[-1] == {"float32"}
    assert {"bfloat16"} in computed
    for a, b in zip(exact.history[1:], half.history[1:], strict=True):
        assert a.loss != b.loss
        assert a.loss == pytest.approx(b.loss, rel=0.05, abs=0.01)
    model = load_model(tmp_path / "half.keras")
    assert {str(layer.compute_dtype) for layer in model.layers[1:]} == {"float32"}
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert read_facts(tmp_path / "half.keras")["plan"]["precision"] == "bfloat16"


TWO_DEVICES = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from onepass.extract.frameworks import import_keras
import_keras()
tf = sys.modules["tensorflow"]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from onepass import fine_tune
from onepass.extract.backbones import engines
from onepass.extract.backbones import trainable
from onepass.heads.finetune.model_file import load_model

plan = {{"stages": "all:1e-3x2", "batch_size": 7, "layer_decay": 0.5, "clip": 1e6, "keep": "always"}}
one = fine_tune({head!r}, out="one.keras", **plan)
strategy = engines.choose_strategy(["CPU:0", "CPU:1"])
trainable.choose_strategy = lambda: strategy
two = fine_tune({head!r}, out="two.keras", **plan)
for a, b in zip(one.history[1:], two.history[1:], strict=True):
    np.testing.assert_allclose([a.loss, a.val_loss], [b.loss, b.val_loss], rtol=1e-3)
for a, b in zip(load_model(Path("one.keras")).get_weights(), load_model(Path("two.keras")).get_weights(), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)
print(strategy.num_replicas_in_sync, two.after == one.after)
"""


def test_two_devices_train_what_one_trains(features: Path, logreg: SavedHead, tmp_path: Path):
    done = run_process("python", "-c", TWO_DEVICES.format(head=str(logreg.path)), cwd=tmp_path)
    assert done.stdout == "2 True\n", done.stderr[-3000:]


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow), 9])
def test_what_was_interrupted_ends_as_if_it_had_not_been(at: int, features: Path, tmp_path: Path):
    head = train_head(features, head="mlp", hidden=(6,), dropout=0.5, lr=1e-3, weight_decay=0.0, tune="none", epochs=3,
                      out=tmp_path / "mlp.head").head  # fmt: skip
    plan = {"stages": "3:1e-3x3, all:1e-4x2", "batch_size": 16, "patience": 9, "keep": "always"}
    whole = fine_tune(head, out=tmp_path / "whole.keras", boundary_cache="off", **plan)
    steps = []

    def stop(done: int, total: int, name: str) -> None:
        steps.append((done, name))
        if len(steps) == at:
            raise _Killed

    with pytest.raises(_Killed):
        fine_tune(head, out=tmp_path / "again.keras", boundary_cache="off", progress=stop, **plan)
    again = fine_tune(
        head, out=tmp_path / "again.keras", boundary_cache="off", progress=lambda *one: steps.append(one), **plan
    )
    assert len(steps) <= 10 + 2  # of each epoch's two steps none is taken twice but those of the epoch under way
    assert whole.decision == again.decision
    for a, b in zip(whole.history, again.history, strict=True):
        np.testing.assert_allclose(
            [a.lr, a.loss, a.val_loss, a.val_accuracy], [b.lr, b.loss, b.val_loss, b.val_accuracy], rtol=1e-5
        )
    for a, b in zip(weights_of(tmp_path / "whole.keras"), weights_of(tmp_path / "again.keras"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert not (tmp_path / "again.work" / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_other_settings_is_not_used(features: Path, logreg: SavedHead, tmp_path: Path):
    (tmp_path / "x.work").mkdir()
    (tmp_path / "x.work" / "checkpoint.safetensors").write_bytes(tensor_bytes({"fingerprint": "another"}, {}))
    done = tuned(logreg, tmp_path / "x.keras")
    assert [epoch.epoch for epoch in done.history] == [0, 1, 2]


def test_a_damaged_checkpoint_is_told_and_not_used(features: Path, logreg: SavedHead, tmp_path: Path):
    checkpoint = tmp_path / "x.work" / "checkpoint.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(damaged(tensor_bytes({"fingerprint": "x"}, {"now.0": np.zeros(100)})))
    message = (
        f"what an earlier run kept in {checkpoint} is damaged (ValueError: its bytes do not match their checksum). It "
        "is not used, and training starts anew."
    )
    with pytest.warns(OnepassWarning, match=f"^{re.escape(message)}$"):
        done = tuned(logreg, tmp_path / "x.keras")
    assert [epoch.epoch for epoch in done.history] == [0, 1, 2]


def damaged(data: bytes) -> bytes:
    """With one bit flipped, in what lies 20 bytes before the end."""
    return data[:-20] + bytes([data[-20] ^ 4]) + data[-19:]


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_damaged_model_is_refused_wherever_it_is_read(ending: str, kept: dict[str, FineTuned], tmp_path: Path):
    path = tmp_path / f"x.{ending}"
    whole = kept[ending].path.read_bytes()
    path.write_bytes(whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:])
    message = (
        f"{path} is damaged: its bytes do not match their checksum. Take it from a copy, or delete it and fine-tune or "
        "export again."
    )
    by_predict = [lambda path: predict(path, [path])] if ending == "keras" else []  # a legacy file never gets so far
    for read in (read_facts, tuned_model, load_model, *by_predict):
        with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
            read(path)
    assert file_kind(path) is FileKind.TUNED


def test_a_damaged_boundary_cache_is_made_again(feature_file: Path):
    with FeatureFile(feature_file) as file:
        inputs = BoundaryInputs(file, file.table.content_hashes, (1, 1, 6))
        every = np.arange(40), np.zeros(40, np.int64)
        np.testing.assert_array_equal(inputs(*every)[:, 0, 0], file.read(every[0])[0])
        flip_bit(feature_file, "rows", byte=24 * 7)
        with pytest.raises(
            FeatureFileError,
            match="is damaged: the row of class1/bild 7 ü.jpg does not match its checksum. Run the same command again; "
            "it makes the row anew.$",
        ):
            inputs(*every)
    remove_if_damaged(feature_file)
    assert feature_file.exists()
    flip_bit(feature_file, "golden_rows")
    with pytest.warns(OnepassWarning, match=f"^the boundary cache {feature_file} is damaged, so it is made again.$"):
        remove_if_damaged(feature_file)
    assert not feature_file.exists()


def test_a_rate_that_destroys_the_head_is_stopped_and_the_frozen_model_kept(
    features: Path, logreg: SavedHead, tmp_path: Path
):
    done = tuned(logreg, tmp_path / "x.keras", TuningStage("all", 5.0, 9), schedule="constant", patience=9)
    assert len(done.history) <= 4
    assert "try a tenth of it" in done.advice
    assert done.kept == "frozen"
    assert "stopped early" in str(done)
    assert "better: no epoch was better than the start (best: " in str(done)
    assert done.after[0] < done.before[0]  # of a trained epoch, not of the start
    with FeatureFile(features) as file:
        test = file.rows_of("test")
        found = load_model(tmp_path / "x.keras").predict(LabelledPixels(file).read(test), verbose=0)
        np.testing.assert_allclose(found, logreg.predict_proba(file.read(test)[0]), atol=1e-4)


def test_a_loss_that_is_no_number_is_stopped(features: Path, logreg: SavedHead, tmp_path: Path):
    stage = TuningStage("all", 1e30, 5)
    done = tuned(logreg, tmp_path / "x.keras", stage, optimizer="sgd", clip=1e30, schedule="constant", keep="always")
    assert "the loss became" in done.advice
    assert (done.after[0], done.kept) == (0.0, "frozen")
    lines = str(done).splitlines()
    assert lines[1].startswith("after:  no epoch of 1 gave finite numbers, ")
    assert "better: no, the loss was no finite number in any epoch" in lines


def test_always_keeps_the_best_trained_epoch_where_none_is_better_than_the_start(
    features: Path, logreg: SavedHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained = []

    def learn_from(self: Trainer, epoch: Epoch, stage: TuningStage) -> None:
        trained.append([np.array(variable) for variable in self._variables])
        learn(self, epoch, stage)

    learn = Trainer._learn_from
    monkeypatch.setattr(Trainer, "_learn_from", learn_from)
    stage = TuningStage("all", 1.0, 2)
    done = tuned(logreg, tmp_path / "x.keras", stage, schedule="constant", keep="always", boundary_cache="off")
    start, *epochs = done.history
    best = best_epoch(done.history)
    assert not any(is_better(epoch, start) for epoch in epochs)
    assert f"after:  epoch {best} of 2, " in str(done)
    assert (
        f"better: no epoch was better than the start (best: {epochs[best - 1].val_accuracy:.3f}): validation accuracy "
        f"{start.val_accuracy:.3f} and loss {start.val_loss:.3f} at the start, {epochs[best - 1].val_accuracy:.3f} and "
        f"{epochs[best - 1].val_loss:.3f} in the best epoch\n"
    ) in str(done)
    assert (done.kept, done.better, done.decision.part) == ("fine-tuned", False, "val")
    model = load_model(tmp_path / "x.keras")
    written = [weight for weight in model.get_weights() if weight.ndim > 2]  # kernels of convolutions
    wanted = [weight for weight in trained[best - 1] if weight.ndim > 2]
    assert len(written) == len(wanted) > 1
    for a, b in zip(written, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    with FeatureFile(features) as file:
        test = file.rows_of("test")
        found = model.predict(LabelledPixels(file).read(test), verbose=0).argmax(axis=1)
        assert (found == file.table.labels[test]).mean() == pytest.approx(done.after[0])
    frozen = tuned(logreg, tmp_path / "y.keras", stage, schedule="constant", boundary_cache="off")
    assert (frozen.kept, frozen.after) == ("frozen", done.after)
    kernels = [weight for weight in weights_of(tmp_path / "y.keras") if weight.ndim > 2]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(kernels, written, strict=True))


def test_scores_without_copies_stand_beside_the_raw_ones(tmp_path: Path, tiny_backbone):
    photos = tmp_path / "photos"
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(photos / part, {"ant": 12, "bee": 11}, seed=seed)
    for name in ("ant", "bee"):
        for part in ("val", "test"):
            for i, path in enumerate(sorted((photos / "train" / name).iterdir())[:2]):
                shutil.copy(path, photos / part / name / f"again-{i}.png")
    for part in ("val", "test"):
        for i in range(6):  # errors that nobody can avoid
            (photos / part / "ant" / f"{i}.png").rename(photos / part / "bee" / f"wrong-{i}.png")
    run_extraction(photos, tiny_backbone, out=tmp_path / "photos.h5")
    head = train_head(tmp_path / "photos.h5", head="logreg", C=0.1, tune="none", out=tmp_path / "x.head").head
    done = tuned(head, tmp_path / "x.keras", keep="always")
    rest = done.without_copies
    assert (done.n, rest.leaked, rest.n) == (27, 4, 23)
    assert (done.decision.part, done.decision.n, done.decision.copies) == ("val", 23, 0)
    assert done.decision.errors >= 6
    model = load_model(tmp_path / "x.keras")
    with FeatureFile(tmp_path / "photos.h5") as file:
        test = file.rows_of("test")
        own = np.array([not file.table.paths[i].rsplit("/", 1)[1].startswith("again") for i in test])
        found = model.predict(LabelledPixels(file).read(test[own]), verbose=0).argmax(axis=1)
        after = found == file.table.labels[test[own]]
        before = head.predict(file.read(test[own])[0]) == file.table.labels[test[own]]
    assert (rest.before[0], rest.after[0]) == (pytest.approx(before.mean()), pytest.approx(after.mean()))
    assert rest.gain == gain_of(after, before, np.arange(23))
    line = next(line for line in str(done).splitlines() if line.startswith("copies: "))
    assert line.startswith(
        "copies: 4 of these images are copies of training images; without them n=23, before accuracy "
    )
    assert done.record()["without_copies"]["leaked"] == 4
    scored = tuned_model(tmp_path / "x.keras").evaluation
    assert scored.accuracy == done.after[0]
    assert (scored.leak_free.leaked, scored.leak_free.accuracy) == (4, rest.after[0])
    export(tmp_path / "x.keras", to="keras", out=tmp_path / "exported.keras")
    assert tuned_model(tmp_path / "exported.keras").evaluation.leak_free == scored.leak_free


def test_what_decided_stands_beside_the_numbers(features: Path, kept: dict[str, FineTuned]):
    done = kept["keras"]
    decision = done.decision
    test_decided = replace(done, decision=replace(decision, part="test", able=True, epochs=1))
    assert (
        str(test_decided)
        .splitlines()[2]
        .endswith("; these images also decided, which flatters the gain; add validation images")
    )
    no_test = replace(done, measured_on="val")
    assert (
        str(no_test)
        .splitlines()[2]
        .endswith("; these images also chose the epoch and decided, which flatters the gain; add a test part")
    )
    assert no_test.record()["caution"] == no_test.caution
    assert replace(done, decision=replace(decision, part="val")).record()["caution"] == ""
    facts = read_facts(Path(done.path))["report"]
    assert facts["verdict"] == done.verdict
    assert facts["decision"]["part"] == decision.part


LOADED_ALONE = """
import sys
import numpy as np
import keras
pixels, *models = sys.argv[1:]
for name in models:
    options = {"safe_mode": True} if name.endswith("keras") else {}
    model = keras.models.load_model(name, compile=False, **options)
    np.save(name + ".npy", model.predict(np.load(pixels), verbose=0))
"""


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_model_shows_its_whole_network(ending: str, kept: dict[str, FineTuned]):
    model = load_model(kept[ending].path)
    found = str(info(kept[ending].path, summary=True))
    layers = {layer.name for layer in model._flatten_layers() if layer is not model}
    assert len(layers) > 10
    assert [name for name in layers if name[:12] not in found] == []
    assert f"Total params: {model.count_params():,}" in found
    assert "Trai" in found, "the column that says what trains"
    told = info(kept[ending].path).record()
    assert told["positions"] == {0: "ant", 1: "bee", 2: "fly"}


def test_the_model_files_need_keras_alone(features: Path, kept: dict[str, FineTuned], tmp_path: Path):
    with FeatureFile(features) as file:
        test = file.rows_of("test")
        np.save(tmp_path / "pixels.npy", LabelledPixels(file).read(test))
        y = file.read(test)[1]
    paths = [Path(done.path) for done in kept.values()]
    ended = run_process("python", "-I", "-c", LOADED_ALONE, "pixels.npy", *map(str, paths), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for path, done in zip(paths, kept.values(), strict=True):
        found = np.load(f"{path}.npy")
        assert (found.argmax(axis=1) == y).mean() == pytest.approx(done.after[0])
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        facts = read_facts(path)
        assert facts["class_names"] == ["ant", "bee", "fly"]
        assert facts["report"]["kept"] == "fine-tuned"
    assert b"Lambda" not in paths[0].read_bytes()


def test_predict_takes_the_model_and_answers_as_keras_does(features: Path, kept: dict[str, FineTuned], tmp_path: Path):
    model = str(kept["keras"].path)
    with FeatureFile(features) as file:
        test = file.rows_of("test")
        wanted = load_model(Path(model)).predict(LabelledPixels(file).read(test), verbose=0)
        paths = [str(features.parent / "photos" / file.table.paths[i]) for i in test]
    done = run_program("onepass", "predict", model, *paths, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)["predictions"]
    assert [one["path"] for one in found] == paths, done.stderr
    for one, probabilities in zip(found, wanted, strict=True):
        assert one["class"] == ("ant", "bee", "fly")[probabilities.argmax()]
        assert one["probability"] == pytest.approx(probabilities.max(), abs=1e-4)
    done = run_program("onepass", "predict", model, paths[0], "--unknown", "0.1", cwd=tmp_path)
    assert done.stderr.endswith("or a head of too few images. Leave --unknown out.\n")


def test_predict_says_what_is_no_model(features: Path, kept: dict[str, FineTuned], tmp_path: Path):
    done = run_program("onepass", "predict", "x.h5", "a.jpg", cwd=Path(kept["h5"].path).parent)
    assert done.stderr.startswith("error: no image could be read (a.jpg: no such file or directory). Needed: ")
    (tmp_path / "y.keras").write_bytes(b"something else")
    done = run_program("onepass", "predict", "y.keras", "a.jpg", cwd=tmp_path)
    assert done.stderr == (
        "error: y.keras is damaged at its beginning, where a file says what it is; needed: a head file, or a model "
        "that fine-tune or export wrote.\n"
    )
    with zipfile.ZipFile(tmp_path / "z.keras", "w") as archive:
        archive.writestr("onepass.json", json.dumps({"spec": {"image_size": 16}}))
    done = run_program("onepass", "predict", "z.keras", "a.jpg", cwd=tmp_path)
    assert done.stderr == (
        "error: z.keras lacks what predict needs (KeyError: 'logits'). Fine-tune again with this onepass.\n"
    )
    (tmp_path / "w.h5").write_bytes(b"weights")
    done = run_program("onepass", "predict", "z.keras", "a.jpg", "--weights", "w.h5", cwd=tmp_path)
    assert done.stderr == "error: --weights does not go with a whole model, which brings its own weights.\n"
    done = run_program("onepass", "predict", str(features), "a.jpg", cwd=tmp_path)
    assert done.stderr.startswith(f"error: {features} is a feature file; needed: a head file, or a model that")


def test_the_history_stands_in_csv_png_and_tensorboard(features: Path, logreg: SavedHead, tmp_path: Path):
    done = tuned(logreg, tmp_path / "x.keras", tensorboard=tmp_path / "logs")
    lines = (tmp_path / "x.history.csv").read_text().splitlines()
    assert lines[0] == "stage,unfreeze,epoch,lr,loss,accuracy,val_loss,val_accuracy,seconds"
    assert len(lines) == 1 + len(done.history) == 4
    assert (tmp_path / "x.history.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "logs").rglob("events.*"))) == 2


def test_random_layers_draw_another_view_each_time_and_none_in_inference(features: Path, logreg: SavedHead, tmp_path):
    done = tuned(logreg, tmp_path / "x.keras", augment="classic,brightness=0.1", keep="always")
    assert not done.boundary
    assert done.history[1].loss != done.history[2].loss
    with plain_keras() as keras:
        layers = random_layers("classic,brightness=0.1", seed=1)
        pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.float32)
        np.testing.assert_array_equal(layers(pixels, training=False), pixels)
        one, two = (keras.ops.convert_to_numpy(layers(pixels, training=True)) for _ in range(2))
        assert np.abs(one - two).max() > 1
        assert 0 <= one.min() <= one.max() <= 255


def test_from_scratch_trains_everything_from_random_weights(features: Path, logreg: SavedHead, tmp_path: Path):
    stage = TuningStage("all", 1e-2, 3)
    done = tuned(logreg, tmp_path / "x.keras", stage, from_scratch=True, keep="never", seed=3)
    assert done.agreement is None
    assert done.path is None
    assert not (tmp_path / "x.keras").exists()
    assert done.history[0].val_accuracy < 0.9
    assert done.history[-1].loss < done.history[1].loss


def test_a_validation_part_is_taken_from_training_in_whole_groups(tmp_path: Path, tiny_backbone):
    write_folder(tmp_path / "photos" / "train", {"ant": 20, "bee": 20})
    write_folder(tmp_path / "photos" / "test", {"ant": 4, "bee": 4}, seed=9)
    run_extraction(tmp_path / "photos", tiny_backbone, out=tmp_path / "x.h5", group_pattern=r"/(\d+)\.png")
    with FeatureFile(tmp_path / "x.h5") as file:
        parts = Parts.of(file)
        assert parts.drawn
        assert parts.tested_on == "test"
        assert 4 <= len(parts.val) <= 8
        groups = file.group_ids()
        assert not set(groups[parts.val]) & set(groups[parts.train])
        assert set(parts.val) | set(parts.train) == set(file.rows_of("train"))
        saved = train_head(tmp_path / "x.h5", head="logreg", C=0.5, tune="none", out=tmp_path / "x.head").head
        start = start_head(saved, file, parts)
        again = train_head(tmp_path / "x.h5", head="logreg", C=0.5, tune="none", out=tmp_path / "x.head").head
        assert (
            np.abs(start.scores(file.read(parts.val)[0]) - again.network.scores(file.read(parts.val)[0])).max() > 1e-3
        )


def test_a_validation_part_that_is_too_small_is_joined_by_training_images_if_that_helps(tmp_path: Path, tiny_backbone):
    write_folder(tmp_path / "photos" / "train", {"ant": 21, "bee": 21}, seed=1)
    write_folder(tmp_path / "photos" / "val", {"ant": 2, "bee": 2}, seed=2)
    run_extraction(tmp_path / "photos", tiny_backbone, out=tmp_path / "x.h5")
    with FeatureFile(tmp_path / "x.h5") as file, pytest.MonkeyPatch.context() as patch:
        given = Parts.of(file)
        assert not given.drawn  # 4 and a fifth of 42 are too few as well
        assert set(given.val) == set(file.rows_of("val"))
        patch.setattr("onepass.heads.finetune.splits.ENOUGH", 12)
        joined = Parts.of(file)
        assert joined.drawn
        assert set(file.rows_of("val")) < set(joined.val)
        assert len(joined.val) in (12, 13)
        assert set(joined.train) == set(file.rows_of("train")) - set(joined.val)
        assert (joined.test == joined.val).all()
        patch.setattr("onepass.heads.finetune.splits.ENOUGH", 4)
        assert not Parts.of(file).drawn


def test_images_in_groups_give_a_wider_interval():
    before = np.arange(60) >= 12
    after = np.arange(60) >= 6
    alone, together = (gain_of(after, before, groups) for groups in (np.arange(60), np.arange(60) // 6))
    assert together.difference == alone.difference == pytest.approx(0.1)
    assert together.interval[0] <= 0 < alone.interval[0]
    assert together.p > 0.05 >= alone.p
    assert gain_of(before, before, np.arange(60) // 6).interval[1] > 0.01  # nothing changed, and little is known
    assert gain_of(after, before, np.zeros(60, int)) == alone  # one group cannot be resampled


def test_where_all_images_are_copies_nothing_is_left_to_score():
    every = np.ones(5, bool)
    found = without_copies(every, every, np.arange(5), every)
    assert (found.n, found.before, found.gain.interval) == (0, (0.0, (0.0, 1.0)), (-1.0, 1.0))
    assert str(found) == "5 of these images are copies of training images; without them n=0"
    assert without_copies(every, every, np.arange(5), ~every) is None


def test_the_report_counts_what_was_corrected_and_broken():
    y = np.repeat([0, 1], 50)
    frozen, wrong = y.copy(), 1 - y
    frozen[:10] = wrong[:10]
    better = y.copy()
    better[60] = wrong[60]
    gain, changes = gain_of(better == y, frozen == y, np.arange(100)), class_changes(frozen, better, y, ("ant", "bee"))
    assert gain.difference == pytest.approx(0.09)
    assert gain.p == pytest.approx(2 * (1 + 11) / 2**11)  # sign test: 10 against 1
    assert (changes["ant"].corrected, changes["ant"].broken, changes["ant"].before) == (10, 0, 0.8)
    assert (changes["bee"].corrected, changes["bee"].broken, changes["bee"].after) == (0, 1, 0.98)


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_a_file_that_is_no_model_of_ours_is_left_alone(ending: str, features: Path, logreg: SavedHead, tmp_path: Path):
    path = tmp_path / f"precious.{ending}"
    path.write_bytes(features.read_bytes())
    with pytest.raises(OptionError, match="exists and is no model that fine-tune wrote; it is left alone"):
        tuned(logreg, path)
    assert path.read_bytes() == features.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_named(features: Path, logreg: SavedHead, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OptionError, match=r"^the folder of out='.*file/x.keras' does not exist. Make it, or name an"):
        tuned(logreg, tmp_path / "file" / "x.keras")


def test_one_stage_is_made_of_what_is_given_and_from_scratch_everything_trains_faster():
    assert stages_to_train(None) == (TuningStage("auto", 1e-4, 10),)
    assert stages_to_train(None, from_scratch=True) == (TuningStage("all", 1e-3, 10),)
    assert stages_to_train(None, unfreeze=4, lr=1.0, epochs=2) == (TuningStage("4", 1.0, 2),)
    with pytest.raises(OptionError) as caught:
        stages_to_train("all:1e-3x1", lr=1.0)
    assert str(caught.value) == (
        "stages says what to unfreeze, how fast and for how long; leave unfreeze, lr and epochs out."
    )


def test_stages_are_read_as_they_are_written():
    assert TuningStage.parse("conv5:1e-5x5, all:1e-6x3") == (TuningStage("conv5", 1e-5, 5), TuningStage("all", 1e-6, 3))
    for text in ("conv5", "conv5:1e-5", "conv5:fastx3", "conv5:1e-5x0", ""):
        with pytest.raises(OptionError):
            TuningStage.parse(text)


WRONG: list[tuple[dict, str]] = [
    ({"optimizer": "lion"}, "optimizer"),
    ({"schedule": "linear"}, "schedule"),
    ({"layer_decay": 0.0}, "layer_decay"),
    ({"warmup": 1.0}, "warmup"),
    ({"views": 4}, "augment"),
    ({"stages": ()}, "there is no stage"),
    ({"stages": (TuningStage("conv9", 1e-3, 1),)}, "conv9"),
    ({"stages": (TuningStage("99", 1e-3, 1),)}, "99"),
]


@pytest.mark.parametrize(
    ("options", "words"), WRONG, ids=[str(next(iter(o))) + str(i) for i, (o, _) in enumerate(WRONG)]
)
def test_wrong_plans_are_refused(options: dict, words: str, features: Path, logreg: SavedHead, tmp_path: Path):
    with pytest.raises(OptionError, match=words):
        fine_tune(logreg, out=tmp_path / "x.keras", **{"stages": (TWO,), **options})


def test_the_boundary_is_kept_where_it_fits(tmp_path: Path):
    cost = boundary_cost("conv4", (14, 14, 8), images=10, views=2, path=tmp_path / "x.h5")
    assert cost.bytes == 10 * 2 * 14 * 14 * 8 * 4
    assert worth_keeping(cost, "auto")
    assert not worth_keeping(replace(cost, bytes=cost.free), "auto")
    assert not worth_keeping(cost, "off")
    assert worth_keeping(cost, "0.001")
    with pytest.raises(OptionError, match="allows 0.0000001"):
        worth_keeping(cost, "0.0000001")


@pytest.mark.parametrize("limit", ["much", "nan", "0", "-1", ""])
def test_a_limit_of_the_boundary_cache_that_is_none_is_refused_before_anything_is_read(limit: str):
    with pytest.raises(OptionError, match="so many GB"):
        fine_tune("nothing.head", boundary_cache=limit)


def test_an_image_that_changed_since_is_named(features: Path, logreg: SavedHead, tmp_path: Path, make_folder: Callable):
    with FeatureFile(features) as file:
        other = make_folder({"ant": 12, "bee": 11, "fly": 9}, name="other/train", seed=50).parent
        with pytest.raises(DataError, match="not the file that its row was computed from"):
            LabelledPixels(file, data=[other]).read(file.rows_of("train")[:1])


def test_the_command_reports_and_keeps_what_is_better(features: Path, tmp_path: Path):
    args = ["--head", "logreg", "--unfreeze", "3", "--lr", "1e-3", "--epochs", "2", "--keep", "always", "--json"]
    done = run_program("fine-tune", str(features), *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == "photos.finetuned.keras"
    assert found["kept"] == "fine-tuned"
    assert found["agreement"]["flips"] == 0
    assert found["better"] == found["decision"]["better"]
    assert found["decision"]["part"] in ("val", "test")
    assert found["without_copies"] is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "photos.logreg.head",
        "photos.finetuned.keras",
        "photos.finetuned.history.csv",
        "photos.finetuned.history.png",
        "photos.finetuned.work",
    }
    other = ("fine-tune", "photos.logreg.head", "--epochs", "1", "--unfreeze", "3")
    refused = run_program(*other, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: photos.finetuned.keras was fine-tuned from another head or with other settings; it is left alone. "
        "Choose another name with --out, or delete it.\n"
    )
    again = run_program(*other, "--out", "again.keras", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0].startswith("before: frozen backbone with logreg, test accuracy")
    assert [line.partition(":")[0] for line in again.stdout.splitlines()[1:5]] == ["after", "gain", "better", "kept"]
    assert "corrected" in again.stdout


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        (["--stages", "all:1e-3x1", "--lr", "1"], "leave --unfreeze", 2),
        (["--to", "onnx"], "keras or h5", 2),
        (["--keep", "maybe"], "better, always, never", 2),
        (["--out", "model.pb"], ".keras or .h5", 2),
        (["--data", "nowhere"], "nowhere", 1),
        (["--unfreeze", "conv77"], "conv77", 2),
        (["--augment", "sparkle"], "sparkle", 2),
        (["--augment", "crop=0.5"], "Use zoom", 2),
        (["--lr", "0"], "lr is 0", 2),
    ],
)
def test_the_command_refuses_in_one_line(args: list[str], words: str, code: int, features: Path, tmp_path: Path):
    done = run_program("fine-tune", str(features), *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_for_good_it_goes_on_and_ends_the_same(features: Path, logreg: SavedHead, tmp_path: Path):
    args = [
        str(logreg.path),
        "--unfreeze",
        "all",
        "--lr",
        "1e-3",
        "--epochs",
        "6",
        "--patience",
        "9",
        "--keep",
        "always",
    ]
    assert run_program("fine-tune", *args, "--out", "whole.keras", cwd=tmp_path).returncode == 0
    with started("fine-tune", *args, "--out", "again.keras", cwd=tmp_path, stderr=subprocess.DEVNULL) as running:
        wait_for((tmp_path / "again.work" / "checkpoint.safetensors").exists, running)
    assert run_program("fine-tune", *args, "--out", "again.keras", cwd=tmp_path).returncode == 0
    for a, b in zip(weights_of(tmp_path / "whole.keras"), weights_of(tmp_path / "again.keras"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_class_without_images_has_no_shares():
    changes = class_changes(np.array([0, 1]), np.array([0, 0]), np.array([0, 0]), ("a", "b"))
    assert (changes["a"].shares(), changes["b"].shares()) == (("0.500", "1.000"), ("-", "-"))


def test_the_curves_show_whole_epochs_stages_the_start_and_what_is_kept():
    def epoch(stage: int, unfreeze: str, number: int, right: float, loss: float) -> Epoch:
        return Epoch(stage, unfreeze, number, 1e-4, loss, right, loss, right, 1.0)

    history = [epoch(0, "conv5", 0, 0.85, 0.5)]
    history += [epoch(1, "conv5", i, 0.85 + 0.01 * i, 0.4) for i in (1, 2)]
    history += [epoch(2, "all", i, 0.88, 0.39) for i in (1, 2)]
    left, right = history_figure(history, kept=2, validated=100).axes
    for axes in (left, right):
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
        assert [text.get_text() for text in axes.texts] == ["conv5", "all"]
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert {"start", "epoch 2, kept"} <= set(names)
    assert right.get_ylim()[0] == 0
    low, high = left.get_ylim()
    assert low <= wilson_interval(85, 100)[0]
    assert high >= wilson_interval(88, 100)[1]
    assert "95 % interval" in [text.get_text() for text in left.get_legend().get_texts()]
    frozen = history_figure(history, kept=0, validated=100).axes[0].get_legend().get_texts()
    assert "start, kept" in [text.get_text() for text in frozen]
