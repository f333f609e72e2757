"""The feature map behind rows that are means over its positions, cut out of the graph that computes the rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.engines import OpenVINOEngine
from onepass.extract.frameworks import import_openvino
from onepass.features.errors import BackboneError, opt

_PASSED = ("Convert", "Reshape", "Squeeze", "Unsqueeze")
"""What may stand between a mean and the row it becomes: no value changes there."""


@dataclass(frozen=True)
class MapGrid:
    """The positions that rows are means over.

    Attributes:
        height, width: How many; each stands for an equal part of the square that the network sees.
        depth: Length m of the vector at each.
        start: Column of the row at which their mean begins; what stands before and behind it is no mean.
    """

    height: int
    width: int
    depth: int
    start: int

    @property
    def columns(self) -> slice:
        """Of the row: the mean over all positions."""
        return slice(self.start, self.start + self.depth)

    def apart(self, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the engine of `with_maps` gives for one image -> its row, (d,), and its map, (h, w, m)."""
        cells = self.height * self.width * self.depth
        return joined[:-cells], joined[-cells:].reshape(self.height, self.width, self.depth)


def with_maps(backbone: Backbone) -> tuple[Backbone, MapGrid]:
    """A backbone that gives feature maps behind its rows, from the same pass; `MapGrid.apart` takes them apart.

    The graph is that of the rows, calibration and precision included; the map is what its mean is taken of, layout
    (h, w, m) whatever that of the network.

    Raises:
        BackboneError: OpenVINO does not run it, or its rows are no means over positions.
    """
    converted, spec = backbone.converted, backbone.spec
    if converted is None:
        raise BackboneError(
            f"{spec.backbone} is run by {backbone.engine_name}, which keeps no feature map; leave {opt.engine} out."
        )
    model = import_openvino().Core().read_model(converted.graph)
    model.reshape([1, spec.image_size, spec.image_size, 3])
    grid = _found(model, spec.backbone, spec.pooling)[0]

    def make() -> OpenVINOEngine:
        def change(model: Any) -> Any:
            return _joined(model, _found(model, spec.backbone, spec.pooling)[1])

        return OpenVINOEngine(converted.graph, image_size=spec.image_size, precision=spec.precision, change=change)

    return backbone.through(make), grid


def feature_maps(
    backbone: Backbone, images: Sequence[str | Path | np.ndarray], *, workers: int | None = None
) -> np.ndarray:
    """Feature maps of images, whose mean over the positions is their row, or the part of it that is a mean.

    Args:
        backbone: From `load_backbone`, run by OpenVINO, whose rows are means: of a feature map by `avg`, of tokens by
            `mean` or `cls+mean`.
        images: Paths, or (h, w, 3) uint8 RGB arrays of any size.
        workers: Decoding threads.

    Returns:
        (n, h, w, m) float32, m numbers at each of h x w positions.

    Raises:
        BackboneError: Rows are no means over positions.
        UnreadableImageError: An image cannot be read.

    >>> from onepass import load_backbone
    >>> backbone = load_backbone("mine.keras", precision="float32", engine="openvino")
    >>> maps = feature_maps(backbone, ["new.png"])
    >>> maps.shape, bool(np.allclose(maps.mean(axis=(1, 2)), backbone.rows_of(["new.png"]), atol=1e-5))
    ((1, 16, 16, 8), True)
    """
    mapped, grid = with_maps(backbone)
    found = np.empty((len(images), grid.height, grid.width, grid.depth), np.float32)
    for position, joined in mapped.stream_of(images, workers=workers):
        found[position] = grid.apart(joined)[1]
    return found


def _found(model: Any, name: str, pooling: str) -> tuple[MapGrid, Any]:
    """The grid of a graph of rows, and the port that gives its map."""
    start, means = 0, []
    for part in _parts(_behind(model.output(0).get_node())):
        if part.get_type_name() == "ReduceMean" and (grid := _grid(part, start)):
            means.append((grid, part))
        start += _width(part)
    if len(means) != 1 or start != int(model.output(0).get_shape()[-1]):
        raise BackboneError(
            f"the rows of {name} by the pooling {pooling} are not the mean of a feature map over its positions.",
            backbone=name,
        )
    return means[0]


def _behind(node: Any) -> Any:
    """The node whose values a node passes on."""
    node = node.input_value(0).get_node()
    return _behind(node) if node.get_type_name() in _PASSED else node


def _parts(node: Any) -> list[Any]:
    """What a row is put together of, in its order; itself, if it is one thing."""
    if node.get_type_name() != "Concat":
        return [node]
    given = [port.get_node() for port in (node.input_value(i) for i in range(node.get_input_size()))]
    return [_behind(part) if part.get_type_name() in _PASSED else part for part in given]


def _width(node: Any) -> int:
    return int(np.prod(node.output(0).get_shape()))


def _grid(mean: Any, start: int) -> MapGrid | None:
    """The positions that a mean of one image is taken over; None if they are none of a map or of a square of tokens."""
    shape, axes = tuple(mean.input_value(0).get_shape()), _axes(mean)
    depths = [axis for axis in range(1, len(shape)) if axis not in axes]
    if 0 in axes or len(depths) != 1 or len(axes) not in (1, 2):
        return None
    sides = [int(shape[axis]) for axis in axes]
    if len(sides) == 1:
        sides = [math.isqrt(sides[0])] * 2
    if math.prod(sides) != math.prod(shape[axis] for axis in axes):
        return None
    return MapGrid(sides[0], sides[1], int(shape[depths[0]]), start)


def _axes(mean: Any) -> list[int]:
    port = mean.input_value(0)
    given = mean.input_value(1).get_node().get_data().reshape(-1).tolist()
    return sorted(int(axis) % len(port.get_shape()) for axis in given)


def _joined(model: Any, mean: Any) -> Any:
    """A graph of rows as one of rows with the map behind them, (1, d + h w m)."""
    ov = import_openvino()
    ops, port, axes = ov.opset13, mean.input_value(0), _axes(mean)
    (depth,) = (axis for axis in range(1, len(port.get_shape())) if axis not in axes)
    ordered = ops.transpose(port, [0, *axes, depth])
    flat = ops.convert(ops.reshape(ordered, [1, -1], special_zero=False), "f32")
    rows = model.output(0).get_node().input_value(0)
    return ov.Model([ops.concat([rows, flat], 1).output(0)], model.get_parameters(), "maps")
