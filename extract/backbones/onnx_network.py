"""Networks of ONNX files as parts of a larger ONNX model: what comes before them and behind, any number of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.graphs import Network, map_layout, pooled_rows, prefix_tokens
from onepass.extract.frameworks import Tensor
from onepass.features.errors import BackboneError
from onepass.features.preprocess import Preprocess

_OLDEST = 13
"""Version of the operators below which a network is brought up to date: older ones cannot resize images beside it."""


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """A network that takes pixels as `before` makes them and gives what `behind` pools.

    Attributes:
        proto: `onnx.ModelProto` with one input and one output, and its weights inside.
        layout: Of the images, NCHW or NHWC.
        shape: Of the output for one image, without the batch.
        dtypes: numpy's names of what it takes and gives.
        preprocess: What happens to an image before it.
        pooling: How its output becomes rows.
        label: Its name in messages.
        many: Whether it takes several images at once, and gives each what it gives it alone.
    """

    proto: Any
    layout: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    preprocess: Preprocess
    pooling: str
    label: str
    many: bool

    @classmethod
    def read(cls, path: Path, network: Network, *, preprocess: Preprocess, pooling: str, label: str) -> "OnnxNetwork":
        """Reads a network, down to one of its outputs or of the tensors inside.

        Args:
            path: The file.
            network: The same as OpenVINO reads it; changed on the way.
            preprocess, pooling, label: See the attributes.

        Raises:
            BackboneError: It cannot be joined to others, or does not take images of this size.
        """
        import onnx

        model, side = network.model, preprocess.size
        one = [1, 3, side, side] if network.layout == "NCHW" else [1, side, side, 3]
        output = model.output(0)
        taken, given = (str(np.dtype(port.get_element_type().to_dtype())) for port in (model.input(0), output))
        try:
            model.reshape({model.input(0): one})
            proto = _of_today(onnx, onnx.load(path))
            _cut(proto, output.get_names())
            many = _takes_many(proto, one, taken)
        except Exception as error:  # of OpenVINO, of onnx, of its converter of versions, and of protobuf beyond 2 GB
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
            raise BackboneError(f"{label} cannot become part of an ONNX model: {reason}") from None
        made = tuple(int(length) for length in output.get_shape())
        for value, shape, dtype in ((proto.graph.input[0], one, taken), (proto.graph.output[0], list(made), given)):
            value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            _declare(value, shape, many=many)
        return cls(proto, network.layout, made[1:], (taken, given), preprocess, pooling, label, many)

    @property
    def opset(self) -> int:
        """Version of the operators of ONNX itself."""
        return next(int(one.version) for one in self.proto.opset_import if one.domain in ("", "ai.onnx"))

    def before(self, pixels: Tensor) -> Tensor:
        """(b, s, s, 3) RGB pixels of 0..255 -> what the network takes, in TensorFlow."""
        import tensorflow as tf

        known = self.preprocess
        values = tf.cast(pixels, tf.float32)[..., :: -1 if known.channels == "BGR" else 1]
        if known.rescale != 1:
            values /= np.float32(1 / known.rescale)
        values = (values - np.array(known.mean, np.float32)) / np.array(known.std, np.float32)
        ordered = tf.transpose(values, (0, 3, 1, 2)) if self.layout == "NCHW" else values
        return tf.cast(ordered, self.dtypes[0])

    def behind(self, outputs: Tensor) -> Tensor:
        """What the network gives -> (b, d) rows, in TensorFlow."""
        import tensorflow as tf

        values = tf.cast(outputs, tf.float32)
        if self.pooling == "pooled":
            return values
        if len(self.shape) == 2:
            prefix = prefix_tokens(self.shape[0], self.pooling, self.label)
            parts = [values[:, 0]] if "cls" in self.pooling else []
            if "mean" in self.pooling:
                parts.append(tf.reduce_mean(values[:, prefix:], axis=1))
            return tf.concat(parts, axis=1)
        if map_layout((1, *self.shape), self.layout) == "NCHW":
            values = tf.transpose(values, (0, 2, 3, 1))
        if self.pooling == "flatten":
            return tf.reshape(values, (-1, int(np.prod(self.shape))))
        return {"avg": tf.reduce_mean, "max": tf.reduce_max}[self.pooling](values, axis=(1, 2))

    def rows(self, seen: np.ndarray) -> np.ndarray:
        """Rows of (n, s, s, 3) values, which the network sees, by ONNX Runtime, one image at a time, and numpy."""
        import onnxruntime

        session = onnxruntime.InferenceSession(self.proto.SerializeToString(), providers=["CPUExecutionProvider"])
        values = (seen.transpose(0, 3, 1, 2) if self.layout == "NCHW" else seen).astype(self.dtypes[0])
        name = session.get_inputs()[0].name
        found = np.concatenate([session.run(None, {name: one[None]})[0] for one in values]).astype(np.float32)
        return pooled_rows(found, self.pooling, self.layout)


def joined_onnx(first: Any, network: Any, last: Any) -> Any:
    """Three ONNX models in a row as one; each gives one output, and the next takes one input.

    Args:
        first, network, last: `onnx.ModelProto`, of one version of the operators. The input of the first and the output
            of the last keep their names.
    """
    import onnx
    from onnx.compose import add_prefix

    network = add_prefix(network, "network/")
    last = add_prefix(last, "head/", rename_outputs=False)
    made = onnx.ModelProto()
    made.ir_version = max(one.ir_version for one in (first, network, last))
    versions = {entry.domain: entry.version for one in (first, last, network) for entry in one.opset_import}
    made.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    graph = made.graph
    graph.name = "classifier"
    graph.input.extend(first.graph.input)
    graph.output.extend(last.graph.output)
    previous = ""
    for part in (first, network, last):
        taken = _inputs(part)[0].name
        if previous:
            graph.node.add(op_type="Identity", input=[previous], output=[taken], name=f"{taken}/joined")
        graph.node.extend(part.graph.node)
        graph.initializer.extend(part.graph.initializer)
        graph.sparse_initializer.extend(part.graph.sparse_initializer)
        made.functions.extend(part.functions)
        previous = part.graph.output[0].name
    return made


def onnx_at(proto: Any, opset: int) -> Any:
    """A model with the operators of a later version, as ONNX's own converter makes it."""
    import onnx

    found = next(int(one.version) for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    return proto if found >= opset else onnx.version_converter.convert_version(proto, opset)


def _of_today(onnx: Any, proto: Any) -> Any:
    version = next((int(one.version) for one in proto.opset_import if one.domain in ("", "ai.onnx")), 1)
    return proto if version >= _OLDEST else onnx.version_converter.convert_version(proto, _OLDEST)


def _inputs(proto: Any) -> list[Any]:
    """Inputs that are no weights, which older files list among them."""
    weights = {one.name for one in proto.graph.initializer}
    return [one for one in proto.graph.input if one.name not in weights]


def _cut(proto: Any, names: set[str]) -> None:
    """Leaves of a graph what one of its tensors depends on, and makes that its only output.

    Args:
        proto: Changed.
        names: That the tensor may have; OpenVINO knows it by some that are not in the file.
    """
    graph = proto.graph
    known = {name for node in graph.node for name in node.output} & names
    if not known:
        raise ValueError(f"it has no output {' or '.join(sorted(names))}")
    output = sorted(known)[0]
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(_read_by([node]))
    (images,) = _inputs(proto)
    kept.reverse()
    weights = [one for one in graph.initializer if one.name in needed]
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    values = [type(one).FromString(one.SerializeToString()) for one in weights]
    taken = type(images).FromString(images.SerializeToString())
    for field in ("node", "initializer", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(copies)
    graph.initializer.extend(values)
    graph.input.append(taken)
    graph.output.add(name=output)


def _read_by(nodes: Iterable[Any]) -> Iterator[str]:
    """Names of what nodes read, those of the branches inside included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _read_by(graph.node)
                yield from (one.name for one in graph.output)


def _declare(value: Any, shape: list[int], *, many: bool) -> None:
    """Writes the shape of an input or output down."""
    dims = value.type.tensor_type.shape
    dims.ClearField("dim")
    for place, length in enumerate(shape):
        if place == 0 and many:
            dims.dim.add(dim_param="batch")
        else:
            dims.dim.add(dim_value=int(length))


def _takes_many(proto: Any, one: list[int], dtype: str) -> bool:
    """Whether two images at once get what each gets alone, by running it."""
    import onnxruntime

    trial = type(proto).FromString(proto.SerializeToString())
    taken = trial.graph.input[0]
    _declare(taken, one, many=True)
    images = np.random.default_rng(0).normal(size=(2, *one[1:])).astype(dtype)
    try:
        session = onnxruntime.InferenceSession(trial.SerializeToString(), providers=["CPUExecutionProvider"])
        both, *alone = (session.run(None, {taken.name: some})[0] for some in (images, images[:1], images[1:]))
    except Exception:  # onnxruntime's own kinds have no common base
        return False
    apart = np.concatenate(alone)
    return both.shape == apart.shape and np.allclose(both, apart, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(apart).max()))
