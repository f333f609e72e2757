import http.server
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from onepass.extract import load_backbone, read_image
from onepass.extract.backbones import engines
from onepass.extract.backbones.load import load_backbone_for
from onepass.extract.backbones.openvino_cache import cache_folder
from onepass.extract.backbones.options import BackboneOrigin
from onepass.extract.frameworks import import_keras, import_openvino
from onepass.features.errors import BackboneError, OnepassWarning, OptionError, SpecMismatchError
from onepass.heads import LogisticHead, wilson_interval
from support import NO_NETWORK, mobilenet, run_process, save_legacy


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def knows_bfloat16() -> bool:
    return "BF16" in engines._capabilities(import_openvino().Core())


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """48 photo patches of 64 px from scikit-learn's two sample photos."""
    photos = load_sample_images().images
    corners = [(y, x) for y in range(0, 320, 80) for x in range(0, 480, 80)]
    return np.stack([photo[y : y + 64, x : x + 64] for photo in photos for y, x in corners]).astype(np.uint8)


def test_openvino_and_tensorflow_give_the_same_rows(lite0, patches: np.ndarray):
    reference = load_backbone("efficientnet_lite0", image_size=64, precision="float32", engine="tensorflow")
    assert reference.spec == lite0.spec
    rows, expected = lite0.rows(patches), reference.rows(patches)
    assert cosine(rows, expected).min() > 0.99999
    np.testing.assert_allclose(rows, expected, atol=1e-3)


@pytest.mark.skipif(not knows_bfloat16(), reason="this processor does not compute in bfloat16")
def test_bfloat16_rows_point_the_same_way_and_classify_as_well(lite0):
    digits = load_digits()
    images = np.stack([upscaled(image) for image in digits.images[:300]])
    short = load_backbone("efficientnet_lite0", image_size=64, precision="bfloat16")
    assert short.spec.differences(lite0.spec) == {"precision": ("bfloat16", "float32")}

    rows, expected = short.rows(images), lite0.rows(images)

    assert cosine(rows, expected).min() > 0.995
    labels = digits.target[:300]
    head = LogisticHead(C=0.1).fit(expected[:200], labels[:200])
    low, high = wilson_interval(int((head.predict(expected[200:]) == labels[200:]).sum()), 100)
    assert low <= (head.predict(rows[200:]) == labels[200:]).mean() <= high


def test_a_processor_without_bfloat16_says_so(tiny_file: Path, monkeypatch: pytest.MonkeyPatch):
    others = [name for name in engines._capabilities(import_openvino().Core()) if name != "BF16"]
    monkeypatch.setattr(engines, "_capabilities", lambda core: others)
    backbone = load_backbone(str(tiny_file), precision="bfloat16")
    with pytest.raises(BackboneError) as caught:
        backbone.rows(np.zeros((1, 32, 32, 3), np.uint8))
    assert str(caught.value) == (
        "this processor cannot compute in bfloat16. Extract, and train, with precision='float32'."
    )


def upscaled(digit: np.ndarray) -> np.ndarray:
    image = Image.fromarray((digit * 15.9).astype(np.uint8)).convert("RGB")
    return np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))


def test_rows_equal_keras_with_its_own_preprocessing(tmp_path: Path, patches: np.ndarray):
    keras = import_keras()
    model = mobilenet(seed=3)
    model.save_weights(tmp_path / "w.weights.h5")
    backbone = load_backbone("mobilenet_0.25", weights=tmp_path / "w.weights.h5", image_size=32, precision="float32")
    images = np.ascontiguousarray(patches[:, :32, :32])
    expected = model.predict(keras.applications.mobilenet.preprocess_input(images.astype(np.float32)), verbose=0)

    np.testing.assert_allclose(backbone.rows(images), expected.mean(axis=(1, 2)), atol=1e-5)
    for pooling, pooled in (("max", expected.max(axis=(1, 2))), ("flatten", expected.reshape(len(images), -1))):
        other = load_backbone(
            "mobilenet_0.25", weights=tmp_path / "w.weights.h5", image_size=32, pooling=pooling, precision="float32"
        )
        np.testing.assert_allclose(other.rows(images), pooled, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "vgg16", "resnet50v2", "efficientnetv2b0", "convnexttiny"])
@pytest.mark.slow
def test_each_kind_of_preprocessing_reaches_the_converted_graph(tmp_path: Path, name: str, patches: np.ndarray):
    from onepass.extract.backbones.catalogue import CATALOGUE

    keras, entry = import_keras(), CATALOGUE[name]
    keras.backend.clear_session()
    model = getattr(keras.applications, entry.factory)(include_top=False, weights=None, input_shape=(64, 64, 3))
    model.save_weights(tmp_path / "w.weights.h5")
    backbone = load_backbone(name, weights=tmp_path / "w.weights.h5", image_size=64, precision="float32")
    prepared = getattr(keras.applications, entry.module).preprocess_input(patches[:8].astype(np.float32))
    expected = model.predict(prepared, verbose=0).mean(axis=(1, 2))
    rows = backbone.rows(patches[:8])
    assert backbone.spec.width == entry.width
    assert np.abs(rows - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_keras_file_of_ones_own_is_a_backbone(tiny_backbone, tiny_file: Path, rng: np.random.Generator):
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    model = import_keras().models.load_model(tiny_file)
    expected = model.predict(images.astype(np.float32), verbose=0).mean(axis=(1, 2))
    np.testing.assert_allclose(tiny_backbone.rows(images), expected, atol=1e-5)
    assert (tiny_backbone.spec.backbone, tiny_backbone.spec.width, tiny_backbone.spec.image_size) == ("tiny", 8, 32)


def test_an_adapted_normalisation_of_a_keras_file_for_any_size_is_kept(tmp_path: Path, rng: np.random.Generator):
    keras = import_keras()
    normalisation = keras.layers.Normalization()
    model = keras.Sequential([keras.Input((None, None, 3)), normalisation, keras.layers.Conv2D(4, 3)])
    normalisation.adapt(rng.uniform(40, 90, (4, 8, 8, 3)).astype(np.float32))
    model.save(tmp_path / "normalised.keras")
    images = rng.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    expected = model.predict(images.astype(np.float32), verbose=0).mean(axis=(1, 2))

    rows = load_backbone(str(tmp_path / "normalised.keras"), image_size=20, precision="float32").rows(images)

    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours_or_position(tiny_backbone, rng: np.random.Generator):
    images = rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    together = tiny_backbone.rows(images)
    order = rng.permutation(9)
    np.testing.assert_array_equal(tiny_backbone.rows(images[order]), together[order])
    np.testing.assert_array_equal(np.concatenate([tiny_backbone.rows(images[i : i + 1]) for i in range(9)]), together)


def test_images_of_another_shape_are_refused(tiny_backbone):
    message = r"got images of shape \(2, 8, 8, 3\), uint8; needed: \(b, 32, 32, 3\), uint8."
    with pytest.raises(OptionError, match=message):
        tiny_backbone.rows(np.zeros((2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_with_resize_keras_rows_are_those_of_a_keras_notebook(tmp_path: Path, tiny_file: Path, engine: str):
    keras, folder = import_keras(), tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(load_sample_images().images):
        Image.fromarray(photo).save(folder / f"{number}.jpg", quality=70)
        Image.fromarray(photo[:401, :299]).save(folder / f"{number}.png")
    paths = sorted(folder.iterdir())
    images = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(32, 32), shuffle=False, verbose=False
    )
    expected = keras.models.load_model(tiny_file).predict(images, verbose=0).mean(axis=(1, 2))

    backbone = load_backbone(str(tiny_file), resize="keras", engine=engine, precision="float32", batch_size=3)
    rows = dict(backbone.stream(list(enumerate(paths)), on_skip=lambda key, reason: pytest.fail(reason)))

    np.testing.assert_allclose([rows[number][0] for number in range(4)], expected, atol=1e-5)
    pixels = np.stack([read_image(path, image_size=32, resize="keras") for path in paths])
    np.testing.assert_allclose(backbone.rows(pixels), expected, atol=1e-5)


def test_graphs_for_rounded_and_float_pixels_are_kept_apart(tiny_backbone, tiny_file: Path, rng: np.random.Generator):
    pixels = rng.uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    exact = load_backbone(str(tiny_file), resize="keras", precision=tiny_backbone.spec.precision)
    assert exact.spec.differences(tiny_backbone.spec) == {
        "resize": ("keras", "squash"),
        "decode": ("keras-rgb-bilinear-1", "rgb-exif-white-hamming-2"),
    }
    gone = BackboneOrigin("moved_away.keras", "imagenet")
    for backbone, images in ((exact, pixels), (tiny_backbone, pixels.round().astype(np.uint8))):
        found = load_backbone_for(backbone.spec, source=gone, needed_by="x.head")
        assert found.spec == backbone.spec
        np.testing.assert_array_equal(found.rows(images), backbone.rows(images))
    message = r"^got images of shape \(3, 32, 32, 3\), uint8; needed: \(b, 32, 32, 3\), float32\.$"
    with pytest.raises(OptionError, match=message):
        exact.rows(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    ("resize", "known"), [("squash", "rgb-exif-white-hamming-2"), ("keras", "keras-rgb-bilinear-1")]
)
def test_a_decoding_rule_of_another_version_is_refused(tiny_backbone, resize: str, known: str):
    spec = replace(tiny_backbone.spec, resize=resize, decode="rgb-7")
    with pytest.raises(BackboneError) as caught:
        load_backbone_for(spec, source=tiny_backbone.source, needed_by="x.head")
    assert str(caught.value) == (
        f"x.head needs images decoded by the rule rgb-7; this onepass decodes by {known}. "
        "Extract and train again, or install the onepass that wrote it."
    )


def test_a_model_with_code_inside_is_not_loaded(tmp_path: Path):
    keras = import_keras()
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(BackboneError, match="lambda.keras cannot be loaded as a Keras model: .*without Lambda."):
        load_backbone(str(tmp_path / "lambda.keras"))


def test_a_model_that_ends_in_a_classifier_is_refused_with_the_remedy(tmp_path: Path):
    keras = import_keras()
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    keras.Sequential(layers).save(tmp_path / "whole.keras")
    with pytest.raises(BackboneError, match=r"ends in a classifier \(dense.*\); a backbone ends in features. Save it"):
        load_backbone(str(tmp_path / "whole.keras"))


@pytest.mark.parametrize(("options", "message"), [
    ({"name": "no.keras"}, "there is no backbone file no.keras|cannot read"),
    ({"resize": "stretch"}, "resize is 'stretch'; needed: one of squash, crop, pad, keras."),
    ({"pooling": "sum"}, "pooling is 'sum'; needed: one of avg, max, flatten."),
    ({"engine": "onnx"}, "engine is 'onnx'; needed: one of auto, openvino, tensorflow."),
    ({"precision": "int4"}, "precision is 'int4'; needed: one of auto, float32, bfloat16, int8."),
    ({"image_size": 5}, "image_size is 5; needed: 8 to 4096 pixels."),
    ({"batch_size": 0}, "batch_size is 0; needed: at least 1."),
    ({"name": "inceptionv3", "image_size": 32, "weights": "w"}, "inceptionv3 cannot take 32 px images: "),
])  # fmt: skip
def test_wrong_settings_end_in_one_message(options: dict, message: str, tmp_path: Path):
    if options.get("weights"):
        options = options | {"weights": tmp_path / "w.h5"}
        (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises((OptionError, BackboneError), match=message):
        load_backbone(**options)


def test_the_right_backbone_is_found_again_by_spec(tiny_backbone, tiny_file: Path):
    gone = BackboneOrigin("moved_away.keras", "imagenet")
    found = load_backbone_for(tiny_backbone.spec, source=gone, needed_by="x.head")
    assert found.spec == tiny_backbone.spec


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path):
    mobilenet(seed=1).save_weights(tmp_path / "w.weights.h5")
    wanted = load_backbone("mobilenet_0.25", weights=tmp_path / "w.weights.h5", image_size=32).spec
    mobilenet(seed=2).save_weights(tmp_path / "w.weights.h5")
    for entry in cache_folder().glob("*"):
        (entry / "backbone.json").unlink(missing_ok=True)
    source = BackboneOrigin("mobilenet_0.25", str(tmp_path / "w.weights.h5"))
    with pytest.raises(SpecMismatchError, match=r"x.head needs mobilenet_0.25.*\n[^$]*weights_hash[^$]*weights\.$"):
        load_backbone_for(wanted, source=source, needed_by="x.head")


def test_a_damaged_cache_entry_is_made_anew(
    tiny_file: Path, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    before = load_backbone(str(tiny_file)).rows(images)
    for entry in cache_folder().glob("*/model.bin"):
        entry.write_bytes(entry.read_bytes()[:-7])
    with pytest.warns(
        OnepassWarning, match="is damaged: model.bin does not match its checksum. It is not used, and is"
    ):
        again = load_backbone(str(tiny_file))
    np.testing.assert_array_equal(again.rows(images), before)


@pytest.fixture
def weights_server(tmp_path: Path) -> Iterator[str]:
    """Serves a folder on 127.0.0.1, in the place of the host that Keras downloads from."""
    save_legacy(mobilenet(seed=7), tmp_path / "mobilenet_2_5_224_tf_no_top.h5")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


DOWNLOAD = """
from onepass.extract import load_backbone
from onepass.features import UserError
try:
    print("hash", load_backbone("mobilenet_0.25").spec.weights_hash)
except UserError as error:
    print("error", error)
"""

ANOTHER_HOST = """
import urllib.request
real = urllib.request.urlretrieve
def from_here(url, *args, **kwargs):
    return real({server!r} + url.rpartition("/")[2], *args, **kwargs)
urllib.request.urlretrieve = from_here
"""


def download(tmp_path: Path, server: str):
    """Loads a backbone in a fresh process; every Python there downloads from another host."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ANOTHER_HOST.format(server=server))
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    return run_process(
        "python", "-c", DOWNLOAD, cwd=tmp_path,
        KERAS_HOME=str(tmp_path / "keras"), ONEPASS_CACHE=str(tmp_path / "cache"), PYTHONPATH=path,
    )  # fmt: skip


def test_imagenet_weights_come_through_keras_own_download(tmp_path: Path, weights_server: str):
    from onepass.extract.backbones.weights import weights_hash

    done = download(tmp_path, weights_server)
    assert done.stdout.split() == ["hash", weights_hash(mobilenet(seed=7))], done.stderr
    assert "Downloading data from " in done.stderr
    assert (tmp_path / "keras" / "models" / "mobilenet_2_5_224_tf_no_top.h5").exists()


def test_a_failed_download_ends_in_one_line_that_names_the_ways_out(tmp_path: Path):
    done = download(tmp_path, "http://127.0.0.1:9/")
    (line,) = done.stdout.splitlines()
    assert line.startswith("error the ImageNet weights of mobilenet_0.25 could not be loaded (URL fetch failure on ")
    assert line.endswith(
        f"Give a file with weights, put Keras's own download into {tmp_path / 'keras' / 'models'}, "
        "or use the bundled backbone='efficientnet_lite0'."
    )


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_nothing_is_sent_anywhere(tmp_path: Path, tiny_file: Path, precision: str):
    """Conversion and inference with every connection and name look-up counted."""
    code = f"""{NO_NETWORK}
import numpy as np
from onepass.extract import load_backbone
load_backbone({str(tiny_file)!r}, precision={precision!r}).rows(np.zeros((1, 32, 32, 3), np.uint8))
import time; time.sleep(0.5)
print(asked, "openvino_telemetry" in sys.modules)
"""
    done = run_process("python", "-c", code, cwd=tmp_path, ONEPASS_CACHE=str(tmp_path / "cache"))
    assert done.stdout == "[] False\n", done.stderr
    assert "tensorflow" in sys.modules


def test_bfloat16_in_tensorflow_is_computed_in_bfloat16():
    from onepass.extract.backbones.build import build_backbone

    settings = {"weights": "imagenet", "image_size": 32, "pooling": "avg"}
    built = build_backbone("efficientnet_lite0", precision="bfloat16", **settings).model
    (network,) = [layer for layer in built.layers if layer.name == "efficientnet_lite0"]
    assert {layer.compute_dtype for layer in network.layers if layer.weights} == {"bfloat16"}
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert built.output.dtype == "float32"
    assert import_keras().config.dtype_policy().name == "float32"


def test_the_users_keras_settings_do_not_matter_and_are_kept(rng: np.random.Generator):
    from onepass.extract.backbones.build import build_backbone

    keras = import_keras()
    settings = {"weights": "imagenet", "image_size": 32, "pooling": "avg"}
    images = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    expected = build_backbone("efficientnet_lite0", **settings).model.predict(images, verbose=0)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    try:
        built = build_backbone("efficientnet_lite0", **settings)
        assert keras.config.image_data_format() == "channels_first"
        assert keras.config.floatx() == "float16"
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
    np.testing.assert_allclose(built.model.predict(images, verbose=0), expected, atol=1e-5)


def test_odd_file_names_and_softmax_layers_of_keras_files(tmp_path: Path):
    keras = import_keras()
    layers = [keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)]
    keras.Sequential(layers).save(tmp_path / "my net.v2.keras")
    assert load_backbone(str(tmp_path / "my net.v2.keras")).spec.backbone == "my net.v2"

    layers = [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Softmax()]
    keras.Sequential(layers).save(tmp_path / "whole.keras")
    with pytest.raises(BackboneError, match=r"ends in a classifier \(softmax.*\)"):
        load_backbone(str(tmp_path / "whole.keras"))
    (tmp_path / "junk.keras").write_bytes(b"no zip")
    with pytest.raises(BackboneError, match=r"junk.keras is no .keras file of Keras 3 \(which is a zip\)"):
        load_backbone(str(tmp_path / "junk.keras"))


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackboneError, match="cannot keep the converted backbone in .* Set ONEPASS_CACHE to a folder"):
        load_backbone(str(tiny_file))
