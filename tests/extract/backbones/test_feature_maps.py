"""The map behind rows: its mean is the row, whatever network, layout, precision and pooling; else it is refused."""

from pathlib import Path

import numpy as np
import pytest

from hub_networks import PATCH, SIDE, WIDTH, write_dinov2
from onepass.extract import (
    Backbone,
    BackboneOrigin,
    Network,
    backbone_of_file,
    feature_maps,
    import_openvino,
    load_backbone,
    run_extraction,
    with_maps,
)
from onepass.extract import write_graph as write
from onepass.extract.backbones.build import build_backbone
from onepass.extract.backbones.load import on_openvino
from onepass.extract.backbones.openvino_cache import CompiledBackbone, export_keras
from onepass.features import FeatureFile, Preprocess
from onepass.features.errors import BackboneError
from support import make_spec, write_folder


@pytest.fixture
def photos(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(2)]


def converted(graph: Path, width: int, side: int, pooling: str = "avg") -> Backbone:
    """A graph on disk as a backbone."""
    spec = make_spec(width=width, image_size=side, pooling=pooling)
    known = CompiledBackbone(graph.parent, spec.backbone, spec.weights_hash, side, pooling, width)
    return on_openvino(spec, BackboneOrigin("resnet50", "imagenet"), known)


def require_mean(backbone: Backbone, photos: list[np.ndarray]) -> None:
    grid = with_maps(backbone)[1]
    maps, rows = feature_maps(backbone, photos), backbone.rows_of(photos)
    assert maps.shape == (len(photos), grid.height, grid.width, grid.depth)
    assert grid.height * grid.width > 1
    means = maps.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, rows[:, grid.columns], rtol=0, atol=1e-6 * max(1, np.abs(rows).max()))
    assert np.ptp(rows) > 0


def test_the_mean_of_the_map_is_the_row(lite0: Backbone, photos: list[np.ndarray]):
    require_mean(lite0, photos)


def test_the_map_is_that_of_keras(tiny_file: Path, tiny_backbone: Backbone, photos: list[np.ndarray]):
    from onepass.extract import import_keras

    keras = import_keras()
    model = keras.models.load_model(tiny_file)
    pixels = np.stack([tiny_backbone.pixels(_png(photo)) for photo in photos])
    expected = model(pixels.astype(np.float32), training=False).numpy()
    np.testing.assert_allclose(feature_maps(tiny_backbone, photos), expected, rtol=0, atol=1e-4)


def _png(photo: np.ndarray) -> bytes:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    return data.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "convnexttiny",
        "densenet121",
        "efficientnetb0",
        "efficientnetv2b0",
        "inceptionresnetv2",
        "inceptionv3",
        "mobilenet",
        "mobilenetv2",
        "mobilenetv3small",
        "nasnetmobile",
        "resnet50",
        "resnet50v2",
        "vgg16",
        "xception",
    ],
)
def test_rows_of_every_family_are_means_of_maps(name: str, tmp_path: Path, photos: list[np.ndarray]):
    side = {"nasnetmobile": 224, "inceptionv3": 160, "inceptionresnetv2": 160}.get(name, 96)
    built = build_backbone(name, weights="imagenet", image_size=side, pooling="avg", random=0)
    export_keras(built.model, tmp_path / "model.xml")
    require_mean(converted(tmp_path / "model.xml", built.width, side), photos)


def tokens_graph(graph: Path, pooling: str, *, prefix: int = 1) -> tuple[int, ...]:
    """A network of 4 x 4 patches of 8 pixels, each projected to 6 numbers, behind so many tokens of its own."""
    ov = import_openvino()
    ops, random = ov.opset13, np.random.default_rng(0)
    given = ops.parameter([-1, 3, 32, 32], np.float32, name="images")
    kernel = random.normal(size=(6, 3, 8, 8)).astype(np.float32)
    patches = ops.convolution(given, kernel, [8, 8], [0, 0], [0, 0], [1, 1])
    flat = ops.transpose(ops.reshape(patches, [0, 6, 16], special_zero=True), [0, 2, 1])
    first = ops.slice(ops.relu(flat), [0], [prefix], [1], [1])
    model = ov.Model([ops.concat([first, flat], 1)], [given], "tokens")
    steps = Preprocess(resize="squash", size=32, rescale=1 / 255)
    return write(Network.of(model, "tokens"), graph, preprocess=steps, pooling=pooling, pixels="uint8", label="tokens")


@pytest.mark.parametrize(("pooling", "start"), [("mean", 0), ("cls+mean", 6)])
def test_patches_are_the_positions_of_tokens(pooling: str, start: int, tmp_path: Path, photos: list[np.ndarray]):
    (width,) = tokens_graph(tmp_path / "model.xml", pooling)
    backbone = converted(tmp_path / "model.xml", width, 32, pooling)
    grid = with_maps(backbone)[1]
    assert (grid.height, grid.width, grid.depth, grid.start) == (4, 4, 6, start)
    require_mean(backbone, photos)


def test_the_class_token_alone_is_no_mean(tmp_path: Path):
    (width,) = tokens_graph(tmp_path / "model.xml", "cls")
    with pytest.raises(BackboneError, match=r"^the rows of resnet50 by the pooling cls are not the mean of a feature"):
        with_maps(converted(tmp_path / "model.xml", width, 32, "cls"))


@pytest.mark.slow
def test_tokens_of_a_folder_of_transformers(tmp_path: Path, photos: list[np.ndarray]):
    pytest.importorskip("keras_hub")
    folder = write_dinov2(tmp_path / "dino")
    for pooling, start in (("cls+mean", WIDTH), ("mean", 0)):
        backbone = load_backbone(str(folder), precision="float32", engine="openvino", pooling=pooling)
        grid = with_maps(backbone)[1]
        assert (grid.height, grid.width, grid.start) == (SIDE // PATCH, SIDE // PATCH, start)
        require_mean(backbone, photos)


@pytest.mark.slow
def test_a_quantised_graph_has_its_map(tiny_file: Path, tmp_path: Path, photos: list[np.ndarray]):
    pytest.importorskip("nncf")
    data = write_folder(tmp_path / "photos", {"cats": 6, "dogs": 6})
    run_extraction(data, str(tiny_file), precision="int8", out=tmp_path / "f.h5")
    with FeatureFile(tmp_path / "f.h5") as file:
        require_mean(backbone_of_file(file), photos)


@pytest.mark.parametrize("pooling", ["max", "flatten"])
def test_other_poolings_are_refused(tiny_file: Path, pooling: str):
    backbone = load_backbone(str(tiny_file), precision="float32", engine="openvino", pooling=pooling)
    with pytest.raises(BackboneError) as refused:
        with_maps(backbone)
    assert str(refused.value) == (
        f"the rows of tiny by the pooling {pooling} are not the mean of a feature map over its positions."
    )


def test_a_network_with_layers_behind_its_pooling_is_refused_by_name(tmp_path: Path):
    from onepass.extract import import_keras

    keras = import_keras()
    layers = keras.layers
    shape = keras.Input((32, 32, 3))
    means = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(shape))
    keras.Model(shape, layers.Dense(5)(means)).save(tmp_path / "dense.keras")
    keras.Model(shape, means).save(tmp_path / "bare.keras")
    dense, bare = (load_backbone(str(tmp_path / f"{name}.keras"), precision="float32") for name in ("dense", "bare"))
    with pytest.raises(BackboneError, match="the rows of dense by the pooling avg are not the mean"):
        with_maps(dense)
    assert with_maps(bare)[1].depth == 4


def test_another_engine_keeps_no_map(tiny_file: Path):
    backbone = load_backbone(str(tiny_file), precision="float32", engine="tensorflow")
    with pytest.raises(
        BackboneError, match=r"^tiny is run by tensorflow, which keeps no feature map; leave engine out"
    ):
        with_maps(backbone)
