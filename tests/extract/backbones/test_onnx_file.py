"""ONNX files as backbones: rows against onnxruntime, outputs by name, preprocessing demanded, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract import (
    BackboneOrigin,
    find_images,
    load_backbone,
    load_backbone_for,
    run_extraction,
    verify_backbone,
)
from onepass.extract.backbones.build import build_backbone
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.onnx_file import OnnxFile
from onepass.extract.backbones.provider import Asked, Conversion
from onepass.features import FeatureFile
from onepass.features.errors import BackboneError, OptionError
from onepass.heads import fine_tune
from onepass.heads.about import info
from tiny_onnx import PREPROCESS, Tiny, lowest_cosine, outputs

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")


def rows_of(given: np.ndarray, pooling: str, layout: str) -> np.ndarray:
    """What onnxruntime gave, pooled by hand."""
    if given.ndim == 4 and layout == "NCHW":
        given = given.transpose(0, 2, 3, 1)
    if given.ndim == 4:
        flat = given.reshape(len(given), -1, given.shape[3])
        return {"avg": flat.mean(axis=1), "max": flat.max(axis=1), "flatten": given.reshape(len(given), -1)}[pooling]
    if given.ndim == 3:
        parts = {"cls": [given[:, 0]], "mean": [given[:, 1:].mean(axis=1)]}
        return np.concatenate([one for name in pooling.split("+") for one in parts[name]], axis=1)
    return given


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("side", [32, None])
@pytest.mark.parametrize(
    ("rank", "pooling"),
    [(2, "pooled"), (3, "cls"), (3, "mean"), (3, "cls+mean"), (4, "avg"), (4, "max"), (4, "flatten")],
)
def test_rows_are_those_of_onnxruntime(layout: str, side: int | None, rank: int, pooling: str, tmp_path, rng):
    path = Tiny(layout=layout, side=side, rank=rank).write(tmp_path / "tiny.onnx")
    pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    backbone = load_backbone(str(path), pooling=pooling, precision="float32")
    wanted = rows_of(outputs(path, pixels, layout=layout), pooling, layout)
    found = backbone.rows(pixels)
    assert found.shape == wanted.shape == (3, backbone.spec.width)
    assert lowest_cosine(found, wanted) >= 0.99999
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    name, provider = BackboneName.parse(str(path)), OnnxFile()
    facts = provider.describe(Asked(name))
    reference = provider.reference(Conversion(name, "imagenet", facts, facts.preprocess, pooling, "uint8"))
    np.testing.assert_allclose(reference.rows(facts.preprocess.normalised(pixels)), wanted, atol=1e-5)


@pytest.mark.parametrize(("layout", "other"), [("NCHW", "NHWC"), ("NHWC", "NCHW")])
@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_a_feature_map_of_another_layout_than_the_images_is_seen(layout, other, pooling: str, tmp_path: Path, rng):
    path = Tiny(layout=layout, map_layout=other).write(tmp_path / "tiny.onnx")
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    wanted = rows_of(outputs(path, pixels, layout=layout), pooling, other)
    found = load_backbone(str(path), pooling=pooling, precision="float32").rows(pixels)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("rank", "default"), [(2, "pooled"), (3, "cls+mean"), (4, "avg")])
def test_an_output_has_the_pooling_of_its_rank(rank: int, default: str, tmp_path: Path):
    path = Tiny(rank=rank).write(tmp_path / "tiny.onnx")
    assert load_backbone(str(path)).spec.pooling == default
    wrong = "cls" if rank != 3 else "avg"
    able = {2: "pooled", 3: "cls+mean, cls, mean", 4: "avg, max, flatten"}[rank]
    with pytest.raises(OptionError, match=f"^{re.escape(f'pooling is {wrong!r}; tiny has {able}.')}$"):
        load_backbone(str(path), pooling=wrong)


def write_tokens(path: Path, before: int) -> Path:
    """A network that gives 16 patches, and some tokens before them."""
    model = Tiny(rank=3).model()
    (last,) = (node for node in model.graph.node if node.op_type == "Concat")
    del last.input[:]
    last.input.extend(["class_token"] * before + ["patches"])
    onnx.save(model, str(path))
    path.with_suffix(".preprocess.json").write_text(json.dumps(PREPROCESS))
    return path


def test_register_tokens_stay_out_of_means(tmp_path: Path, rng):
    path = write_tokens(tmp_path / "registers.onnx", 5)
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = load_backbone(str(path), pooling="mean", precision="float32").rows(pixels)
    np.testing.assert_allclose(found, outputs(path, pixels)[:, 5:].mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("pooling", [None, "cls", "mean"])
def test_tokens_that_are_no_square_of_patches_are_refused(pooling: str | None, tmp_path: Path):
    path = write_tokens(tmp_path / "many.onnx", 82)
    told = "many gives 98 tokens for an image; needed: a class token, up to 15 others, and a square of patches."
    with pytest.raises(BackboneError, match=f"^{re.escape(told)}$"):
        load_backbone(str(path), pooling=pooling)


@pytest.mark.parametrize("pooling", [None, "cls", "cls+mean", "cls,mean"])
def test_patches_without_a_class_token_are_refused_with_the_pooling_that_there_is(pooling: str | None, tmp_path: Path):
    path = write_tokens(tmp_path / "bare.onnx", 0)
    told = (
        "bare gives 16 tokens for an image, which are a square of patches without a class token; needed: one before "
        "them, or pooling='mean', the mean of the patches."
    )
    with pytest.raises(BackboneError, match=f"^{re.escape(told)}$"):
        load_backbone(str(path), pooling=pooling)


def test_patches_without_a_class_token_are_averaged_where_that_is_asked_for(tmp_path: Path, rng):
    path = write_tokens(tmp_path / "bare.onnx", 0)
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    backbone = load_backbone(str(path), pooling="mean", precision="float32")
    np.testing.assert_allclose(backbone.rows(pixels), outputs(path, pixels).mean(axis=1), atol=1e-5)
    assert verify_backbone(str(path), pooling="mean").proof.holds


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A network with a feature map and pooled features as its outputs."""
    model = Tiny(rank=2).model()
    model.graph.output.append(onnx.helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, ["batch", 6, 4, 4]))
    path = tmp_path / "several.onnx"
    onnx.save(model, str(path))
    path.with_suffix(".preprocess.json").write_text(json.dumps(PREPROCESS))
    return path


def test_one_of_several_outputs_is_named(several: Path, rng):
    told = (
        f"several.onnx has the outputs features, map; needed: the one that gives features, such as {several}@features."
    )
    with pytest.raises(BackboneError, match=f"^{re.escape(told)}$"):
        load_backbone(str(several))
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    features = load_backbone(f"{several}@features", precision="float32")
    pooled = load_backbone(f"{several}@map", pooling="max", precision="float32")
    assert (features.spec.backbone, features.spec.pooling) == ("several@features", "pooled")
    np.testing.assert_allclose(features.rows(pixels), outputs(several, pixels, output="features"), atol=1e-5)
    np.testing.assert_allclose(pooled.rows(pixels), outputs(several, pixels, output="map").max(axis=(2, 3)), atol=1e-5)


def test_a_tensor_inside_can_be_named_too(several: Path, rng):
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    inside = load_backbone(f"{several}@convolved", precision="float32").rows(pixels)
    model = onnx.load(str(several))
    model.graph.output.append(onnx.helper.make_tensor_value_info("convolved", onnx.TensorProto.FLOAT, None))
    onnx.save(model, str(several))
    np.testing.assert_allclose(inside, outputs(several, pixels, output="convolved").mean(axis=(2, 3)), atol=1e-5)


def test_an_unknown_output_is_answered_with_the_nearest(several: Path):
    told = "several.onnx has no output or tensor 'maps'. Did you mean map? Its outputs are features, map."
    with pytest.raises(BackboneError, match=f"^{re.escape(told)}$"):
        load_backbone(f"{several}@maps")


def test_weights_beside_the_graph_are_read(tmp_path: Path, rng):
    path = tmp_path / "outside.onnx"
    onnx.save(Tiny().model(), str(path), save_as_external_data=True, location="w.data", size_threshold=0)
    path.with_suffix(".preprocess.json").write_text(json.dumps(PREPROCESS))
    inside = Tiny().write(tmp_path / "inside.onnx")
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    one, other = (load_backbone(str(file), precision="float32") for file in (path, inside))
    np.testing.assert_array_equal(one.rows(pixels), other.rows(pixels))
    assert one.spec.weights_hash == other.spec.weights_hash


def test_channels_in_the_other_order_are_turned(tmp_path: Path, rng):
    path = Tiny().write(tmp_path / "bgr.onnx", preprocess=PREPROCESS | {"channels": "BGR"})
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = load_backbone(str(path), precision="float32").rows(pixels)
    np.testing.assert_allclose(found, outputs(path, pixels[..., ::-1]).mean(axis=(2, 3)), atol=1e-5)


def test_a_network_of_half_precision_is_fed_and_read_in_its_own_type(tmp_path: Path, rng):
    plain = Tiny(rank=2).write(tmp_path / "plain.onnx")
    model = onnx.load(str(plain))
    for weight in model.graph.initializer:
        half = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(half, weight.name))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    half = tmp_path / "half.onnx"
    onnx.save(model, str(half))
    half.with_suffix(".preprocess.json").write_text(json.dumps(PREPROCESS))
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = load_backbone(str(half), precision="float32").rows(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, outputs(plain, pixels), atol=0.01)


def test_a_network_says_how_it_is_fed_or_is_not_used(tmp_path: Path):
    path = Tiny().write(tmp_path / "tiny.onnx", preprocess=None)
    example = (
        '{"resize": "squash-bilinear", "size": 224, "antialias": true, "channels": "RGB", "rescale": '
        '0.00392156862745098, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}'
    )
    told = (
        "tiny.onnx does not say how its images were prepared, and nothing is guessed. Needed: preprocess with a JSON "
        "file, or tiny.preprocess.json, preprocessor_config.json or timm's config.json beside it. "
        f"Such a file holds, for example, {example}."
    )
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        load_backbone(str(path))
    (tmp_path / "given.json").write_text(example.replace("224", "32"))
    assert str(load_backbone(str(path), preprocess=tmp_path / "given.json").spec.preprocess) == (
        "squash-bilinear to 32 px, RGB, x / 255"
    )


def test_files_of_other_projects_beside_a_network_say_it_too(tmp_path: Path):
    timm = {
        "architecture": "tiny",
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "license": "cc-by-nc-4.0",
        },
    }
    path = Tiny().write(tmp_path / "tiny.onnx", preprocess=None)
    (tmp_path / "config.json").write_text(json.dumps(timm))
    spec = load_backbone(str(path)).spec
    assert str(spec.preprocess) == "shortest36-bicubic-even to 32 px, RGB, (x / 255 - 0.5) / 0.5"
    assert (spec.provider, spec.licence, spec.resize) == ("onnx", "cc-by-nc-4.0", "shortest36-bicubic-even")


def test_preprocessing_for_another_size_is_shown_and_refused(tmp_path: Path):
    path = Tiny().write(tmp_path / "tiny.onnx", preprocess=PREPROCESS | {"size": 40})
    told = (
        "tiny.onnx takes images of 32 px, and its preprocessing makes 40 px. Correct the one that is wrong; preprocess "
        "names another file."
    )
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        load_backbone(str(path))
    Tiny().write(path)
    with pytest.raises(OptionError, match="^tiny takes images of 32 px alone; leave image_size=64 out.$"):
        load_backbone(str(path), image_size=64)


def test_a_network_of_any_size_takes_that_of_its_preprocessing_or_another(tmp_path: Path, rng):
    path = Tiny(side=None).write(tmp_path / "free.onnx")
    assert load_backbone(str(path)).spec.image_size == 32
    pixels = rng.integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    found = load_backbone(str(path), image_size=48, precision="float32").rows(pixels)
    np.testing.assert_allclose(found, outputs(path, pixels).mean(axis=(2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("preprocess", "told"),
    [
        ({"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}, "RGB, x / 255"),
        ({"rescale": 1.0}, "RGB, (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
    ],
)
def test_other_preprocessing_makes_another_spec_that_says_so(
    preprocess: dict[str, Any], told: str, tmp_path: Path, make_folder
):
    path = Tiny().write(tmp_path / "tiny.onnx")
    data = make_folder({"ant": 3, "bee": 3})
    features = tmp_path / "f.h5"
    run_extraction(data, load_backbone(str(path)), out=features)
    (tmp_path / "wrong.json").write_text(json.dumps(PREPROCESS | preprocess))
    wrong = load_backbone(str(path), preprocess=tmp_path / "wrong.json")
    assert str(wrong.spec.preprocess) == f"squash-bilinear to 32 px, {told}"
    with FeatureFile(features) as file:
        assert wrong.spec != file.spec
        assert set(file.spec.differences(wrong.spec)) == {"preprocess"}


def test_the_same_network_from_another_exporter_adds_to_the_same_rows(tmp_path: Path, make_folder):
    path, features = Tiny().write(tmp_path / "tiny.onnx"), tmp_path / "f.h5"
    data = make_folder({"ant": 4, "bee": 4})
    first = run_extraction(data, load_backbone(str(path)), out=features)
    model = onnx.load(str(path))
    model.producer_name = "another exporter"
    onnx.save(model, str(path))
    make_folder({"fly": 2}, seed=9)
    second = run_extraction(data, load_backbone(str(path)), out=features)
    told = "squash-bilinear to 32 px, RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"
    assert f"\nfed as {told}" in str(first)
    assert ["fed as", told] in info(features).rows
    assert (first.computed, second.computed) == (8, 2)


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path, make_folder):
    path, features = Tiny().write(tmp_path / "tiny.onnx"), tmp_path / "f.h5"
    run_extraction(make_folder({"ant": 4, "bee": 4}), load_backbone(str(path)), out=features)
    with FeatureFile(features) as file:
        spec, source = file.spec, BackboneOrigin.of(file.provenance)
    assert load_backbone_for(spec, source=source, needed_by="f.h5").spec == spec
    Tiny(seed=1).write(path)
    assert load_backbone(str(path)).spec.weights_hash != spec.weights_hash


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda graph: (
                graph.input[0].type.tensor_type.shape.dim[1].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=4))
            ),
            None,
        ),
        (lambda graph: graph.input.append(onnx.helper.make_tensor_value_info("mask", 1, [1])), None),
    ],
)
def test_what_takes_something_else_than_one_image_is_refused(change, told, tmp_path: Path):
    model = Tiny().model()
    change(model.graph)
    path = tmp_path / "odd.onnx"
    onnx.save(model, str(path))
    path.with_suffix(".preprocess.json").write_text(json.dumps(PREPROCESS))
    with pytest.raises(BackboneError, match=r"^(odd.onnx takes|OpenVINO cannot read) .*"):
        load_backbone(str(path))


def test_files_that_openvino_cannot_read_are_named(tmp_path: Path):
    path = tmp_path / "odd.onnx"
    model = Tiny().model()
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, str(path))
    path.with_suffix(".preprocess.json").write_text(json.dumps(PREPROCESS))
    with pytest.raises(BackboneError, match=f"^OpenVINO cannot read {re.escape(str(path))}: .*"):
        load_backbone(str(path))


def test_what_does_not_go_with_an_onnx_file_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "tiny.onnx"
    with pytest.raises(BackboneError, match=f"^{re.escape(f'there is no backbone file {path}.')}$"):
        load_backbone(str(path))
    path.write_bytes(b"not looked at")
    weights = tmp_path / "w.h5"
    weights.write_bytes(b"")
    with pytest.raises(OptionError, match=r"^weights does not go with an ONNX file, which brings its own weights\.$"):
        load_backbone(str(path), weights=weights)
    told = "tiny is a graph that OpenVINO alone runs; leave engine='tensorflow' out."
    with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
        load_backbone(str(path), engine="tensorflow")


UNTRAINABLE = (
    "tiny is an ONNX graph, which Keras neither runs nor trains. Needed here: a backbone that Keras builds, which is "
    "one of `onepass backbones`, a .keras file, hf:... or keras-hub:...; extract with it first."
)


def test_fine_tuning_is_refused_before_a_head_is_trained(tmp_path: Path, make_folder, monkeypatch):
    path, features = Tiny().write(tmp_path / "tiny.onnx"), tmp_path / "f.h5"
    run_extraction(make_folder({"ant": 8, "bee": 8}), load_backbone(str(path)), out=features)
    monkeypatch.setattr("onepass.heads.finetune.run.train_head", lambda *_, **__: pytest.fail("a head was trained"))
    monkeypatch.chdir(tmp_path)
    before = sorted(one.name for one in tmp_path.iterdir())
    with pytest.raises(BackboneError, match=f"^{re.escape(UNTRAINABLE)}$"):
        fine_tune(features)
    assert sorted(one.name for one in tmp_path.iterdir()) == before
    with pytest.raises(BackboneError, match=f"^{re.escape(UNTRAINABLE)}$"):
        build_backbone(str(path), weights="imagenet", image_size=32, pooling="avg")


def test_rows_of_files_do_not_depend_on_their_number(tmp_path: Path, make_folder):
    path = Tiny(rank=3).write(tmp_path / "tiny.onnx")
    files = list(find_images([make_folder({"ant": 5, "bee": 4})]))
    backbone = load_backbone(str(path))
    together = backbone.rows_of(files)
    np.testing.assert_array_equal(together, np.concatenate([backbone.rows_of([file]) for file in files]))
