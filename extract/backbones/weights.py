"""Weights from a file into a Keras model: every layer checked by name and shape before any is set."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from onepass.features.errors import WeightsError, opt
from onepass.features.limits import require_bounded_hdf5

# A classifier on top of a backbone has at most this many layers with weights (VGG: fc1, fc2, predictions).
_LARGEST_TOP = 3


@dataclass(frozen=True)
class _FileLayer:
    key: str
    name: str
    arrays: list[h5py.Dataset]

    def may_be_a_classifier(self) -> bool:
        """True for what tops are made of: dense layers, and 1 x 1 convolutions in the MobileNets."""
        shape = self.arrays[0].shape
        return len(shape) == 2 or (len(shape) == 4 and shape[:2] == (1, 1))


def load_weights_file(model: Any, path: Path, *, backbone: str) -> None:
    """Sets all weights of a backbone from a `.weights.h5` or legacy `.h5` file.

    The file may hold the classifier on top as well; it is left out.

    Args:
        model: Functional Keras model without a top.
        path: The weights file.
        backbone: The model's name in messages.

    Raises:
        WeightsError: The file is missing, is no weights file, or belongs to another architecture.
    """
    try:
        with h5py.File(path, "r") as file:
            require_bounded_hdf5(file, path.stat().st_size)
            pairs = _pair(model, file, path, backbone)
            for layer, stored in pairs:
                set_layer_weights(layer, [np.asarray(array) for array in stored.arrays])
    except FileNotFoundError:
        raise WeightsError(f"there is no weights file {path}.") from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights: {error}. Needed: a .weights.h5 or legacy .h5 file of {backbone}."
        ) from None


def set_layer_weights(layer: Any, arrays: list[np.ndarray]) -> None:
    """Sets the weights of a layer such that it computes with them.

    A Normalization computes with the mean and variance that it noted when it was built, until told to look again.
    """
    layer.set_weights(arrays)
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()


def weights_hash(model: Any) -> str:
    """SHA-256, hexadecimal, of all weight arrays in layer order: equal weights, equal hash.

    The file they came from does not matter, nor whether it also held a classifier.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy(), dtype="<f4")
        digest.update(f"{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256, hexadecimal, of a file's bytes.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}.") from None


def _pair(model: Any, file: h5py.File, path: Path, backbone: str) -> list[tuple[Any, _FileLayer]]:
    if "layers" in file:
        stored = {layer.key: layer for layer in _keras3_layers(file)}
        wanted = _keras3_keys(model)
    else:
        stored = {layer.key: layer for layer in _legacy_layers(file)}
        wanted = _legacy_keys(model, list(stored))
    if not stored:
        raise WeightsError(
            f"{path} is HDF5 but holds no Keras weights. Needed: a .weights.h5 or legacy .h5 file of {backbone}."
        )
    pairs = [(layer, stored.get(key)) for key, layer in wanted.items()]
    extra = [layer for key, layer in stored.items() if key not in wanted]
    _check_fit(pairs, extra, path, backbone)
    return [(layer, found) for layer, found in pairs if found is not None]


def _check_fit(pairs: list[tuple[Any, _FileLayer | None]], extra: list[_FileLayer], path: Path, backbone: str) -> None:
    refused = f"{path} does not fit {backbone}: "
    advice = f" Choose the {opt.backbone} that the file was made for, or a weights file of {backbone}."
    for layer, found in pairs:
        needed = [tuple(weight.shape) for weight in layer.weights]
        if found is None:
            raise WeightsError(f"{refused}it has no layer {layer.name}, which needs {_shapes(needed)}.{advice}")
        shapes = [array.shape for array in found.arrays]
        if shapes != needed:
            raise WeightsError(
                f"{refused}layer {layer.name} needs {_shapes(needed)}, the file's {found.name} has "
                f"{_shapes(shapes)}.{advice}"
            )
    if len(extra) > _LARGEST_TOP or not all(layer.may_be_a_classifier() for layer in extra):
        raise WeightsError(
            f"{refused}it has {len(pairs) + len(extra)} layers with weights, {backbone} has {len(pairs)}; "
            f"the others ({', '.join(layer.name for layer in extra[:4])}) are no classifier on top.{advice}"
        )


def _keras3_layers(group: h5py.Group, prefix: str = "") -> list[_FileLayer]:
    found = []
    for name, child in group["layers"].items():
        key = f"{prefix}{name}/"
        arrays = _in_order(child["vars"]) if "vars" in child else []
        if arrays:
            found.append(_FileLayer(key, str(child["vars"].attrs.get("name", name)), arrays))
        if "layers" in child:
            found += _keras3_layers(child, key)
    return found


def _in_order(variables: h5py.Group) -> list[h5py.Dataset]:
    return [variables[name] for name in sorted(variables, key=lambda name: (len(name), name))]


def _keras3_keys(model: Any, prefix: str = "") -> dict[str, Any]:
    # Keras 3 names a layer in the file by its class and its number among layers of that class.
    seen: Counter[str] = Counter()
    keys = {}
    for layer in model.layers:
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        key = f"{prefix}{kind}_{seen[kind]}/" if seen[kind] else f"{prefix}{kind}/"
        seen[kind] += 1
        if hasattr(layer, "layers"):
            keys.update(_keras3_keys(layer, key))
        elif layer.weights:
            keys[key] = layer
    return keys


def _legacy_layers(file: h5py.File) -> list[_FileLayer]:
    group = file.get("model_weights", file)
    found = []
    for name in _names(group, "layer_names"):
        arrays = [group[name][weight] for weight in _names(group[name], "weight_names")]
        if arrays:
            found.append(_FileLayer(name, name, arrays))
    return found


def _names(group: h5py.Group, attribute: str) -> list[str]:
    # Long lists are stored in pieces: layer_names0, layer_names1, ...
    pieces = [attribute] if attribute in group.attrs else []
    while not pieces or pieces[-1] != attribute:
        piece = f"{attribute}{len(pieces)}"
        if piece not in group.attrs:
            break
        pieces.append(piece)
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _legacy_keys(model: Any, stored: list[str]) -> dict[str, Any]:
    # By name where the file knows every name; by order where Keras numbered the layers itself (conv2d_7).
    layers = [layer for layer in model.layers if layer.weights]
    if {layer.name for layer in layers} <= set(stored):
        return {layer.name: layer for layer in layers}
    return dict(zip(stored, layers, strict=False)) | {f"(none) {x.name}": x for x in layers[len(stored) :]}


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(str(shape).replace(" ", "") for shape in shapes) or "nothing"
