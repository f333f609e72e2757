"""Presets of KerasHub: what their image converters mean, what is refused, and rows against KerasHub itself."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hub_networks import PRESETS, hub_rows, lowest_cosine, write_preset
from onepass.extract import load_backbone
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.kerashub import KerasHub, converter_arithmetic, converter_rule
from onepass.extract.backbones.provider import Asked
from onepass.features.errors import BackboneError, OptionError, UnknownBackboneError
from onepass.features.preprocess import Preprocess
from support import picture

needs_keras_hub = pytest.mark.skipif(find_spec("keras_hub") is None, reason="needs KerasHub: pip install .[kerashub]")

CONVERTER = {
    "image_size": [64, 64],
    "scale": [1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225],
    "offset": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
    "interpolation": "bicubic",
    "antialias": True,
    "crop_to_aspect_ratio": False,
    "pad_to_aspect_ratio": False,
}
CONFIG = {
    "module": "keras_hub.src.models.vit.vit_backbone",
    "class_name": "ViTBackbone",
    "registered_name": "keras_hub>ViTBackbone",
    "config": {"image_shape": [64, 64, 3], "num_layers": 5, "hidden_dim": 48},
}


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A preset as far as it is looked at before KerasHub is needed."""
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "image_converter.json").write_text(json.dumps({"config": CONVERTER}))
    (folder / "model.weights.h5").write_bytes(b"")
    return folder


def change(preset: Path, **values: object) -> None:
    (preset / "image_converter.json").write_text(json.dumps({"config": CONVERTER | values}))


def described(preset: Path, **options):
    return KerasHub().describe(Asked(BackboneName.parse(f"keras-hub:{preset}"), **options))


def test_an_image_converter_is_read_as_rule_and_arithmetic(preset: Path):
    facts = described(preset)
    assert facts.preprocess == Preprocess(
        resize="squash-bicubic", size=64, rescale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert (facts.label, facts.native, facts.fixed_size) == ("vit", True, True)
    assert facts.poolings == ("cls+mean", "cls", "mean", "last4")


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({}, "squash-bicubic"),
        ({"interpolation": "bilinear"}, "squash-bilinear"),
        ({"interpolation": "lanczos3"}, "squash-lanczos"),
        ({"interpolation": "bilinear", "antialias": False}, "keras"),
        ({"antialias": False}, None),
        ({"crop_to_aspect_ratio": True}, None),
        ({"pad_to_aspect_ratio": True}, None),
        ({"interpolation": "nearest"}, None),
    ],
)
def test_a_rule_is_named_only_where_it_gives_the_same_pixels(preset: Path, values: dict, rule: str | None):
    change(preset, **values)
    assert converter_rule(preset / "image_converter.json") == rule


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"scale": 1 / 127.5, "offset": -1.0}, "(x / 255 - 0.5) / 0.5"),
        ({"scale": None, "offset": None}, "x"),
        ({"scale": 1 / 255, "offset": None}, "x / 255"),
        (
            {"scale": 1 / 255, "offset": None, "mean": [0.5, 0.5, 0.5], "variance": [0.25, 0.25, 0.25]},
            "(x / 255 - 0.5) / 0.5",
        ),
    ],
)
def test_scale_and_offset_are_told_as_mean_and_deviation(preset: Path, values: dict, told: str):
    change(preset, **values)
    assert converter_arithmetic(preset / "image_converter.json", None).arithmetic == told


def test_a_converter_that_nobody_here_can_repeat_is_refused_with_an_example(preset: Path):
    change(preset, crop_to_aspect_ratio=True, antialias=False)
    with pytest.raises(OptionError) as caught:
        described(preset)
    example = {
        "resize": "shortest64-bicubic",
        "size": 64,
        "antialias": True,
        "channels": "RGB",
        "rescale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert str(caught.value) == (
        f"{preset / 'image_converter.json'} cuts out the middle square and resizes it by the filter bicubic, without "
        "averaging what is reduced, which is not done here, nor was the network trained so. Needed: preprocess with a "
        "JSON file that says how it was: the preprocessor_config.json of the original network, or, for example, "
        f"{json.dumps(example)}."
    )
    given = Preprocess.from_facts(example)
    assert described(preset, preprocess=given).preprocess == given


def test_another_mean_than_that_of_the_converter_is_refused(preset: Path):
    given = Preprocess(resize="squash", size=64, rescale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with pytest.raises(OptionError) as caught:
        described(preset, preprocess=given)
    assert str(caught.value) == (
        "vit takes RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], by its image_converter.json; "
        "preprocess says RGB, (x / 255 - 0.5) / 0.5. Correct it."
    )


def test_a_preset_without_a_converter_needs_preprocessing(preset: Path):
    (preset / "image_converter.json").unlink()
    with pytest.raises(OptionError) as caught:
        described(preset)
    assert str(caught.value) == (
        "vit has no image_converter.json that says how its images were prepared, and nothing is guessed. Needed: "
        "preprocess with a JSON file, or the file of image_converter.save_to_preset in the folder."
    )


def test_a_converter_for_another_size_than_the_network_is_refused(preset: Path):
    change(preset, image_size=[96, 96])
    with pytest.raises(OptionError) as caught:
        described(preset)
    assert str(caught.value) == (
        "vit takes images of 64 px, and its preprocessing makes 96 px. Correct the one that is wrong: "
        "image_converter.json or preprocess."
    )


def refused(folder: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        KerasHub().check(BackboneName.parse(f"keras-hub:{folder}"), "imagenet")
    return str(caught.value)


def test_code_of_others_is_refused(preset: Path):
    foreign = CONFIG | {"config": {"encoder": {"module": "os", "class_name": "system"}}}
    (preset / "config.json").write_text(json.dumps(foreign))
    assert refused(preset) == f"{preset / 'config.json'} asks for code of os, which is neither Keras nor KerasHub."


def test_a_folder_of_transformers_is_told_apart(preset: Path):
    (preset / "config.json").write_text('{"model_type": "dinov2"}')
    assert refused(preset) == f"{preset} is a folder of transformers; name it without keras-hub:."


def test_a_preset_without_weights_is_refused(preset: Path):
    (preset / "model.weights.h5").unlink()
    assert refused(preset) == (f"{preset} lacks model.weights.h5; needed: a folder that backbone.save_to_preset wrote.")


@needs_keras_hub
def test_an_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(
        UnknownBackboneError, match=r"^KerasHub has no preset 'dinov2_smal'\. Did you mean dinov2_small"
    ):
        load_backbone("keras-hub:dinov2_smal")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place, random = tmp_path_factory.mktemp("images"), np.random.default_rng(8)
    paths = [place / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, ((90, 70), (64, 81), (120, 120)), strict=True):
        picture(random, size).save(path)
    return paths


@needs_keras_hub
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", PRESETS)
def test_rows_and_pixels_are_those_of_kerashub(kind: str, files: list[Path], tmp_path: Path):
    folder = write_preset(kind, tmp_path / kind)
    backbone = load_backbone(f"keras-hub:{folder}", precision="float32")
    pixels = np.stack([backbone.pixels(file.read_bytes()) for file in files])
    own = hub_rows(folder, files)
    # Pillow rounds, and cuts to 0..255, between the two axes; TensorFlow does not.
    assert np.abs(pixels.astype(float) - own["pixels"]).max() <= 3
    reference = hub_rows(folder, files, pixels)
    del reference["pixels"]
    for pooling, rows in reference.items():
        backbone = load_backbone(f"keras-hub:{folder}", pooling=pooling, precision="float32")
        assert lowest_cosine(backbone.rows_of(files), rows) >= 0.99999
