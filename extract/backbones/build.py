"""Builds a backbone as one Keras model: (b, s, s, 3) RGB pixels in, (b, d) float32 rows out."""

import contextlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.bounded_model import load_bounded_model
from onepass.extract.backbones.catalogue import BUNDLED, BackboneName, CatalogueEntry, find_entry
from onepass.extract.backbones.efficientnet_lite import build_lite0, load_bundled_weights
from onepass.extract.backbones.stages import did_you_mean, trunk_of
from onepass.extract.backbones.weights import file_hash, load_weights_file, set_layer_weights, weights_hash
from onepass.extract.frameworks import import_keras, plain_keras, quiet_stderr
from onepass.features.errors import BackboneError, WeightsError, opt
from onepass.features.seal import matches_seal

POOLINGS = ("avg", "max", "flatten")


@dataclass(frozen=True)
class BuiltBackbone:
    """A Keras model with its preprocessing inside, and what its spec needs to know.

    Attributes:
        model: `keras.Model`, (b, s, s, 3) uint8 or float32 pixels -> (b, d) float32.
        network: The part of it between preprocessing and pooling, cut if its name says so.
        weights_hash: SHA-256 of the whole network's weights, hexadecimal.
        width: d.
    """

    model: Any
    network: Any
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
    random: int | None = None,
) -> BuiltBackbone:
    """Builds a catalogue backbone or loads a local `.keras` file.

    Args:
        name: Catalogue name, or a path that ends in `.keras`; either may be followed by @ and the layer
            after which the network is cut.
        weights: "imagenet", or a weights file. A `.keras` file brings its own.
        image_size: Side s of the input, pixels.
        pooling: avg, max or flatten; how (b, h, w, c) becomes (b, d).
        precision: float32, or bfloat16 for Keras's mixed policy (weights stay float32).
        pixels: uint8 or float32, the input's dtype; 0..255 either way.
        strategy: `tf.distribute` strategy whose devices each get a copy of the weights.
        random: Seed of initial weights that stand in for the pretrained ones; also sets Keras's global seed.

    Raises:
        BackboneError: The name is unknown, the file is no Keras model, or the size does not fit.
        WeightsError: The weights cannot be downloaded or do not fit.
    """
    parsed = BackboneName.parse(name)
    # Keras announces downloads on stdout, which belongs to results.
    # The scope comes after the fresh session, which would throw it away.
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with plain_keras(precision) as keras, quiet_stderr() as stderr, contextlib.redirect_stdout(stderr), scope:
        if random is not None:
            keras.utils.set_random_seed(random)
        if parsed.own:
            network, digest = _own_network(parsed, image_size, random=random is not None)
        else:
            network, digest = _pretrained_network(parsed.network, weights, image_size, random=random is not None)
        if random is not None:
            digest = weights_hash(network)
        if parsed.layer:
            network = _cut(network, parsed)
        return _with_rows(network, parsed, image_size, pooling, pixels, digest)


def build_unloaded(name: str, image_size: int) -> BuiltBackbone:
    """A catalogue backbone that averages, whose weights are yet to be set; nothing is downloaded.

    There is no hash of its weights: on OpenVINO, Keras computes each that was not set when somebody reads it.
    """
    network = _network(find_entry(name), image_size, download=False)
    return _with_rows(network, BackboneName.parse(name), image_size, "avg", "uint8", digest="")


def bare_network(name: str, image_size: int | None = None) -> Any:
    """A network to look at: its layers have shapes, and none of it was downloaded.

    Args:
        name: As for `build_backbone`.
        image_size: Pixels; by default the network's own.

    Raises:
        BackboneError: The name is unknown, the file is no Keras model, or the size does not fit.
    """
    parsed = BackboneName.parse(name)
    size = image_size or default_image_size(parsed)
    with plain_keras() as keras, quiet_stderr():
        if parsed.own:
            network, _ = _own_network(parsed, size)
        else:
            with keras.StatelessScope():
                network = _network(find_entry(parsed.network), size, download=False)
        return _cut(network, parsed) if parsed.layer else network


def default_image_size(name: BackboneName) -> int:
    """Input side that a backbone was made for, pixels; 224 for a `.keras` file that takes any.

    Raises:
        BackboneError: The name is unknown, or the file takes no square image.
    """
    if name.own:
        return keras_file_size(Path(name.network)) or 224
    return find_entry(name.network).image_size


def preprocess(entry: CatalogueEntry, pixels: Any) -> Any:
    """The step before the network: (b, h, w, 3) RGB of 0..255, any dtype -> float32, as `entry` was trained."""
    keras = import_keras()
    pixels = keras.ops.cast(pixels, "float32")
    if entry.name == BUNDLED:
        return (pixels - 127.0) / 128.0
    return getattr(keras.applications, entry.module).preprocess_input(pixels)


_DEVIATIONS = (0.229, 0.224, 0.225)
_MEANS = {"torch": (0.485, 0.456, 0.406), "caffe": (103.939, 116.779, 123.68)}  # the latter of B, G, R
_MODES = {
    "densenet": "torch",
    "resnet": "caffe",
    "vgg16": "caffe",
    "vgg19": "caffe",
    **dict.fromkeys(
        ("inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2", "nasnet", "resnet_v2", "xception"), "tf"
    ),
}


def preprocessing_layers(entry: CatalogueEntry | None) -> list[Any]:
    """`preprocess` as built-in layers, equal to rounding; None stands for a network that brings its own.

    The legacy .h5 format can hold layers, but no operations such as a cast.
    """
    layers = import_keras().layers
    mode = "" if entry is None else entry.name if entry.name == BUNDLED else _MODES.get(entry.module, "")
    if mode == BUNDLED:
        return [layers.Rescaling(1 / 128, offset=-127 / 128)]
    if mode == "tf":
        return [layers.Rescaling(1 / 127.5, offset=-1)]
    if mode == "torch":
        variance = np.square(_DEVIATIONS)
        return [layers.Rescaling(1 / 255), layers.Normalization(mean=_MEANS[mode], variance=variance)]
    if mode == "caffe":
        swap = layers.Conv2D(3, 1, name="rgb_to_bgr", trainable=False)
        swap.build((None, None, None, 3))
        swap.set_weights([np.eye(3, dtype=np.float32)[None, None, ::-1], -np.array(_MEANS[mode], np.float32)])
        return [layers.Rescaling(1.0), swap]
    return [layers.Rescaling(1.0)]


def _pretrained_network(name: str, weights: str | Path, image_size: int, *, random: bool) -> tuple[Any, str]:
    """A network of the catalogue, and the hash of its weights."""
    entry = find_entry(name)
    network = _network(entry, image_size, download=weights == "imagenet" and not random)
    if weights != "imagenet" and not random:
        load_weights_file(network, Path(weights), backbone=entry.name)
    return network, weights_hash(network)


def _network(entry: CatalogueEntry, image_size: int, *, download: bool) -> Any:
    keras = import_keras()
    if entry.name == BUNDLED:
        model = build_lite0(image_size)
        if download:
            load_bundled_weights(model)
        return model
    factory = getattr(keras.applications, entry.factory)
    shape = (image_size, image_size, 3)
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    if download:
        with contextlib.suppress(OSError):  # where there is none, Keras downloads to the folder for temporary files
            home.mkdir(parents=True, exist_ok=True)
    try:
        return factory(include_top=False, weights="imagenet" if download else None, input_shape=shape, **entry.options)
    except Exception as error:
        _require_size(factory, shape, entry)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the ImageNet weights of {entry.name} could not be loaded ({reason}). Give a file with {opt.weights}, "
            f"put Keras's own download into {home / 'models'}, or use the bundled {opt.backbone(BUNDLED)}."
        ) from None


def _require_size(factory: Any, shape: tuple[int, ...], entry: CatalogueEntry) -> None:
    """Refuses a size that does not fit. Asked after a failure: layers built before would change Keras's numbering."""
    try:
        with import_keras().StatelessScope():  # shapes without values
            factory(include_top=False, weights=None, input_shape=shape, **entry.options)
    except ValueError as error:
        raise BackboneError(f"{entry.name} cannot take {shape[0]} px images: {error}") from None


def _own_network(name: BackboneName, image_size: int, *, random: bool = False) -> tuple[Any, str]:
    """A `.keras` file's network for images of one size, functional where it can be, and the file's hash."""
    path = Path(name.network)
    keras, model = import_keras(), load_keras_file(path, classifier=bool(name.layer))
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    shape = getattr(model, "input_shape", None)
    any_size = isinstance(shape, tuple) and None in shape[1:]
    if random or any_size:
        model = _clone(model, image_size, path, keep_weights=not random)
    return model, file_hash(path)


def _clone(model: Any, image_size: int, path: Path, *, keep_weights: bool) -> Any:
    """The same layers for one size, with their weights, or new ones for all but what was adapted to data."""
    keras = import_keras()
    try:
        clone = keras.models.clone_model(model, input_tensors=keras.Input((image_size, image_size, 3)))
    except Exception as error:
        raise _unfit_size(path, image_size, error) from None
    for layer in model.layers:
        if layer.weights and (keep_weights or isinstance(layer, keras.layers.Normalization)):
            set_layer_weights(clone.get_layer(layer.name), layer.get_weights())
    return clone


def _unfit_size(path: Path, image_size: int, error: Exception) -> BackboneError:
    return BackboneError(f"{path} cannot take {image_size} px RGB images: {str(error).splitlines()[0]}")


def _cut(network: Any, name: BackboneName) -> Any:
    names = [layer.name for layer in network.layers]
    if name.layer in names[1:]:
        return trunk_of(network, name.layer)
    raise BackboneError(
        f"{name.network} has no layer {name.layer!r} to be cut after. {did_you_mean(name.layer, names[1:])}"
        f"`onepass backbones --stages {name.network}` lists good places."
    )


def load_keras_file(path: Path, *, classifier: bool = False) -> Any:
    """Loads a backbone of the user's own; nothing stored in the file is run as code.

    Args:
        path: The file.
        classifier: Whether it may end in one, because it will be cut.

    Raises:
        BackboneError: No such file, not a Keras 3 model, code inside, or a classifier at its end.
    """
    if not path.is_file():
        raise BackboneError(f"there is no backbone file {path}.")
    if not zipfile.is_zipfile(path):
        raise BackboneError(f"{path} is no .keras file of Keras 3 (which is a zip). Save the model again in Keras 3.")
    if not matches_seal(path):
        raise BackboneError(f"{path} is damaged: its bytes do not match their checksum. Take it from a copy.")
    try:
        model = load_bounded_model(path)
    except Exception as error:
        raise BackboneError(
            f"{path} cannot be loaded as a Keras model: {str(error).strip().splitlines()[0]} "
            "Needed: a .keras file of built-in layers, without Lambda."
        ) from None
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", type(last).__name__).lower()
    if not classifier and activation in ("softmax", "sigmoid") and len(model.output_shape) == 2:
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


def _with_rows(
    network: Any, name: BackboneName, image_size: int, pooling: str, pixels: str, digest: str
) -> BuiltBackbone:
    """Preprocessing before the network and pooling behind it."""
    keras = import_keras()
    inputs = keras.Input((image_size, image_size, 3), dtype=pixels)
    if name.own:
        try:
            outputs = network(keras.ops.cast(inputs, "float32"))
        except Exception as error:
            raise _unfit_size(Path(name.network), image_size, error) from None
    else:
        outputs = network(preprocess(find_entry(name.network), inputs))
    rows = keras.ops.cast(pooled(outputs, pooling, name.label), "float32")
    return BuiltBackbone(keras.Model(inputs, rows, name="backbone"), network, digest, int(rows.shape[-1]))


def pooled(outputs: Any, pooling: str, name: str) -> Any:
    """What a network gives, (b, h, w, c) or (b, d), as (b, d).

    Raises:
        BackboneError: It gives something else.
    """
    if isinstance(outputs, (list, tuple, dict)) or len(outputs.shape) not in (2, 4):
        raise BackboneError(f"{name} gives {outputs}; needed: one output of rank 2 or 4.")
    if len(outputs.shape) == 2:
        return outputs
    layers = import_keras().layers
    pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D, "flatten": layers.Flatten}
    return pool[pooling](name="rows")(outputs)
