"""Networks that a user has as an ONNX file, with its preprocessing beside it."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.graphs import Network, write_graph
from onepass.extract.backbones.onnx_digest import onnx_digest
from onepass.extract.backbones.onnx_network import OnnxNetwork
from onepass.extract.backbones.preprocess_files import preprocess_of, read_preprocess
from onepass.extract.backbones.provider import BackboneFacts, Conversion, GraphProvider, OnnxSource
from onepass.extract.backbones.stages import did_you_mean
from onepass.extract.frameworks import import_openvino
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.preprocess import Preprocess


class OnnxFile(GraphProvider):
    """Files that OpenVINO reads: one input of images, and an output that is named if there are several."""

    name: ClassVar[str] = "onnx"
    gives_onnx: ClassVar[bool] = True

    def check(self, name: BackboneName, weights: str) -> None:
        if weights != "imagenet":
            raise OptionError(f"{opt.weights} does not go with an ONNX file, which brings its own weights.")
        if not Path(name.network).is_file():
            raise BackboneError(f"there is no backbone file {name.network}.", path=name.network)

    def resolved(self, name: BackboneName) -> BackboneName:
        return BackboneName(str(Path(name.network).resolve()), name.layer)

    def describe(
        self,
        name: BackboneName,
        *,
        weights: str,  # noqa: ARG002
        image_size: int | None,
        preprocess: Preprocess | None,
    ) -> BackboneFacts:
        path = Path(name.network)
        origin = onnx_digest(path)
        network = read_network(name)
        own = preprocess or found_beside(path)
        side = network.side
        if side and own.size != side:
            if image_size == own.size or preprocess is None or own.rule.method == "shortest":
                raise OptionError(
                    f"{path.name} takes images of {side} px, and its preprocessing makes {own.size} px. Correct the "
                    f"one that is wrong; {opt.preprocess} names another file."
                )
            own = own.resized(own.resize, side)
        return BackboneFacts(
            provider=self.name,
            label=name.label,
            weights="own",
            origin=origin,
            preprocess=own,
            native=True,
            fixed_size=side is not None,
            poolings=network.poolings,
            licence=_licence_beside(path),
        )

    def convert(self, wanted: Conversion, graph: Path) -> tuple[str, int]:
        width = write_graph(
            read_network(wanted.name),
            graph,
            preprocess=wanted.preprocess,
            pooling=wanted.pooling,
            pixels=wanted.pixels,
            label=wanted.facts.label,
        )
        return wanted.facts.origin, width

    def onnx(self, wanted: Conversion) -> OnnxSource:
        return OnnxSource(Path(wanted.name.network), wanted.name.layer, wanted.facts.origin)

    def reference(self, wanted: Conversion, pixels: np.ndarray) -> np.ndarray | None:
        """What onnxruntime gives for pixels, as rows; None where it is not installed.

        Args:
            wanted: As for `convert`.
            pixels: (n, s, s, 3) of 0..255.
        """
        if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
            return None
        network = OnnxNetwork.read(
            Path(wanted.name.network),
            read_network(wanted.name),
            preprocess=wanted.preprocess,
            pooling=wanted.pooling,
            label=wanted.facts.label,
        )
        return network.rows(pixels)


def read_network(name: BackboneName) -> Network:
    """The graph in a file, down to the output that the name says.

    Raises:
        BackboneError: OpenVINO cannot read it, it does not take one RGB image, or the output is not known.
    """
    path = Path(name.network)
    try:
        model = import_openvino().Core().read_model(path)
    except RuntimeError as error:
        raise BackboneError(f"OpenVINO cannot read {path}: {str(error).strip().splitlines()[-1]}") from None
    return Network.of(_with_one_output(model, name), path.name)


def _with_one_output(model: Any, name: BackboneName) -> Any:
    """The model with one output: its only one, or that of a name, which may be any tensor inside."""
    path, named = Path(name.network), {port.get_any_name(): port for port in model.outputs if port.names}
    if not name.layer:
        if len(model.outputs) == 1:
            return model
        raise BackboneError(
            f"{path.name} has the outputs {', '.join(named)}; needed: the one that gives features, such as "
            f"{path}@{next(iter(named), 'NAME')}."
        )
    if name.layer in named:
        port = named[name.layer]
    else:
        tensors = {one: port for op in model.get_ordered_ops() for port in op.outputs() for one in port.names}
        if name.layer not in tensors:
            raise BackboneError(
                f"{path.name} has no output or tensor {name.layer!r}. {did_you_mean(name.layer, list(tensors))}"
                f"Its outputs are {', '.join(named)}."
            )
        port = tensors[name.layer]
    ov = import_openvino()
    source = port.get_node().input_value(0) if port.get_node().get_type_name() == "Result" else port
    return ov.Model([source], model.get_parameters(), path.stem)


def found_beside(path: Path) -> Preprocess:
    """What lies beside a model to say how it was fed; nothing is guessed.

    Raises:
        OptionError: Nothing does, or it cannot be used.
    """
    ours, theirs = path.with_suffix(".preprocess.json"), path.with_name("preprocessor_config.json")
    for candidate in (ours, theirs):
        if candidate.is_file():
            return read_preprocess(candidate)
    if "pretrained_cfg" in (facts := _config_beside(path)):
        try:
            return preprocess_of(facts)
        except ValueError as error:
            raise OptionError(f"{path.with_name('config.json')} cannot be used: {error}.") from None
    example = json.dumps(dataclasses.asdict(Preprocess(resize="squash-bilinear", size=224, rescale=1 / 255)))
    raise OptionError(
        f"{path.name} does not say how its images were prepared, and nothing is guessed. Needed: {opt.preprocess} with "
        f"a JSON file, or {ours.name}, {theirs.name} or timm's config.json beside it. Such a file holds, for example, "
        f"{example}.",
        path=path,
    )


def _licence_beside(path: Path) -> str:
    """What timm's `config.json` says of the weights."""
    facts = _config_beside(path)
    return str((facts.get("pretrained_cfg") or {}).get("license") or facts.get("license") or "")


def _config_beside(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.with_name("config.json").read_bytes()[: 1 << 20])
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}
