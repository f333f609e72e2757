"""A head behind a backbone that is a graph, as one model; to be used within `plain_keras()`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract import GraphBackbone, export_keras, import_openvino, joined_onnx, onnx_at
from onepass.heads.export.inference_model import IMAGES, WholeModel, onnx_of

_NEWEST = 18
"""Version of ONNX's operators up to which tf2onnx writes."""


@dataclass(frozen=True, eq=False)
class GraphModel(WholeModel):
    """What is exported, where only OpenVINO and ONNX can hold it; of `WholeModel`, `keras` is the head alone.

    Attributes:
        backbone: Pixels -> rows.
    """

    backbone: GraphBackbone

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        return np.asarray(self.keras.predict_on_batch(self.backbone.rows(pixels)))

    def write_openvino(self, path: Path) -> None:
        ov, plain = import_openvino(), path.with_name("head.xml")
        export_keras(self.keras, plain)
        rows, head = self.backbone.openvino(), ov.Core().read_model(plain)
        (given,) = rows.output(0).get_node().input_values()
        for reader in head.input(0).get_target_inputs():
            reader.replace_source_output(given)
        ov.save_model(ov.Model(head.get_results(), rows.get_parameters(), "classifier"), path, compress_to_fp16=False)
        del head, rows  # which have mapped their files
        for part in (plain, plain.with_suffix(".bin")):
            part.unlink()

    def onnx(self, opset: int) -> Any:
        network = self.backbone.onnx()
        ours = min(opset, network.opset, _NEWEST)
        first = onnx_of(lambda images: network.before(self.resizer(images)), IMAGES, "images", "prepared", ours)
        given = ((None, *network.shape), network.dtypes[1])
        last = onnx_of(
            lambda outputs: self.keras(network.behind(outputs), training=False),
            given,
            "features",
            self.gives,
            ours,
        )
        made = joined_onnx(onnx_at(first, network.opset), network.proto, onnx_at(last, network.opset))
        if not network.many:
            made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        return made
