import logging
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from onepass.extract import load_backbone
from onepass.extract.backbones import keras_on_openvino, worker
from onepass.extract.backbones.build import build_backbone
from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.backbones.openvino_cache import stem
from onepass.extract.backbones.reference_rows import (
    TOLERANCE,
    deviation,
    reference_images,
    reference_rows,
    seeded_backbone,
)
from onepass.extract.backbones.worker import TaskFailedError, Worker
from onepass.extract.frameworks import import_keras, plain_keras
from onepass.features.atomic import leftovers, remove_leftovers
from onepass.features.drift import cosines
from onepass.features.errors import UserError
from onepass.features.progress import log
from support import mobilenet, run_process, save_legacy, started, wait_for, write_folder

FAMILIES = (
    "convnexttiny", "densenet121", "efficientnet_lite0", "efficientnetb0", "efficientnetv2b0", "efficientnetv2s",
    "inceptionresnetv2", "inceptionv3", "mobilenet_0.25", "mobilenetv2_0.35", "mobilenetv3large", "mobilenetv3small",
    "nasnetmobile", "resnet50", "resnet50v2", "vgg16", "xception",
)  # fmt: skip
"""One network of each kind: the others repeat the same layers more often, or wider."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    mobilenet(seed=5).save_weights(tmp_path / "w.weights.h5")
    return tmp_path / "w.weights.h5"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, log.name)
    return caplog


def by_tensorflow(name: str, images: np.ndarray, **settings) -> tuple[np.ndarray, str]:
    built = build_backbone(name, **settings)
    return np.asarray(built.model.predict(images, verbose=0)), built.weights_hash


def require_equal(name: str, images: np.ndarray, *, weights: str | Path, pooling: str = "avg", resize: str = "squash"):
    """Rows without TensorFlow equal those of Keras on TensorFlow, and so do the weights' hashes."""
    size = images.shape[1]
    backbone = load_backbone(
        name, weights=weights, image_size=size, pooling=pooling, resize=resize, precision="float32", engine="openvino"
    )
    expected, weights_hash = by_tensorflow(
        name, images, weights=weights, image_size=size, pooling=pooling, pixels=str(images.dtype)
    )
    rows = backbone.rows(images)
    assert backbone.spec.weights_hash == weights_hash
    assert cosines(rows, expected).min() > 0.999999
    np.testing.assert_allclose(rows, expected, atol=2e-5 * np.abs(expected).max())


NO_TENSORFLOW = """
import sys
from onepass import cli
sys.argv = ["extract", *sys.argv[1:]]
try:
    cli.extract_program()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in ("tensorflow", "keras") if name in sys.modules])
"""


def test_extraction_with_nothing_cached_imports_no_tensorflow(tmp_path: Path, cache: Path, weights: Path):
    write_folder(tmp_path / "photos", {"a": 6, "b": 6})
    done = run_process(
        "python", "-c", NO_TENSORFLOW, "photos", "--backbone", "mobilenet_0.25", "--weights", str(weights),
        "--image-size", "64", "--out", "rows.h5", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Traceback" not in done.stderr
    assert [len(list(entry.iterdir())) for entry in cache.iterdir()] == [3]  # graph, weights and facts


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_rows_of_every_pooling_equal_those_of_tensorflow(
    cache: Path, weights: Path, pooling: str, rng: np.random.Generator
):
    images = rng.integers(0, 256, (3, 45, 45, 3), dtype=np.uint8)
    require_equal("mobilenet_0.25", images, weights=weights, pooling=pooling)


def test_rows_of_float_pixels_of_a_cut_network_equal_those_of_tensorflow(
    cache: Path, weights: Path, rng: np.random.Generator
):
    images = rng.uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    require_equal("mobilenet_0.25@conv_pw_5_relu", images, weights=weights, pooling="flatten", resize="keras")


def test_a_legacy_weights_file_gives_the_same_rows(tmp_path: Path, cache: Path, rng: np.random.Generator):
    save_legacy(mobilenet(seed=6), tmp_path / "w.h5")
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    require_equal("mobilenet_0.25", images, weights=tmp_path / "w.h5")


def test_the_bundled_network_gives_the_same_rows(cache: Path, rng: np.random.Generator):
    require_equal("efficientnet_lite0", rng.integers(0, 256, (3, 75, 75, 3), dtype=np.uint8), weights="imagenet")


def test_an_adapted_normalisation_is_loaded_from_a_weights_file(tmp_path: Path, cache: Path, rng: np.random.Generator):
    with plain_keras():
        model = seeded_backbone("efficientnetb0").network
        model.save_weights(tmp_path / "w.weights.h5")
    images = rng.integers(0, 256, (2, 75, 75, 3), dtype=np.uint8)
    expected = np.asarray(model.predict(images.astype(np.float32), verbose=0)).mean(axis=(1, 2))

    require_equal("efficientnetb0", images, weights=tmp_path / "w.weights.h5")

    backbone = load_backbone("efficientnetb0", weights=tmp_path / "w.weights.h5", image_size=75, precision="float32")
    np.testing.assert_allclose(backbone.rows(images), expected, atol=2e-5 * np.abs(expected).max())


def test_every_network_of_the_catalogue_has_reference_rows_that_tell_images_apart():
    assert list(reference_rows()) == list(CATALOGUE)
    for name, rows in reference_rows().items():
        assert np.abs(rows[0] - rows[1]).max() > 50 * TOLERANCE * np.abs(rows).max(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_tensorflow_gives_the_reference_rows(name: str):
    with plain_keras():
        rows = np.asarray(seeded_backbone(name).model.predict_on_batch(reference_images()))
    cosine, difference = deviation(name, rows)
    assert cosine > 0.9999999
    assert difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_network_is_proven_without_tensorflow(name: str, tmp_path: Path):
    with Worker(keras_on_openvino.prove, folder=str(tmp_path), network=name) as process:
        cosine, difference = process.answer()
    assert cosine > 0.9999999
    assert difference <= TOLERANCE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2_0.35", "densenet121", "convnexttiny"])
def test_the_same_convolutions_stay_in_float32_on_both_ways(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with plain_keras():
        seeded_backbone(name).network.save_weights(tmp_path / "w.weights.h5")
    shapes = []
    for tolerance in (TOLERANCE, -1.0):  # which no network keeps, so TensorFlow converts it
        monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / f"cache{tolerance}"))
        monkeypatch.setattr(keras_on_openvino, "TOLERANCE", tolerance)
        graph = load_backbone(name, weights=tmp_path / "w.weights.h5", image_size=75).converted.graph
        shapes.append(_stem_shapes(graph))
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 2


def _stem_shapes(graph: Path) -> list[tuple[int, ...]]:
    from onepass.extract.frameworks import import_openvino

    names, model = stem(graph), import_openvino().Core().read_model(graph)
    return [tuple(op.input(1).get_shape()) for op in model.get_ordered_ops() if op.get_friendly_name() in names]


@pytest.mark.parametrize(("options", "message"), [
    ({"name": "mobilenet_0.25", "image_size": 32, "weights": "wrong"}, "wrong.h5 cannot be read as weights: "),
    ({"name": "mobilenetv2", "image_size": 32, "weights": "right"}, "does not fit mobilenetv2: "),
    ({"name": "inceptionv3", "image_size": 32, "weights": "right"}, "inceptionv3 cannot take 32 px images: "),
    ({"name": "mobilenet_0.25@conv_9", "image_size": 32, "weights": "right"}, "mobilenet_0.25 has no layer 'conv_9' "),
])  # fmt: skip
def test_errors_are_those_of_tensorflow(options: dict, message: str, tmp_path: Path, cache: Path, weights: Path):
    (tmp_path / "wrong.h5").write_bytes(b"no HDF5")
    files = {"wrong": tmp_path / "wrong.h5", "right": weights}
    errors = []
    for engine in ("openvino", "tensorflow"):
        with pytest.raises(UserError, match=message) as caught:
            load_backbone(**options | {"weights": files[options["weights"]], "engine": engine, "precision": "float32"})
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert type(errors[0]) is type(errors[1])
    assert list(cache.iterdir()) == []


def test_a_network_whose_rows_are_not_those_of_tensorflow_is_left_to_tensorflow(
    cache: Path,
    weights: Path,
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
):
    monkeypatch.setattr(keras_on_openvino, "TOLERANCE", -1.0)
    require_equal("mobilenet_0.25", rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), weights=weights)
    (line,) = [one for one in told.messages if "left to TensorFlow" in one]
    assert line.startswith("mobilenet_0.25 is left to TensorFlow: rows differ from TensorFlow's by ")
    assert line.endswith(" (cosine 1.000000)")


@pytest.mark.parametrize(("start", "reason"), [
    ("import os; os.kill(os.getpid(), 9)", "its process ended with code -9"),
    ("import keras_is_not_here", "its process ended with code 1"),
])  # fmt: skip
def test_a_worker_that_ends_leaves_the_network_to_tensorflow_and_nothing_behind(
    start: str, reason: str, cache: Path, weights: Path, told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator,
):  # fmt: skip
    monkeypatch.setattr(worker, "_START", start)
    require_equal("mobilenet_0.25", rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), weights=weights)
    assert f"mobilenet_0.25 is left to TensorFlow: {reason}" in told.messages
    assert [entry.name.startswith(".") for entry in cache.iterdir()] == [False]


def test_where_no_process_can_be_started_tensorflow_converts(
    cache: Path, weights: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    load_backbone("mobilenet_0.25", weights=weights, image_size=32)
    reason = "no process could be started (No such file or directory)"
    assert f"mobilenet_0.25 is left to TensorFlow: {reason}" in told.messages


def test_a_keras_file_is_left_to_tensorflow(cache: Path, tiny_file: Path, told: pytest.LogCaptureFixture):
    load_backbone(str(tiny_file))
    assert not [line for line in told.messages if "without TensorFlow" in line]


def test_a_failed_task_is_told_by_its_kind_and_reason(tmp_path: Path):
    with (
        Worker(keras_on_openvino.prove, folder=str(tmp_path / "gone"), network="mobilenet_0.25") as process,
        pytest.raises(TaskFailedError, match=r"^FileNotFoundError: \[Errno 2\] No such file"),
    ):
        process.answer()


def test_keras_already_loaded_on_tensorflow_does_not_matter(cache: Path, weights: Path):
    assert import_keras().backend.backend() == "tensorflow"
    backbone = load_backbone("mobilenet_0.25", weights=weights, image_size=32)
    assert backbone.spec.weights_hash
    assert import_keras().backend.backend() == "tensorflow"


def test_a_killed_process_takes_its_workers_along_and_leaves_only_what_the_next_one_removes(
    tmp_path: Path, cache: Path, weights: Path
):
    code = (
        "from onepass.extract import load_backbone; "
        f"load_backbone('mobilenet_0.25', weights={str(weights)!r}, image_size=32)"
    )
    with started("python", "-c", code, cwd=tmp_path) as process:
        wait_for(lambda: len(psutil.Process(process.pid).children()) == 2, process)
        workers = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert len(leftovers(cache)) == 1
    remove_leftovers(cache)
    assert list(cache.iterdir()) == []
