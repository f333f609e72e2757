"""Builds a backbone as one Keras model: (b, s, s, 3) RGB pixels in, (b, d) float32 rows out."""

import contextlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.catalogue import BUNDLED, CatalogueEntry, find_entry
from extract.lite0 import build_lite0, load_bundled_weights
from extract.weights import file_hash, load_weights_file, weights_hash
from features.errors import BackboneError, WeightsError
from features.frameworks import import_keras, plain_keras, quiet_stderr

POOLINGS = ("avg", "max", "flatten")


@dataclass(frozen=True)
class BuiltBackbone:
    """A Keras model with its preprocessing inside, and what its spec needs to know.

    Attributes:
        model: `keras.Model`, (b, s, s, 3) uint8 or float32 pixels -> (b, d) float32.
        weights_hash: SHA-256 of its weights, hexadecimal.
        width: d.
    """

    model: Any
    weights_hash: str
    width: int


def build_backbone(
    name: str,
    *,
    weights: str | Path,
    image_size: int,
    pooling: str,
    precision: str = "float32",
    pixels: str = "uint8",
    strategy: Any = None,
) -> BuiltBackbone:
    """Builds a catalogue backbone or loads a local `.keras` file.

    Args:
        name: Catalogue name, or a path that ends in `.keras`.
        weights: "imagenet", or a weights file. A `.keras` file brings its own.
        image_size: Side s of the input, pixels.
        pooling: avg, max or flatten; how (b, h, w, c) becomes (b, d).
        precision: float32, or bfloat16 for Keras's mixed policy (weights stay float32).
        pixels: uint8 or float32, the input's dtype; 0..255 either way.
        strategy: `tf.distribute` strategy whose devices each get a copy of the weights.

    Raises:
        BackboneError: The name is unknown, the file is no Keras model, or the size does not fit.
        WeightsError: The weights cannot be downloaded or do not fit.
    """
    # Keras announces downloads on stdout, which belongs to results.
    # The scope comes after the fresh session, which would throw it away.
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with plain_keras(precision), quiet_stderr() as stderr, contextlib.redirect_stdout(stderr), scope:
        if name.endswith(".keras"):
            return _from_keras_file(Path(name), image_size, pooling, pixels)
        return _from_catalogue(find_entry(name), weights, image_size, pooling, pixels)


def preprocess(entry: CatalogueEntry, pixels: Any) -> Any:
    """The step before the network: (b, h, w, 3) RGB of 0..255, any dtype -> float32, as `entry` was trained."""
    keras = import_keras()
    pixels = keras.ops.cast(pixels, "float32")
    if entry.name == BUNDLED:
        return (pixels - 127.0) / 128.0
    return getattr(keras.applications, entry.module).preprocess_input(pixels)


def _from_catalogue(
    entry: CatalogueEntry, weights: str | Path, image_size: int, pooling: str, pixels: str
) -> BuiltBackbone:
    keras = import_keras()
    base = _network(entry, image_size, download=weights == "imagenet")
    if weights != "imagenet":
        load_weights_file(base, Path(weights), backbone=entry.name)
    inputs = keras.Input((image_size, image_size, 3), dtype=pixels)
    return _with_rows(inputs, base(preprocess(entry, inputs)), pooling, entry.name, weights_hash(base))


def _network(entry: CatalogueEntry, image_size: int, *, download: bool) -> Any:
    keras = import_keras()
    if entry.name == BUNDLED:
        model = build_lite0(image_size)
        if download:
            load_bundled_weights(model)
        return model
    factory = getattr(keras.applications, entry.factory)
    shape = (image_size, image_size, 3)
    try:
        with keras.StatelessScope():  # shapes without values: only to see whether the size fits
            factory(include_top=False, weights=None, input_shape=shape, **entry.options)
    except ValueError as error:
        raise BackboneError(f"{entry.name} cannot take {image_size} px images: {error}") from None
    try:
        return factory(include_top=False, weights="imagenet" if download else None, input_shape=shape, **entry.options)
    except Exception as error:
        folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the ImageNet weights of {entry.name} could not be loaded ({reason}). Give a file with --weights, "
            f"put Keras's own download into {folder}, or use the bundled --backbone {BUNDLED}."
        ) from None


def _from_keras_file(path: Path, image_size: int, pooling: str, pixels: str) -> BuiltBackbone:
    model = load_keras_file(path)
    keras = import_keras()
    inputs = keras.Input((image_size, image_size, 3), dtype=pixels)
    try:
        outputs = model(keras.ops.cast(inputs, "float32"))
    except Exception as error:
        raise BackboneError(f"{path} cannot take {image_size} px RGB images: {str(error).splitlines()[0]}") from None
    return _with_rows(inputs, outputs, pooling, path.stem, file_hash(path))


def load_keras_file(path: Path) -> Any:
    """Loads a backbone of the user's own; nothing stored in the file is run as code.

    Raises:
        BackboneError: No such file, not a Keras 3 model, code inside, or a classifier at its end.
    """
    if not path.is_file():
        raise BackboneError(f"there is no backbone file {path}.")
    if not zipfile.is_zipfile(path):
        raise BackboneError(f"{path} is no .keras file of Keras 3 (which is a zip). Save the model again in Keras 3.")
    try:
        model = import_keras().models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise BackboneError(
            f"{path} cannot be loaded as a Keras model: {str(error).strip().splitlines()[0]} "
            "Needed: a .keras file of built-in layers, without Lambda."
        ) from None
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", type(last).__name__).lower()
    if activation in ("softmax", "sigmoid") and len(model.output_shape) == 2:
        raise BackboneError(
            f"{path} ends in a classifier ({last.name}); a backbone ends in features. Save it without: "
            f'keras.Model(model.input, model.layers[-2].output).save("{path.stem}_backbone.keras")'
        )
    return model


def keras_file_size(path: Path) -> int | None:
    """Input side that a `.keras` backbone is fixed to, pixels, or None if it takes any size."""
    shape = load_keras_file(path).input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise BackboneError(f"{path} takes input {shape}; needed: one square RGB image, (None, s, s, 3).")
    return None if shape[1] is None else int(shape[1])


def _with_rows(inputs: Any, outputs: Any, pooling: str, name: str, digest: str) -> BuiltBackbone:
    keras = import_keras()
    if isinstance(outputs, (list, tuple, dict)) or len(outputs.shape) not in (2, 4):
        raise BackboneError(f"{name} gives {outputs}; needed: one output of rank 2 or 4.")
    if len(outputs.shape) == 4:
        layers = keras.layers
        pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D, "flatten": layers.Flatten}
        outputs = pool[pooling](name="rows")(outputs)
    rows = keras.ops.cast(outputs, "float32")
    model = keras.Model(inputs, rows, name="backbone")
    return BuiltBackbone(model, digest, int(rows.shape[-1]))
