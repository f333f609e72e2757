"""Backbones that are graphs, for being joined with a head to one model of OpenVINO or ONNX."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onepass.extract.backbones.backbone import Backbone
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.load import load_backbone_for, require_same_backbone
from onepass.extract.backbones.onnx_file import read_network
from onepass.extract.backbones.onnx_network import OnnxNetwork
from onepass.extract.backbones.options import BackboneOrigin
from onepass.extract.backbones.provider import Asked, Conversion, GraphProvider
from onepass.extract.backbones.providers import provider_of
from onepass.extract.frameworks import import_openvino
from onepass.extract.pixels.decode import pixel_dtype
from onepass.features.spec import Spec


@dataclass(frozen=True, eq=False)
class GraphBackbone:
    """The graph behind rows, in float32.

    Attributes:
        spec: Of the rows it belongs to.
        source: Where it comes from.
        needed_by: Who needs it, for messages: a head's file name.
    """

    spec: Spec
    source: BackboneOrigin
    needed_by: str

    @cached_property
    def backbone(self) -> Backbone:
        """It, run by OpenVINO.

        Raises:
            BackboneError, SpecMismatchError: As `load_backbone_for`.
        """
        plain = replace(self.spec, precision="float32", calibration="")
        return load_backbone_for(plain, source=self.source, engine="openvino", needed_by=self.needed_by)

    def rows(self, pixels: np.ndarray) -> np.ndarray:
        """(b, s, s, 3) pixels -> (b, d) float32 rows."""
        return self.backbone.rows(pixels)

    def openvino(self) -> Any:
        """`openvino.Model`, (b, s, s, 3) pixels -> (b, d) rows, of any b if the network allows it, else of one."""
        ov, converted, side = import_openvino(), self.backbone.converted, self.spec.image_size
        assert converted is not None
        model = ov.Core().read_model(converted.graph)
        if not _takes_many(ov, model, side, converted.pixels):
            return ov.Core().read_model(converted.graph)
        model.reshape([-1, side, side, 3])
        return model

    def onnx(self) -> OnnxNetwork:
        """The network for a larger ONNX model.

        Raises:
            BackboneError, SpecMismatchError: It cannot be had, or is another one now.
        """
        name = BackboneName.parse(self.source.name)
        provider, spec = provider_of(name), self.spec
        assert isinstance(provider, GraphProvider)
        assert spec.preprocess is not None
        facts = provider.describe(Asked(name, self.source.weights, spec.image_size, spec.preprocess))
        made = facts.preprocess_for(spec.resize, spec.image_size)
        wanted = Conversion(name, self.source.weights, facts, made, spec.pooling, pixel_dtype(spec.resize))
        found = provider.onnx(wanted)
        require_same_backbone(replace(spec, weights_hash=found.digest, preprocess=made), spec, self.needed_by)
        network = read_network(BackboneName(str(found.path), found.output))
        pooling = "pooled" if found.pooled else spec.pooling
        return OnnxNetwork.read(found.path, network, preprocess=made, pooling=pooling, label=facts.label)


def graph_formats(source: BackboneOrigin) -> tuple[str, ...]:
    """Formats that a head on a backbone can be exported to where that is a graph; none where it is a Keras network."""
    provider = provider_of(BackboneName.parse(source.name))
    if not isinstance(provider, GraphProvider):
        return ()
    return ("onnx", "openvino") if provider.gives_onnx else ("openvino",)


def _takes_many(ov: Any, model: Any, side: int, pixels: str) -> bool:
    """Whether two images at once get what each gets alone, by running it."""
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(pixels)
    try:
        model.reshape([-1, side, side, 3])
        run = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        both, *alone = (np.array(run(some)[0]) for some in (images, images[:1], images[1:]))
    except RuntimeError:
        return False
    apart = np.concatenate(alone)
    return both.shape == apart.shape and np.allclose(both, apart, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(apart).max()))
