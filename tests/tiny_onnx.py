"""Tiny networks as ONNX files, written node by node, and what onnxruntime says of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PREPROCESS = {
    "resize": "squash-bilinear",
    "size": 32,
    "antialias": True,
    "channels": "RGB",
    "rescale": 1 / 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A network of one convolution, patches of 8 px to 6 channels, and a ReLU.

    Attributes:
        layout: NCHW or NHWC.
        side: Pixels that it takes; None for any.
        batch: Images that it takes; None for any.
        rank: Of its output: 2 pooled, 3 tokens with a class token, 4 a feature map.
        seed: Of its weights.
        opset: Version of the operators.
        map_layout: Of the feature map, where it is not that of the images.
    """

    layout: str = "NCHW"
    side: int | None = 32
    batch: int | None = None
    rank: int = 4
    seed: int = 0
    opset: int = 17
    map_layout: str | None = None

    def model(self) -> Any:
        from onnx import TensorProto, helper

        rng = np.random.default_rng(self.seed)
        kernel = (rng.normal(size=(6, 3, 8, 8)) / 8).astype(np.float32)
        bias = rng.normal(size=6).astype(np.float32)
        side, batch = self.side or "side", self.batch or "batch"
        nodes, images = [], "images"
        if self.layout == "NHWC":
            nodes.append(helper.make_node("Transpose", ["images"], ["ordered"], perm=[0, 3, 1, 2]))
            images = "ordered"
        nodes += [
            helper.make_node("Conv", [images, "kernel", "bias"], ["convolved"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Relu", ["convolved"], ["map"]),
        ]
        weights = [_tensor("kernel", kernel), _tensor("bias", bias)]
        added, shape, more = self._end(rng)
        shapes = {"NCHW": [batch, 3, side, side], "NHWC": [batch, side, side, 3]}
        graph = helper.make_graph(
            [*nodes, *added],
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shapes[self.layout])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, *shape])],
            [*weights, *more],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def _end(self, rng: np.random.Generator) -> tuple[list[Any], list[Any], list[Any]]:
        """Nodes from the map to the output, its shape without the batch, and their weights."""
        from onnx import helper

        if self.rank == 4:
            if (self.map_layout or self.layout) == "NCHW":
                return [helper.make_node("Identity", ["map"], ["features"])], [6, "h", "w"], []
            return [helper.make_node("Transpose", ["map"], ["features"], perm=[0, 2, 3, 1])], ["h", "w", 6], []
        if self.rank == 2:
            pooled = helper.make_node("GlobalAveragePool", ["map"], ["pooled"])
            return [pooled, helper.make_node("Flatten", ["pooled"], ["features"])], [6], []
        batch = self.batch or 0  # 0 copies the dimension
        nodes = [
            helper.make_node("Reshape", ["map", "flat"], ["patches_last"]),
            helper.make_node("Transpose", ["patches_last"], ["patches"], perm=[0, 2, 1]),
            helper.make_node("ReduceMean", ["patches"], ["middle"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["middle", "gain"], ["class_token"]),
            helper.make_node("Concat", ["class_token", "patches"], ["features"], axis=1),
        ]
        gain = rng.normal(size=(1, 1, 6)).astype(np.float32)
        weights = [_tensor("flat", np.array([batch, 6, -1], np.int64)), _tensor("gain", gain)]
        return nodes, ["tokens", 6], weights

    def write(self, path: Path, *, preprocess: dict[str, Any] | None = PREPROCESS) -> Path:
        """Writes it, with our preprocessing beside it."""
        import onnx

        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(self.model(), str(path))
        if preprocess is not None:
            path.with_suffix(".preprocess.json").write_text(json.dumps(preprocess))
        return path


def _tensor(name: str, values: np.ndarray) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)


def outputs(path: Path, pixels: np.ndarray, *, layout: str = "NCHW", output: str | None = None) -> np.ndarray:
    """What onnxruntime gives for (b, s, s, 3) pixels, prepared by hand as `PREPROCESS` says, one after the other."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    mean, deviation = np.array(PREPROCESS["mean"]), np.array(PREPROCESS["std"])
    values = ((pixels / 255.0 - mean) / deviation).astype(np.float32)
    if layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run([output] if output else None, {name: one[None]})[0] for one in values])


def lowest_cosine(rows: np.ndarray, others: np.ndarray) -> float:
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return float(((rows * others).sum(axis=1) / lengths).min())
