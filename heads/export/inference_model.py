"""Preprocessing, backbone and head as one Keras model; to be used within `plain_keras()`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract import KerasLayer, KerasModel, KerasModule, Tensor, TrainableBackbone, export_keras, import_keras
from onepass.features import Spec
from onepass.features.errors import OptionError, opt
from onepass.features.tables import Record
from onepass.heads.finetune.joined import Joined, as_softmax, last_layer
from onepass.heads.inference.keras_layers import head_layers
from onepass.heads.inference.kernel_machine import KernelMachine
from onepass.heads.inference.neighbour_table import NeighbourTable
from onepass.heads.inference.network import EACH, DenseNetwork, Network


@dataclass(frozen=True, eq=False)
class WholeModel:
    """What is exported.

    Attributes:
        keras: `keras.Model`, (b, s, s, 3) pixels -> (b, k) probabilities.
        resizer: Of TensorFlow: (b, h, w, 3) uint8 -> (b, s, s, 3) pixels; the spec's resize rule.
        spec: Of the rows inside.
        class_names: k names, in the order of the probabilities.
        facts: What Keras's formats keep: all that `predict` needs.
        gives: What other formats call the output: probabilities or numbers.
        thresholds: Of labels: k probabilities from which on each is named; else none.
    """

    keras: KerasModel
    resizer: Callable[[Tensor], Tensor]
    spec: Spec
    class_names: tuple[str, ...]
    facts: Record
    gives: str
    thresholds: list[float]

    @property
    def metadata(self) -> dict[str, str]:
        """What the other formats keep."""
        return {
            "class_names": json.dumps(self.class_names),
            **({"thresholds": json.dumps(self.thresholds)} if self.thresholds else {}),
            "spec": self.spec.to_json(),
            "decode": self.spec.decode,
            "resize": self.spec.resize,
            "image_size": str(self.spec.image_size),
            "licence": self.spec.licence,
        }

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """What the model gives here: (b, s, s, 3) pixels -> (b, k)."""
        return np.asarray(self.keras.predict_on_batch(pixels))

    def write_openvino(self, path: Path) -> None:
        """Writes the OpenVINO graph, (b, s, s, 3) pixels -> (b, k) probabilities, in float32."""
        export_keras(self.keras, path)

    def onnx(self, opset: int) -> Any:
        """`onnx.ModelProto`, (b, h, w, 3) uint8 images -> (b, k) probabilities.

        Args:
            opset: Version of the operators.
        """
        return onnx_of(
            lambda images: self.keras(self.resizer(images), training=False), IMAGES, "images", self.gives, opset
        )


IMAGES = ((None, None, None, 3), "uint8")
"""Shape and dtype of images of any size."""


def onnx_of(
    function: Callable[[Tensor], Tensor], asked: tuple[tuple[int | None, ...], str], takes: str, gives: str, opset: int
) -> Any:
    """A function of TensorFlow as `onnx.ModelProto`.

    Args:
        function: Of one tensor.
        asked: Shape, with None for what varies, and dtype of what it takes.
        takes, gives: Names of the input and the output.
        opset: Version of the operators, 18 at most.
    """
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # tf2onnx's own from_function takes the constants of a Normalization layer for further inputs.
    traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(*asked, name=takes))
    frozen = convert_variables_to_constants_v2(traced)
    (first,), (last,) = frozen.inputs, frozen.outputs
    made, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[first.name],
        output_names=[last.name],
        opset=opset,
        custom_op_handlers={"Erfc": (_erfc, [])},
        tensors_to_rename={first.name: takes, last.name: gives},
    )
    return made


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001
    """Gives tf2onnx the complementary error function, which the GELU of Keras is made of: 1 - erf(x)."""
    shapes, dtypes, output = node.output_shapes, node.output_dtypes, node.output[0]
    error = graph.make_node("Erf", [node.input[0]], shapes=shapes, dtypes=dtypes)
    one = graph.make_const(f"{name}_one", np.ones((), np.float32))
    graph.remove_node(name)
    graph.make_node("Sub", [one.output[0], error.output[0]], outputs=[output], name=name, shapes=shapes, dtypes=dtypes)


def with_head(backbone: TrainableBackbone, head: Network, *, of_layers: bool = False) -> KerasModel:
    """`keras.Model`: (b, s, s, 3) pixels -> (b, k) probabilities.

    Args:
        backbone: The network of the head's rows.
        head: Of any form.
        of_layers: Of layers alone, as the legacy .h5 format needs them.

    Raises:
        OptionError: No layers of that format compute the head.
    """
    if isinstance(head, DenseNetwork):
        return Joined.of(backbone, head).probabilities(of_layers=of_layers, output=EACH[head.output])
    keras = import_keras()
    model = backbone.of_layers() if of_layers else backbone.model
    pixels = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="pixels")
    scores = _scores(keras, head, model(pixels), of_layers=of_layers)
    return keras.Model(pixels, last_layer(keras, EACH[head.output])(scores), name="classifier")


def head_alone(head: Network) -> KerasModel:
    """`keras.Model`: (b, d) rows -> (b, k) probabilities, of a head of any form."""
    keras = import_keras()
    rows = keras.Input((head.width,), name="rows")
    if isinstance(head, DenseNetwork):
        scores = rows
        for layer in head_layers(keras, as_softmax(head), output="linear"):
            scores = layer(scores)
    else:
        scores = _scores(keras, head, rows)
    return keras.Model(rows, last_layer(keras, EACH[head.output])(scores), name="head")


def _scores(keras: KerasModule, head: Network, rows: Tensor, *, of_layers: bool = False) -> Tensor:
    """What a head without dense layers alone says of rows, before the softmax."""
    variance = np.square(head.scale, dtype=np.float64)
    rows = keras.layers.Normalization(mean=head.mean, variance=variance, name="standardise")(rows)
    if isinstance(head, KernelMachine):
        return _kernel_scores(keras, head, rows)
    if isinstance(head, NeighbourTable) and not of_layers:
        return _vote_scores(keras, head, rows)
    raise OptionError(
        f"the legacy .h5 format has no layer that finds nearest neighbours. Export the knn head with "
        f"{opt.to('keras')}, savedmodel, onnx, openvino or tflite, or train a logreg, svm or mlp head."
    )


def _kernel_scores(keras: KerasModule, head: KernelMachine, rows: Tensor) -> Tensor:
    """exp(-gamma |x - s|^2) @ coefficients + bias, by |x - s|^2 = |x|^2 - 2 x s + |s|^2."""
    gamma, layers = head.gamma, keras.layers
    lengths = np.square(head.support, dtype=np.float64).sum(axis=1)
    products = _dense(keras, 2 * gamma * head.support.T.astype(np.float64), -gamma * lengths, "supports")(rows)
    own = _dense(keras, np.full((head.width, 1), -gamma), np.zeros(1), "length")(layers.Multiply()([rows, rows]))
    similar = layers.Activation("exponential", name="similarities")(layers.Add()([products, own]))
    return _dense(keras, head.coefficients, head.bias, "scores")(similar)


def _vote_scores(keras: KerasModule, head: NeighbourTable, rows: Tensor) -> Tensor:
    """See `vote_scores`, `vote_odds`, `mean_votes`; all rows that are as near as the last neighbour vote."""
    ops, scores = keras.ops, keras.layers.Activation("linear", name="scores")  # a layer, where models can be cut
    directions = keras.layers.UnitNormalization(axis=-1)(rows)
    cosines = _dense(keras, head.memory.T, np.zeros(len(head.memory)), "cosines")(directions)
    nearest = ops.top_k(cosines, head.neighbours)[0]
    weights = ops.exp((cosines - nearest[:, :1]) / head.decay)
    weights = weights * ops.cast(cosines >= nearest[:, -1:], "float32")
    if head.output != "softmax":
        k = head.classes
        sums = _dense(keras, head.votes, np.zeros(2 * k), "votes")(weights)
        values, total = sums[:, :k], sums[:, k:]
        if head.output == "linear":
            return scores(values / total)
        factors, shifts = head.odds()
        return scores(ops.log((values + 0.5) / (total - values + 0.5)) * factors + shifts)
    votes = _dense(keras, head.votes, np.full(head.classes, 1 / head.classes), "votes")(weights)
    return scores(ops.log(votes / ops.sum(votes, axis=-1, keepdims=True)) * head.inverse_temperature)


def _dense(keras: KerasModule, kernel: np.ndarray, bias: np.ndarray, name: str) -> KerasLayer:
    layer = keras.layers.Dense(kernel.shape[1], name=name)
    layer.build((None, len(kernel)))
    layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return layer
