"""Backbones already converted for OpenVINO, kept in the user's cache folder under what determines them."""

import contextlib
import hashlib
import json
import shutil
import warnings
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onepass.extract.backbones.proof import Proof
from onepass.extract.frameworks import import_openvino
from onepass.extract.machine import cache_folder
from onepass.features.atomic import folder_beside, move, remove_leftovers
from onepass.features.errors import BackboneError, OnepassWarning, opt, reason_of
from onepass.features.preprocess import Preprocess
from onepass.features.seal import file_digest, sealed, unsealed

# Count up when the meaning of a converted graph changes, so that old ones are not taken for it.
_LAYOUT = 3
_GRAPH, _WEIGHTS, _FACTS = "model.xml", "model.bin", "backbone.json"
_CONVOLUTIONS = ("Convolution", "GroupConvolution")


@dataclass(frozen=True)
class Quantisation:
    """How an int8 graph was made from a float32 one, and how close its rows come to the float32 rows.

    Attributes:
        calibration: Hash, hexadecimal, of the images, settings and versions that determine the graph.
        images: Images whose activations were measured.
        seconds: Duration, comparison included.
        cosine_mean: Mean cosine between the int8 and float32 rows of one image.
        cosine_min: The lowest one.
        sample: Images compared; not among the calibration images where there were enough others.
        golden_min: The lowest cosine over the built-in test images.
    """

    calibration: str
    images: int
    seconds: float
    cosine_mean: float
    cosine_min: float
    sample: int
    golden_min: float


@dataclass(frozen=True)
class CompiledBackbone:
    """A converted backbone on disk.

    Attributes:
        folder: Holds the OpenVINO graph, its weights and these facts.
        backbone: Catalogue name or stem of the `.keras` file, with @ and the layer if it is cut.
        weights_hash: SHA-256 of the weights, hexadecimal.
        image_size: Side of the input, pixels.
        pooling: avg, max or flatten.
        width: Length of a row.
        pixels: uint8 or float32, the dtype of the input.
        quantisation: Only of an int8 graph.
        arithmetic: From `arithmetic_key`.
        widths: Of the rows of each pooling, one after the other; empty if there is one.
        proof: How far it lies from its own framework; None if that was not at hand.
    """

    folder: Path
    backbone: str
    weights_hash: str
    image_size: int
    pooling: str
    width: int
    pixels: str = "uint8"
    quantisation: Quantisation | None = None
    arithmetic: str = ""
    proof: Proof | None = None
    widths: tuple[int, ...] = ()

    @property
    def graph(self) -> Path:
        return self.folder / _GRAPH

    @property
    def calibration(self) -> str:
        """As in the spec: empty unless the graph is quantised."""
        return self.quantisation.calibration if self.quantisation else ""


def arithmetic_key(provider: str, preprocess: Preprocess | None) -> str:
    """What a graph does to values before the network, as text; empty for Keras's, where that follows from the name."""
    if provider == "keras" or preprocess is None:
        return ""
    return json.dumps([preprocess.channels, preprocess.rescale, preprocess.mean, preprocess.std])


def cache_key(
    backbone: str, weights_source: str, image_size: int, pooling: str, pixels: str, arithmetic: str = ""
) -> str:
    """Name of a cache entry: a hash of everything the converted graph depends on.

    Args:
        backbone: Catalogue name or stem of the `.keras` file, with @ and the layer if it is cut.
        weights_source: Hash of the weights file, or name and version of where else they come from.
        image_size: Pixels.
        pooling: avg, max or flatten.
        pixels: uint8 or float32.
        arithmetic: From `arithmetic_key`.
    """
    facts = [_LAYOUT, backbone, weights_source, image_size, pooling, pixels, version("keras"), version("openvino")]
    if arithmetic:
        facts.append(arithmetic)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def find_by_key(key: str) -> CompiledBackbone | None:
    """The entry of this key, every byte of it checked; None if it is absent or damaged.

    Warns:
        OnepassWarning: It is damaged, and was removed.
    """
    entry = _read(cache_folder() / key)
    return entry.backbone if entry and _is_intact(entry) else None


def find_by_facts(
    backbone: str,
    weights_hash: str,
    image_size: int,
    pooling: str,
    *,
    pixels: str,
    arithmetic: str = "",
    calibration: str = "",
) -> CompiledBackbone | None:
    """Any entry that computes these rows, whichever file its weights once came from; checked as by `find_by_key`.

    Where there is none, but one of several poolings with this one among them, it is made from that.
    """
    wanted = (backbone, weights_hash, image_size, pixels, arithmetic, calibration)
    wide = None
    for facts in sorted(cache_folder().glob(f"*/{_FACTS}")):
        if (entry := _read(facts.parent)) is None:
            continue
        found = entry.backbone
        rows = (found.backbone, found.weights_hash, found.image_size, found.pixels, found.arithmetic, found.calibration)
        if rows != wanted or pooling not in (found.pooling, *found.pooling.split(",")):
            continue
        if entry.is_current and _is_intact(entry):
            if found.pooling == pooling:
                return found
            wide = found
    return _narrowed(wide, pooling) if wide else None


def _narrowed(wide: CompiledBackbone, pooling: str) -> CompiledBackbone:
    """The graph of one of several poolings: what the whole one gives, less the other columns."""
    place = wide.pooling.split(",").index(pooling)
    start, width = sum(wide.widths[:place]), wide.widths[place]

    def write(graph: Path) -> CompiledBackbone:
        ov = import_openvino()
        model = ov.Core().read_model(wide.graph)
        rows = ov.opset13.slice(model.output(0).get_node().input_value(0), [start], [start + width], [1], [1])
        ov.save_model(ov.Model([rows.output(0)], model.get_parameters(), "backbone"), graph, compress_to_fp16=False)
        keep_stem_precise(graph)  # whose marks OpenVINO writes by another name
        return replace(wide, folder=Path(), pooling=pooling, width=width, widths=())

    key = cache_key(wide.backbone, wide.weights_hash, wide.image_size, pooling, wide.pixels, wide.arithmetic)
    return store(key, write)


@dataclass(frozen=True)
class _Entry:
    """An entry as its facts tell it.

    Attributes:
        backbone: What it is.
        hashes: Name of each of its files -> SHA-256, hexadecimal.
        layout: The meaning that converted graphs had when it was made.
    """

    backbone: CompiledBackbone
    hashes: dict[str, str]
    layout: int

    @property
    def is_current(self) -> bool:
        """Whether a network converted today computes the same; what int8 computes is decided by its calibration."""
        return self.layout == _LAYOUT or bool(self.backbone.calibration)


def _read(folder: Path) -> _Entry | None:
    """An entry whose facts are as they were written; None if there is none, or onepass 0.1 wrote it, without hashes."""
    try:
        facts, guarded = unsealed(json.loads((folder / _FACTS).read_bytes()))
        if not guarded and "sizes" in facts:
            return None
        hashes, layout = facts.pop("hashes"), facts.pop("layout", 2)
        backbone = _of_facts(folder, facts)
        if guarded:
            return _Entry(backbone, dict(hashes), layout)
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    _discard(folder, _FACTS)
    return None


def _of_facts(folder: Path, facts: dict[str, Any]) -> CompiledBackbone:
    quantised, proven = facts.pop("quantisation", None), facts.pop("proof", None)
    return CompiledBackbone(
        folder=folder,
        widths=tuple(facts.pop("widths", ())),
        **facts,
        quantisation=Quantisation(**quantised) if quantised else None,
        proof=Proof(**proven) if proven else None,
    )


def _is_intact(entry: _Entry) -> bool:
    """Whether the graph and its weights are as they were written: 0.1 s for the 94 MB of ResNet50."""
    folder = entry.backbone.folder
    try:
        differing = [name for name, digest in entry.hashes.items() if file_digest(folder / name) != digest]
    except OSError:  # another process may be putting it there anew
        return False
    if differing:
        _discard(folder, differing[0])
    return not differing


def _discard(folder: Path, name: str) -> None:
    warnings.warn(
        f"the converted backbone in {folder} is damaged: {name} does not match its checksum. It is not used, and is "
        "made again where its weights are at hand.",
        OnepassWarning,
        stacklevel=4,
    )
    shutil.rmtree(folder, ignore_errors=True)


def export_keras(model: Any, graph: Path) -> None:
    """Writes a Keras model of one output as an OpenVINO graph of that output.

    Shapes that layers of KerasHub ask for and do not use become outputs of their own on the way.

    Args:
        model: `keras.Model`.
        graph: Path that ends in `.xml`.
    """
    ov = import_openvino()  # or else Keras imports it, with its usage statistics
    model.export(str(graph), format="openvino", verbose=False)
    made = ov.Core().read_model(graph)
    if len(made.outputs) == 1:
        return
    wanted = next((port for port in made.outputs if "Identity:0" in port.names), made.outputs[0])
    alone = ov.Model([wanted.get_node().input_value(0)], made.get_parameters(), made.get_friendly_name())
    beside = graph.with_name(f"one-{graph.name}")
    ov.save_model(alone, beside, compress_to_fp16=False)
    del made, alone  # which have mapped the file
    for ending in (".xml", ".bin"):
        beside.with_suffix(ending).replace(graph.with_suffix(ending))


def store(key: str, write: Callable[[Path], CompiledBackbone]) -> CompiledBackbone:
    """Keeps a graph under its key; a crash half-way leaves no entry.

    Args:
        key: Name of the entry.
        write: Writes the graph to a path that ends in `.xml`, its weights beside it, and returns the
            facts, of which the folder is chosen here.

    Raises:
        BackboneError: The cache folder cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        with folder_beside(folder / key) as beside:
            new = beside / key
            new.mkdir()
            facts = write(new / _GRAPH)
            hashes = {part: file_digest(new / part) for part in (_GRAPH, _WEIGHTS)}
            described = {k: v for k, v in asdict(facts).items() if k != "folder"}
            described |= {"hashes": hashes, "layout": _LAYOUT}
            (new / _FACTS).write_text(json.dumps(sealed(described), indent=1))
            if find_by_key(key) is None:
                shutil.rmtree(folder / key, ignore_errors=True)
                move(new, folder / key)
    except (OSError, RuntimeError) as error:  # OpenVINO reports a full disk as a RuntimeError
        raise BackboneError(
            f"cannot keep the converted backbone in {folder}: {reason_of(error)}. "
            f"Set ONEPASS_CACHE to a folder that can be written, or use {opt.engine('tensorflow')}."
        ) from None
    stored = find_by_key(key)
    if stored is None:
        raise BackboneError(f"the converted backbone in {folder / key} cannot be read back. Is the disk full?")
    return stored


def keep_stem_precise(graph: Path) -> None:
    """Marks everything up to the second convolution to stay in float32 when the rest runs in bfloat16.

    What is rounded there spreads through the whole network. On EfficientNet-Lite0 at 64 px the lowest
    cosine to float32 rows over 300 digits rises from 0.9937 to 0.9980, on 102 photos from 0.9937 to
    0.9973; a third convolution adds little. The attribute is OpenVINO's own (`disable_fp16_compression`).

    The convolution of a ResNet's first shortcut is passed over: OpenVINO 2026.4 adds it to a later one in one step
    that cannot mix float32 and bfloat16, and refuses the graph ("object is not initialized") on a Zen 4.
    """
    tree = ET.parse(graph)
    # Of a transformer, whose one convolution makes the patches, that one.
    wanted = min(2, sum(layer.get("type") in _CONVOLUTIONS for layer in tree.iterfind("layers/layer")))
    summands = _summands(tree)
    convolutions = 0
    for layer in tree.iterfind("layers/layer"):
        if convolutions == wanted:
            break
        if layer.get("id") in summands:
            continue
        convolutions += layer.get("type") in _CONVOLUTIONS
        known = layer.find("rt_info")
        if known is not None and [one.get("name") for one in known] == ["DisablePrecisionConversion"]:
            layer.remove(known)  # the same mark by the name that OpenVINO writes itself
            known = None
        if layer.get("type") != "Parameter" and known is None:
            marked = ET.Element("rt_info")
            ET.SubElement(marked, "attribute", name="precise", version="0")
            layer.insert(0 if layer.find("data") is None else 1, marked)
    tree.write(graph)


def _summands(tree: "ET.ElementTree[ET.Element]") -> set[str]:
    """Ids of convolutions that nothing but an addition of two computed tensors reads, and of their biases."""
    types = {layer.get("id", ""): layer.get("type") for layer in tree.iterfind("layers/layer")}
    edges = [(edge.get("from-layer", ""), edge.get("to-layer", "")) for edge in tree.iterfind("edges/edge")]
    readers, inputs = defaultdict(list), defaultdict(list)
    for start, end in edges:
        readers[start].append(end)
        inputs[end].append(start)
    found = set()
    for convolution in (id for id, kind in types.items() if kind in _CONVOLUTIONS):
        chain = [convolution]
        while [types[reader] for reader in readers[chain[-1]]] == ["Add"]:
            (reader,) = readers[chain[-1]]
            if all(types[each] != "Const" for each in inputs[reader]):
                found.update(chain)
                break
            chain.append(reader)
    return found


def has_attention(graph: Path) -> bool:
    """Whether a converted graph is a transformer: softmaxes between its layers, and no convolutions but for patches."""
    kinds = [str(layer.get("type")).lower() for layer in ET.parse(graph).iterfind("layers/layer")]
    convolutions = sum(kind in ("convolution", "groupconvolution") for kind in kinds)
    return convolutions <= 2 and any(kind in ("softmax", "scaleddotproductattention") for kind in kinds)


def stem(graph: Path) -> list[str]:
    """Names of the convolutions of a converted graph that stay in float32 whatever the rest computes in."""
    return [
        layer.get("name", "")
        for layer in ET.parse(graph).iterfind("layers/layer")
        if layer.get("type") in _CONVOLUTIONS and layer.find("rt_info/attribute[@name='precise']") is not None
    ]


def stored_networks() -> list[CompiledBackbone]:
    """What lies in the cache, by what is written of it; whether it is whole is not looked at."""
    found = []
    for facts in sorted(cache_folder().glob(f"*/{_FACTS}")):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            known = json.loads(facts.read_text())
            own = {field.name: known[field.name] for field in fields(CompiledBackbone) if field.name in known}
            found.append(_of_facts(facts.parent, own))
    return found
