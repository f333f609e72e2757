"""The weights of a folder that transformers wrote, as the converters of KerasHub ask for them."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from onepass.extract.backbones.transformers_folder import CONFIG, TransformersFolder
from onepass.features.errors import BackboneError


class Tensors:
    """The weights of a folder, as the converters of KerasHub ask for them.

    Args:
        folder: Whose files are read.
        changed: Name of a tensor, as a converter calls it -> what is made of it.
    """

    def __init__(
        self, folder: TransformersFolder, changed: dict[str, Callable[[np.ndarray], np.ndarray]] | None = None
    ) -> None:
        from safetensors import safe_open

        self._folder, self._changed = folder, changed or {}
        opened: list[Any] = [safe_open(file, framework="np") for file in folder.files]
        self._places: dict[str, Any] = {name: file for file in opened for name in file.keys()}  # noqa: SIM118
        self._used: set[str] = set()

    def get_tensor(self, key: str) -> np.ndarray:
        """The tensor of a name; what stands before it depends on the class that was saved.

        Raises:
            BackboneError: There is none.
        """
        name = self._named(key)
        if name is None:
            raise BackboneError(
                f"{self._folder.path.name} lacks the tensor {key}, which a {self._folder.config['model_type']} has. "
                "Take the folder as transformers wrote it."
            )
        self._used.add(name)
        found = np.asarray(self._places[name].get_tensor(name)).astype(np.float32)
        change: Callable[[np.ndarray], np.ndarray] | None = self._changed.get(key)
        return change(found) if change else found

    def port_weight(self, keras_variable: Any, hf_weight_key: str, hook_fn: Any = None) -> None:
        """Sets a variable of Keras."""
        found, shape = self.get_tensor(hf_weight_key), tuple(keras_variable.shape)
        if hook_fn:
            found = hook_fn(found, list(shape))
        if found.shape != shape:
            raise BackboneError(
                f"{self._folder.path.name} has {hf_weight_key} of shape {found.shape}; its {CONFIG} asks for {shape}."
            )
        keras_variable.assign(found)

    def require_all_used(self) -> None:
        """Refuses a folder with weights of layers that the network does not have.

        Raises:
            BackboneError: With the first of them.
        """
        left = sorted(name for name in self._places if name not in self._used and not _ASIDE.search(name))
        if left:
            raise BackboneError(
                f"{self._folder.path.name} holds {len(left)} tensors that KerasHub's "
                f"{self._folder.config['model_type']} has no place for, such as {left[0]}: it is another network, "
                "whose rows would be wrong. Export it to ONNX and give the .onnx file."
            )

    def _named(self, key: str) -> str | None:
        bare = key.split(".", maxsplit=1)[-1]
        for wanted in (key, bare) if key.startswith(("vit.", "deit.")) else (key,):
            if wanted in self._places:
                return wanted
            ending = [name for name in self._places if name.endswith(f".{wanted}")]
            if len(ending) == 1:
                return str(ending[0])
        return None


_ASIDE = re.compile(
    r"mask_token|(?:^|\.)(?:pooler|classifier|cls_classifier|distillation_classifier)\.|position_ids|"
    r"relative_position_index|inv_freq|periods|logit_(?:scale|bias)|^text_"
)
"""Tensors that no row hangs on: heads of classifiers, what only pre-training needs, and a text tower."""


def resampled_positions(positions: np.ndarray, tokens: int, antialias: bool) -> np.ndarray:
    """Position embeddings for another number of patches, as PyTorch interpolates them for transformers.

    PyTorch's bicubic filter is that of R. Keys (1981) with a = -0.75, and with a = -0.5 where it averages what is
    reduced; TensorFlow's has -0.5 in both.

    Args:
        positions: (1, 1 + p, d), the class token's first, those of a square of patches behind it.
        tokens: Side of the square that is wanted.
        antialias: Whether what is reduced is averaged.

    Returns:
        (1, 1 + tokens**2, d) float32.
    """
    patches = positions[0, 1:]
    side = math.isqrt(len(patches))
    if side == tokens:
        return positions
    weights = _bicubic_weights(side, tokens, antialias=antialias)
    grid = patches.reshape(side, side, -1).astype(np.float64)
    made = np.einsum("ab,cd,bde->ace", weights, weights, grid).reshape(tokens * tokens, -1)
    return np.concatenate([positions[0, :1], made.astype(np.float32)])[None]


def _bicubic_weights(before: int, after: int, *, antialias: bool) -> np.ndarray:
    """(after, before) weights of an axis."""
    scale, a = before / after, -0.5 if antialias else -0.75
    stretch = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(after) + 0.5) * scale - 0.5
    reach = math.ceil(2 * stretch) + 1
    weights = np.zeros((after, before))
    for row, centre in zip(weights, centres, strict=True):
        for place in range(math.floor(centre) - reach, math.floor(centre) + reach + 2):
            value = _keys(abs(place - centre) / stretch, a)
            if antialias and not 0 <= place < before:
                continue
            row[min(max(place, 0), before - 1)] += value
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _keys(x: float, a: float) -> float:
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
