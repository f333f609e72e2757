"""Graphs that OpenVINO runs, made into backbones: pixels in, preprocessing and pooling inside, rows out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from onepass.extract.backbones.openvino_cache import keep_stem_precise
from onepass.extract.backbones.provider import MAP_POOLINGS
from onepass.extract.frameworks import import_openvino
from onepass.features.errors import BackboneError, opt
from onepass.features.preprocess import Preprocess


@dataclass(frozen=True, eq=False)
class Network:
    """A graph that takes one RGB image and gives one output.

    Attributes:
        model: `openvino.Model` with one input and one output.
        layout: NCHW or NHWC.
        side: Pixels of the images that it takes; None for any.
    """

    model: Any
    layout: str
    side: int | None

    @classmethod
    def of(cls, model: Any, name: str) -> Self:
        """Looks at a model of one output.

        Raises:
            BackboneError: It does not take one square RGB image, or gives something else than features.
        """
        inputs = model.inputs
        shape = inputs[0].get_partial_shape() if len(inputs) == 1 else None
        sides = [None if dim.is_dynamic else dim.get_length() for dim in shape] if shape and len(shape) == 4 else []
        layouts = [layout for layout, axis in (("NCHW", 1), ("NHWC", 3)) if sides and sides[axis] == 3]
        square = {sides[axis] for axis in range(1, 4) if f"{layouts[0]}"[axis] in "HW"} if len(layouts) == 1 else set()
        if len(square) != 1:
            told = ", ".join(f"{port.get_any_name()} {port.get_partial_shape()}" for port in inputs)
            raise BackboneError(
                f"{name} takes {told or 'nothing'}; needed: one square RGB image, [?,3,s,s] or [?,s,s,3]."
            )
        found = cls(model, layouts[0], square.pop())
        if found.rank not in (2, 3, 4):
            raise BackboneError(
                f"{name} gives {model.output(0).get_partial_shape()}; needed: features, [?,d], tokens, [?,t,d], or a "
                "feature map of rank 4."
            )
        return found

    @property
    def rank(self) -> int:
        shape = self.model.output(0).get_partial_shape()
        return 0 if shape.rank.is_dynamic else len(shape)

    @property
    def poolings(self) -> tuple[str, ...]:
        """How its output can become rows; the first is the default."""
        return {2: ("pooled",), 3: ("cls+mean", "cls", "mean"), 4: MAP_POOLINGS}[self.rank]


def write_graph(
    network: Network, graph: Path, *, preprocess: Preprocess, pooling: str, pixels: str, label: str
) -> tuple[int, ...]:
    """Puts preprocessing before a network and pooling behind it, and writes it for OpenVINO.

    Args:
        network: Changed on the way.
        graph: Path that ends in `.xml`.
        preprocess: What happens to pixels; all but the resizing.
        pooling: One of the network's, or several with commas.
        pixels: uint8 or float32, the dtype of the input.
        label: The network's name in messages.

    Returns:
        Width of the rows of each pooling.

    Raises:
        BackboneError: It does not take images of this size, or its output is not known before it runs.
    """
    ov, model, side = import_openvino(), network.model, preprocess.size
    shape = [1, 3, side, side] if network.layout == "NCHW" else [1, side, side, 3]
    try:
        model.reshape({model.input(0): shape})
        model = _with_pixels(ov, model, network.layout, preprocess, pixels)
        parts = [_pooled(ov, model.output(0), one, network.layout, label) for one in pooling.split(",")]
        widths = tuple(int(part.get_shape()[1]) for part in parts)
        rows = parts[0] if len(parts) == 1 else ov.opset13.concat(parts, 1).output(0)
        made = ov.Model([rows], model.get_parameters(), "backbone")
        ov.save_model(made, graph, compress_to_fp16=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BackboneError(f"{label} cannot be run on images of {side} px: {reason}") from None
    keep_stem_precise(graph)
    return widths


def _with_pixels(ov: Any, model: Any, layout: str, preprocess: Preprocess, pixels: str) -> Any:
    """(x * rescale - mean) / std as constants of float32, before whatever type the network computes in."""
    from openvino import preprocess as steps

    side = preprocess.size
    wrapped = steps.PrePostProcessor(model)
    given = wrapped.input()
    given.tensor().set_element_type(ov.Type(pixels)).set_layout(ov.Layout("NHWC")).set_shape([1, side, side, 3])
    given.model().set_layout(ov.Layout(layout))
    chain, wanted = given.preprocess(), model.input(0).get_element_type()
    if preprocess.channels == "BGR":
        chain.reverse_channels()
    chain.convert_element_type(ov.Type.f32)
    if preprocess.rescale != 1:
        chain.scale([1 / preprocess.rescale] * 3)
    chain.mean(list(preprocess.mean))
    chain.scale(list(preprocess.std))
    chain.convert_element_type(wanted)
    wrapped.output().tensor().set_element_type(ov.Type.f32)
    return wrapped.build()


def _pooled(ov: Any, port: Any, pooling: str, layout: str, label: str) -> Any:
    """The output as rows, (1, d)."""
    ops = ov.opset13
    source = port.get_node().input_value(0)
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise BackboneError(f"{label} gives {shape} for one image; needed: numbers that are known beforehand.")
    if pooling == "pooled":
        return source
    if len(shape) == 3:
        return _of_tokens(ops, source, int(shape[1].get_length()), pooling, label)
    layout = map_layout([dim.get_length() for dim in shape], layout)
    if pooling == "flatten":
        ordered = ops.transpose(source, [0, 2, 3, 1]) if layout == "NCHW" else source
        return ops.reshape(ordered, [0, -1], special_zero=True).output(0)
    reduce = {"avg": ops.reduce_mean, "max": ops.reduce_max}[pooling]
    return reduce(source, [2, 3] if layout == "NCHW" else [1, 2], keep_dims=False).output(0)


def pooled_rows(outputs: np.ndarray, pooling: str, layout: str) -> np.ndarray:
    """What a network gives for b images, as rows (b, d), by numpy: what the graph is compared with."""
    if "," in pooling:
        return np.concatenate([pooled_rows(outputs, one, layout) for one in pooling.split(",")], axis=1)
    if pooling == "pooled":
        return outputs
    if outputs.ndim == 3:
        prefix = prefix_tokens(outputs.shape[1], pooling, "the network")
        parts = {"cls": outputs[:, 0], "mean": outputs[:, prefix:].mean(axis=1)}
        return np.concatenate([parts[name] for name in pooling.split("+")], axis=1)
    maps = outputs.transpose(0, 2, 3, 1) if map_layout(outputs.shape, layout) == "NCHW" else outputs
    if pooling == "flatten":
        return maps.reshape(len(maps), -1)
    return np.asarray(maps.mean(axis=(1, 2)) if pooling == "avg" else maps.max(axis=(1, 2)))


def map_layout(shape: Sequence[int], given: str) -> str:
    """The layout of a feature map, which need not be that of the images: converters turn one and not the other.

    Args:
        shape: Of the map of a square image: the two sides are equal.
        given: Layout of the images, which decides where the channels are as many as the pixels of a side.

    >>> map_layout((1, 7, 7, 256), "NCHW"), map_layout((1, 7, 7, 7), "NCHW")
    ('NHWC', 'NCHW')
    """
    _, first, middle, last = shape
    if (first == middle) == (middle == last):
        return given
    return "NHWC" if first == middle else "NCHW"


def prefix_tokens(tokens: int, pooling: str, label: str) -> int:
    """Tokens before those of the patches, which form a square: class and register tokens.

    A mean, if a user asks for it by itself, can be had of a square alone, as SigLIP gives it.

    Raises:
        BackboneError: There is no class token before a square.

    >>> prefix_tokens(257, "cls", "dinov2"), prefix_tokens(201, "mean", "dinov3"), prefix_tokens(196, "mean", "siglip")
    (1, 5, 0)
    """
    prefix = tokens - math.isqrt(tokens) ** 2
    if 1 <= prefix <= 16 or (prefix == 0 and pooling == "mean"):
        return prefix
    found = f"{label} gives {tokens} tokens for an image"
    if prefix == 0:
        raise BackboneError(
            f"{found}, which are a square of patches without a class token; needed: one before them, or "
            f"{opt.pooling('mean')}, the mean of the patches."
        )
    raise BackboneError(f"{found}; needed: a class token, up to 15 others, and a square of patches.")


def _of_tokens(ops: Any, source: Any, tokens: int, pooling: str, label: str) -> Any:
    prefix = prefix_tokens(tokens, pooling, label)
    parts = []
    if "cls" in pooling:
        parts.append(ops.gather(source, 0, 1))
    if "mean" in pooling:
        patches = ops.slice(source, [prefix], [tokens], [1], [1])
        parts.append(ops.reduce_mean(patches, [1], keep_dims=False))
    return (parts[0] if len(parts) == 1 else ops.concat(parts, 1)).output(0)
