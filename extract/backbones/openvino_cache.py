"""Backbones already converted for OpenVINO, kept in the user's cache folder under what determines them."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onepass.extract.frameworks import import_openvino
from onepass.extract.machine import cache_folder
from onepass.features.errors import BackboneError, opt

# Count up when the meaning of a converted graph changes, so that old ones are not taken for it.
_LAYOUT = 1
_GRAPH, _WEIGHTS, _FACTS = "model.xml", "model.bin", "backbone.json"
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_DAY = 24 * 3600.0


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
    """

    folder: Path
    backbone: str
    weights_hash: str
    image_size: int
    pooling: str
    width: int
    pixels: str = "uint8"
    quantisation: Quantisation | None = None

    @property
    def graph(self) -> Path:
        return self.folder / _GRAPH

    @property
    def calibration(self) -> str:
        """As in the spec: empty unless the graph is quantised."""
        return self.quantisation.calibration if self.quantisation else ""


def cache_key(backbone: str, weights_source: str, image_size: int, pooling: str, pixels: str) -> str:
    """Name of a cache entry: a hash of everything the converted graph depends on.

    Args:
        backbone: Catalogue name or stem of the `.keras` file, with @ and the layer if it is cut.
        weights_source: Hash of the weights file, or name and version of where else they come from.
        image_size: Pixels.
        pooling: avg, max or flatten.
        pixels: uint8 or float32.
    """
    facts = [_LAYOUT, backbone, weights_source, image_size, pooling, pixels, version("keras"), version("openvino")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def find_by_key(key: str) -> CompiledBackbone | None:
    """The entry of this key, or None if it is absent or incomplete."""
    folder = cache_folder() / key
    try:
        facts = json.loads((folder / _FACTS).read_text())
        sizes = facts.pop("sizes")
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        quantised = facts.pop("quantisation", None)
        return CompiledBackbone(folder=folder, **facts, quantisation=Quantisation(**quantised) if quantised else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find_by_facts(
    backbone: str, weights_hash: str, image_size: int, pooling: str, *, pixels: str, calibration: str = ""
) -> CompiledBackbone | None:
    """Any entry that computes these rows, whichever file its weights once came from."""
    wanted = (backbone, weights_hash, image_size, pooling, pixels, calibration)
    for facts in sorted(cache_folder().glob(f"*/{_FACTS}")):
        found = find_by_key(facts.parent.name)
        if found is None:
            continue
        has = (found.backbone, found.weights_hash, found.image_size, found.pooling, found.pixels, found.calibration)
        if has == wanted:
            return found
    return None


def store_converted(key: str, model: Any, facts: CompiledBackbone) -> CompiledBackbone:
    """Converts a Keras model, with preprocessing and pooling inside, and keeps it; see `store`."""

    def write(graph: Path) -> CompiledBackbone:
        import_openvino()  # or else Keras imports it, with its usage statistics
        model.export(str(graph), format="openvino", verbose=False)
        _keep_stem_precise(graph)
        return facts

    return store(key, write)


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
        _remove_leftovers(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{_unfinished()}{os.getpid()}-") as name:
            new = Path(name) / key
            new.mkdir()
            facts = write(new / _GRAPH)
            sizes = {part: (new / part).stat().st_size for part in (_GRAPH, _WEIGHTS)}
            described = {k: v for k, v in asdict(facts).items() if k != "folder"} | {"sizes": sizes}
            (new / _FACTS).write_text(json.dumps(described, indent=1))
            if find_by_key(key) is None:
                shutil.rmtree(folder / key, ignore_errors=True)
                new.rename(folder / key)
    except (OSError, RuntimeError) as error:  # OpenVINO reports a full disk as a RuntimeError
        raise BackboneError(
            f"cannot keep the converted backbone in {folder}: {getattr(error, 'strerror', None) or error}. "
            f"Set ONEPASS_CACHE to a folder that can be written, or use {opt.engine('tensorflow')}."
        ) from None
    stored = find_by_key(key)
    if stored is None:
        raise BackboneError(f"the converted backbone in {folder / key} cannot be read back. Is the disk full?")
    return stored


def _unfinished() -> str:
    """Start of the names of this machine's unfinished entries; the maker's process id follows."""
    return f".new-{socket.gethostname()}-"


def _remove_leftovers(folder: Path) -> None:
    """Removes what makers left that were killed: a day old, or of a process of this machine that is gone."""
    for left in folder.glob(".new-*"):
        with contextlib.suppress(OSError):  # Another process may have removed it.
            owner = left.name.removeprefix(_unfinished()).split("-")[0]
            ended = owner.isdigit() and not _is_running(int(owner))
            if ended or time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _keep_stem_precise(graph: Path) -> None:
    """Marks everything up to the second convolution to stay in float32 when the rest runs in bfloat16.

    What is rounded there spreads through the whole network. On EfficientNet-Lite0 at 64 px the lowest
    cosine to float32 rows over 300 digits rises from 0.9937 to 0.9980, on 102 photos from 0.9937 to
    0.9973; a third convolution adds little. The attribute is OpenVINO's own (`disable_fp16_compression`).
    """
    tree = ET.parse(graph)
    convolutions = 0
    for layer in tree.iterfind("layers/layer"):
        if convolutions == 2:
            break
        convolutions += layer.get("type") in _CONVOLUTIONS
        if layer.get("type") != "Parameter" and layer.find("rt_info") is None:
            marked = ET.Element("rt_info")
            ET.SubElement(marked, "attribute", name="precise", version="0")
            layer.insert(0 if layer.find("data") is None else 1, marked)
    tree.write(graph)


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
            own = {field.name: known.get(field.name) for field in fields(CompiledBackbone) if field.name in known}
            quantised = own.pop("quantisation", None)
            quantisation = Quantisation(**quantised) if quantised else None
            found.append(CompiledBackbone(facts.parent, **own, quantisation=quantisation))
    return found
