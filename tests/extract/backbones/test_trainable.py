"""The Keras network behind rows, and networks cut after a layer, against the rows themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract import (
    BackboneOrigin,
    extract_features,
    load_backbone,
    load_backbone_for,
    load_trainable,
    run_extraction,
    verify,
)
from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.build import with_rows
from onepass.extract.backbones.catalogue import CATALOGUE, BackboneName
from onepass.extract.backbones.keras_applications import preprocess_input, preprocessing_layers
from onepass.extract.backbones.trainable import TrainableBackbone, list_stages
from onepass.extract.frameworks import import_keras, plain_keras
from onepass.features import FeatureFile
from onepass.features.errors import BackboneError, OptionError, SpecMismatchError
from support import KINDS, MakeFolder, mobilenet


def trainable(backbone: Backbone, **options: Any) -> TrainableBackbone:
    return load_trainable(backbone.spec, source=backbone.source, needed_by="photos.h5", **options)


@pytest.fixture(scope="module")
def tuned(lite0) -> TrainableBackbone:
    return trainable(lite0)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def free_file(tmp_path: Path) -> Path:
    """A network of the user's own that takes images of any size."""
    keras = import_keras()
    keras.utils.set_random_seed(1)
    layers = keras.layers
    inputs = keras.Input((None, None, 3))
    x = layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[9.0, 16.0, 25.0], name="norm")(inputs)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="block1_conv")(x)
    shortcut = x
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="block2_conv")(x)
    x = layers.Add(name="block2_add")([x, shortcut])
    outputs = layers.Conv2D(6, 3, padding="same", name="block3_conv")(x)
    path = tmp_path / "free.keras"
    keras.Model(inputs, outputs, name="free").save(path)
    return path


def test_the_model_gives_the_rows_that_were_extracted(lite0, tuned: TrainableBackbone, images: np.ndarray):
    assert tuned.spec == lite0.spec
    np.testing.assert_allclose(tuned.model(images), lite0.rows(images), atol=1e-3)
    assert tuned.model.input.dtype == "uint8"
    assert tuned.model.output.dtype == "float32"
    assert [stage.name for stage in tuned.stages][-2:] == ["block7", "top"]


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_pooling_weights_file_and_float_pixels_are_those_of_the_rows(
    tmp_path: Path, pooling: str, rng: np.random.Generator
):
    mobilenet(seed=3).save_weights(tmp_path / "w.weights.h5")
    settings = {"weights": tmp_path / "w.weights.h5", "image_size": 32, "pooling": pooling, "precision": "float32"}
    backbone = load_backbone("mobilenet_0.25", resize="keras", **settings)
    found = trainable(backbone)
    images = rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(found.model(images), backbone.rows(images), atol=1e-4)
    boundary = found.boundary_before(found.first_unfrozen("block13"))
    top, rows = found.top(boundary), found.trunk(boundary).rows(images)
    np.testing.assert_allclose(top(rows.reshape(-1, *top.input_shape[1:])), backbone.rows(images), atol=1e-4)


def test_a_keras_file_is_trained_as_it_was_extracted(tiny_backbone, rng: np.random.Generator):
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    backbone = load_backbone_for(
        replace(tiny_backbone.spec, precision="float32"), source=tiny_backbone.source, needed_by="x"
    )
    found = trainable(backbone)
    np.testing.assert_allclose(found.model(images), backbone.rows(images), atol=1e-5)
    first = found.first_unfrozen("2")
    assert [type(layer).__name__ for layer in found.network.layers[first:]] == ["DepthwiseConv2D", "Activation"]
    trunk, top = found.trunk(found.boundary_before(first)), found.top(found.boundary_before(first))
    rows = trunk.rows(images).reshape(-1, *top.input_shape[1:])
    np.testing.assert_allclose(top(rows), backbone.rows(images), atol=1e-5)
    assert trunk.spec.backbone.startswith("tiny@re_lu")


def test_a_keras_file_for_any_size_has_stages_of_this_size(free_file: Path, rng: np.random.Generator):
    backbone = load_backbone(str(free_file), image_size=16, precision="float32")
    images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    found = trainable(backbone)
    np.testing.assert_allclose(found.model(images), backbone.rows(images), rtol=1e-4, atol=1e-4)
    expected = [
        ("block1", None, (16, 16, 3)),
        ("block2", "block1_conv", (8, 8, 4)),
        ("block3", "block2_add", (8, 8, 4)),
    ]
    assert [(stage.name, stage.boundary, stage.shape) for stage in found.stages] == expected
    assert list_stages(str(free_file), 16) == found.stages
    assert list_stages(str(free_file))[1].shape == (112, 112, 4)


def test_the_trunk_is_a_backbone_whose_rows_the_top_takes(lite0, tuned: TrainableBackbone, images: np.ndarray):
    boundary = tuned.boundary_before(tuned.first_unfrozen("block6"))
    trunk, top = tuned.trunk(boundary), tuned.top(boundary)
    assert boundary == "_blocks.10.add"
    assert trunk.spec == replace(
        lite0.spec, backbone="efficientnet_lite0@_blocks.10.add", pooling="flatten", width=4 * 4 * 112
    )
    assert trunk.source == BackboneOrigin("efficientnet_lite0@_blocks.10.add", "imagenet")
    assert top.input_shape == (None, 4, 4, 112)
    rows = trunk.rows(images).reshape(-1, 4, 4, 112)
    np.testing.assert_allclose(top(rows), lite0.rows(images), atol=1e-3)

    in_keras = tuned.trunk(boundary, engine="tensorflow", batch_size=2)
    assert in_keras.spec == trunk.spec
    np.testing.assert_allclose(in_keras.rows(images), trunk.rows(images), atol=1e-3)


def test_training_the_top_trains_the_model(lite0, images: np.ndarray, tmp_path: Path):
    found = trainable(lite0)
    boundary = found.boundary_before(found.first_unfrozen("top"))
    top, trunk = found.top(boundary), found.trunk(boundary)
    before = np.asarray(found.model(images))
    layer = found.network.get_layer("_conv_head")
    layer.set_weights([0.5 * layer.get_weights()[0]])
    after = np.asarray(found.model(images))
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(top(trunk.rows(images).reshape(-1, *top.input_shape[1:])), after, atol=1e-3)
    found.model.save(tmp_path / "after.keras")
    again = import_keras().models.load_model(tmp_path / "after.keras", safe_mode=True)
    np.testing.assert_array_equal(again(images), after)


@pytest.mark.parametrize(("precision", "trunk"), [("bfloat16", "bfloat16"), ("int8", "float32")])
def test_the_network_is_float32_whatever_the_rows_are(lite0, precision: str, trunk: str, images: np.ndarray):
    spec = replace(lite0.spec, precision=precision)
    found = load_trainable(spec, source=lite0.source, needed_by="photos.h5")
    assert found.spec == spec
    assert {layer.compute_dtype for layer in found.network.layers if layer.weights} == {"float32"}
    np.testing.assert_allclose(found.model(images), lite0.rows(images), atol=1e-3)
    assert found.trunk("_blocks.0._bn2").spec.precision == trunk


def test_boundary_activations_are_kept_in_an_ordinary_feature_file(
    lite0, tuned: TrainableBackbone, make_folder: MakeFolder, tmp_path: Path
):
    data, path = make_folder({"cats": 4, "dogs": 3}), tmp_path / "trunk.h5"
    boundary = tuned.boundary_before(tuned.first_unfrozen("block7"))
    first = run_extraction(data, tuned.trunk(boundary), out=path, views=2, augment="flip")
    second = run_extraction(data, tuned.trunk(boundary), out=path)
    assert (first.computed, second.computed) == (7, 0)
    assert verify(path).verdict == "whole"
    plain = extract_features(data, backbone=lite0, out=tmp_path / "plain.h5")
    top = tuned.top(boundary)
    with FeatureFile(path) as trunk, FeatureFile(plain) as rows:
        assert trunk.spec.backbone == "efficientnet_lite0@_blocks.14.add"
        assert trunk.provenance["backbone"] == "efficientnet_lite0@_blocks.14.add"
        assert trunk.views == 2
        activations, _ = trunk.read(np.arange(7))
        expected, _ = rows.read(np.arange(7))
    activations = activations.reshape(7, -1, trunk.spec.width)[:, 0]
    np.testing.assert_allclose(top(activations.reshape(-1, *top.input_shape[1:])), expected, atol=1e-3)


def test_a_cut_network_is_a_backbone_for_users_too(lite0, images: np.ndarray, free_file: Path, tmp_path: Path):
    settings = {"image_size": 64, "precision": "float32"}
    flat = load_backbone("efficientnet_lite0@_blocks.14.add", pooling="flatten", **settings).rows(images)
    mean = load_backbone("efficientnet_lite0@_blocks.14.add", **settings)
    np.testing.assert_allclose(mean.rows(images), flat.reshape(3, 4, -1).mean(axis=1), atol=1e-4)
    assert mean.spec.weights_hash == lite0.spec.weights_hash

    own = load_backbone(f"{free_file}@block2_add", **settings)
    assert (own.spec.backbone, own.spec.width, own.spec.weights) == ("free@block2_add", 4, "own")
    moved = free_file.rename(tmp_path / "moved.keras")
    source = BackboneOrigin.of({"backbone": own.source.name, "weights": "imagenet"}, str(moved))
    assert source == BackboneOrigin(f"{moved}@block2_add", "imagenet")


def test_a_cut_network_can_be_trained_and_cut_again(images: np.ndarray):
    backbone = load_backbone("efficientnet_lite0@_blocks.10.add", image_size=64, precision="float32")
    found = trainable(backbone)
    np.testing.assert_allclose(found.model(images), backbone.rows(images), atol=1e-3)
    boundary = found.boundary_before(found.first_unfrozen("block4"))
    top, trunk = found.top(boundary), found.trunk(boundary)
    assert trunk.spec.backbone == "efficientnet_lite0@_blocks.4.add"
    rows = trunk.rows(images).reshape(-1, *top.input_shape[1:])
    np.testing.assert_allclose(top(rows), backbone.rows(images), atol=1e-3)


@pytest.mark.parametrize(("text", "network", "layer", "label"), [
    ("resnet50", "resnet50", "", "resnet50"),
    ("resnet50@conv4_block6_out", "resnet50", "conv4_block6_out", "resnet50@conv4_block6_out"),
    ("me@home/net.v2.keras", "me@home/net.v2.keras", "", "net.v2"),
    ("me@home/net.v2.keras@add_1", "me@home/net.v2.keras", "add_1", "net.v2@add_1"),
    ("@add", "@add", "", "@add"),
])  # fmt: skip
def test_a_backbones_name_is_taken_apart(text: str, network: str, layer: str, label: str):
    name = BackboneName.parse(text)
    assert (name.network, name.layer, name.label, str(name)) == (network, layer, label, text)


def test_an_unknown_layer_gets_the_nearest_ones():
    with pytest.raises(BackboneError) as caught:
        load_backbone("efficientnet_lite0@_conv_hed", image_size=32)
    assert str(caught.value) == (
        "efficientnet_lite0 has no layer '_conv_hed' to be cut after. Did you mean _conv_head or _conv_stem? "
        "`onepass backbones --stages efficientnet_lite0` lists good places."
    )


def test_other_weights_than_the_rows_had_are_refused(lite0):
    spec = replace(lite0.spec, weights_hash="ab" * 32)
    with pytest.raises(
        SpecMismatchError, match=r"(?s)photos.h5 needs .*weights_hash.*weights it was trained with by weights\.$"
    ):
        load_trainable(spec, source=lite0.source, needed_by="photos.h5")
    with pytest.raises(
        BackboneError, match=r"^photos\.h5 needs images decoded by the rule rgb-7; this onepass decodes"
    ):
        load_trainable(replace(lite0.spec, decode="rgb-7"), source=lite0.source, needed_by="photos.h5")


def test_random_weights_come_from_the_seed(lite0, images: np.ndarray):
    first, again, other = (trainable(lite0, random=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.model(images), again.model(images))
    assert not np.array_equal(first.model(images), other.model(images))
    assert first.spec == again.spec
    assert first.spec.weights == "random 1"
    assert first.spec.differences(lite0.spec).keys() == {"weights_hash"}
    with pytest.raises(OptionError) as caught:
        first.trunk("_blocks.10.add")
    assert str(caught.value) == (
        "efficientnet_lite0 has random weights, so no part of it can stay frozen; needed: unfreeze all."
    )


def test_random_weights_of_a_keras_file_keep_what_was_adapted_to_data(free_file: Path, rng: np.random.Generator):
    backbone = load_backbone(str(free_file), image_size=16, precision="float32")
    found, again = trainable(backbone, random=5), trainable(backbone, random=5)
    images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(found.model(images), again.model(images))
    assert np.abs(found.model(images) - backbone.rows(images)).max() > 1e-3
    norm = found.network.get_layer("norm")
    np.testing.assert_allclose(norm(np.full((1, 16, 16, 3), 100.0))[0, 0, 0], [0.0, -2.5, -4.0])


@pytest.mark.parametrize("name", KINDS)
def test_preprocessing_is_saved_with_the_model_and_needs_no_code(name: str, tmp_path: Path, rng: np.random.Generator):
    with plain_keras() as keras:
        network = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)])
        model = with_rows(network, BackboneName(name), image_size=16, pooling="avg", pixels="uint8", digest="").model
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    images = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnexttiny", "densenet121", "efficientnetb0", "inceptionresnetv2", "resnet50"])
def test_whole_models_are_saved_and_loaded_without_code(name: str, tmp_path: Path, rng: np.random.Generator):
    backbone = replace(load_backbone("efficientnet_lite0", image_size=96).spec, backbone=name)
    found = load_trainable(backbone, source=BackboneOrigin(name, "imagenet"), needed_by="x", random=0)
    found.top(found.stages[-1].boundary or "")
    found.model.save(tmp_path / "model.keras")
    loaded = import_keras().models.load_model(tmp_path / "model.keras", safe_mode=True)
    images = rng.integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(loaded(images), found.model(images))


def test_every_preprocessing_of_keras_has_its_layers(rng: np.random.Generator):
    pixels = rng.integers(0, 256, (1, 4, 4, 3)).astype(np.float32)
    for entry in {entry.module: entry for entry in CATALOGUE.values()}.values():
        values = pixels
        for layer in preprocessing_layers(entry):
            values = layer(values)
        np.testing.assert_allclose(values, preprocess_input(entry, pixels), rtol=1e-6, atol=1e-5, err_msg=entry.name)
