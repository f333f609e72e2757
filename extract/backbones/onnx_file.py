"""Networks that a user has as an ONNX file, with its preprocessing beside it."""

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.graphs import Network, write_graph
from onepass.extract.backbones.onnx_digest import onnx_digest
from onepass.extract.backbones.onnx_network import OnnxNetwork
from onepass.extract.backbones.preprocess_files import preprocess_of, read_preprocess
from onepass.extract.backbones.proof import Reference
from onepass.extract.backbones.provider import (
    Asked,
    BackboneFacts,
    Conversion,
    GraphProvider,
    OnnxSource,
    absolute,
    require_file,
)
from onepass.extract.backbones.stages import did_you_mean
from onepass.extract.frameworks import import_openvino
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.preprocess import Preprocess
from onepass.features.progress import log


class OnnxFile(GraphProvider):
    """Files that OpenVINO reads: one input of images, and an output that is named if there are several."""

    name: ClassVar[str] = "onnx"
    gives_onnx: ClassVar[bool] = True

    def check(self, name: BackboneName, weights: str) -> None:
        require_file(name, weights, "an ONNX file")

    def resolved(self, name: BackboneName) -> BackboneName:
        return absolute(name)

    def describe(self, asked: Asked) -> BackboneFacts:
        name, given = asked.name, asked.preprocess
        path = Path(name.network)
        origin = onnx_digest(path)
        network = read_network(name)
        own = given or found_beside(path)
        side = network.side
        if side and own.size != side:
            if asked.image_size == own.size or given is None or own.rule.method == "shortest":
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

    def convert(self, wanted: Conversion, graph: Path) -> tuple[str, tuple[int, ...]]:
        widths = write_graph(
            read_network(wanted.name),
            graph,
            preprocess=wanted.preprocess,
            pooling=wanted.pooling,
            pixels=wanted.pixels,
            label=wanted.facts.label,
        )
        return wanted.facts.origin, widths

    def onnx(self, wanted: Conversion) -> OnnxSource:
        return OnnxSource(Path(wanted.name.network), wanted.name.layer, wanted.facts.origin)

    def reference(self, wanted: Conversion) -> Reference | None:
        if not has_onnx_packages():
            return None
        path, network = Path(wanted.name.network), read_network(wanted.name)
        try:
            rows = OnnxNetwork.read(
                path, network, preprocess=wanted.preprocess, pooling=wanted.pooling, label=wanted.facts.label
            ).rows
        except BackboneError as error:  # OpenVINO runs more than ONNX Runtime does
            log.info("not compared with ONNX Runtime: %s", error)
            return None
        return Reference(f"ONNX Runtime {version('onnxruntime')}", rows)


def has_onnx_packages() -> bool:
    """Whether the networks of ONNX files can be run by ONNX Runtime here."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


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


def read_rows(path: Path, outputs: Sequence[str]) -> tuple[Network, tuple[int, ...]]:
    """The graph in a file whose outputs are rows, with those of some names one after the other, and their widths."""
    ov = import_openvino()
    model = ov.Core().read_model(path)
    ports = [model.output(name) for name in outputs]
    widths = tuple(int(port.get_partial_shape()[1].get_length()) for port in ports)
    sources = [port.get_node().input_value(0) for port in ports]
    rows = sources[0] if len(sources) == 1 else ov.opset13.concat(sources, 1).output(0)
    return Network.of(ov.Model([rows], model.get_parameters(), path.stem), path.name), widths


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
