"""The networks of `keras.applications`, and EfficientNet-Lite."""

import contextlib
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from onepass.extract.backbones.catalogue import BUNDLED, BackboneName, CatalogueEntry, find_entry
from onepass.extract.backbones.efficientnet_lite import (
    build_lite,
    lite_package,
    load_lite_weights,
    require_lite_package,
)
from onepass.extract.backbones.proof import Transform
from onepass.extract.backbones.provider import Asked, BackboneFacts, Conversion, KerasProvider
from onepass.extract.backbones.weights import file_hash, load_weights_file, weights_hash
from onepass.extract.frameworks import import_keras
from onepass.features.errors import BackboneError, OptionError, WeightsError, opt
from onepass.features.preprocess import Preprocess


class KerasApplications(KerasProvider):
    """Networks by their name in the catalogue."""

    name: ClassVar[str] = "keras"

    def check(self, name: BackboneName, weights: str) -> None:
        entry = find_entry(name.network)
        if entry.lite and weights == "imagenet":
            require_lite_package(entry.name)

    def describe(self, asked: Asked) -> BackboneFacts:
        name, given = asked.name, asked.preprocess
        entry = find_entry(name.network)
        own = arithmetic(entry, asked.image_size or entry.image_size)
        if given is not None and given.resized(own.resize, own.size) != own:
            raise OptionError(
                f"{entry.name} was trained on {own.channels}, {own.arithmetic}; {opt.preprocess} says "
                f"{given.channels}, {given.arithmetic}. Leave it out."
            )
        return BackboneFacts(
            provider=self.name,
            label=name.label,
            weights="imagenet" if asked.weights == "imagenet" else Path(asked.weights).name,
            origin=_origin(entry, asked.weights),
            preprocess=own,
            width=None if name.layer else entry.width,
            licence=entry.licence if asked.weights == "imagenet" else "",
        )

    def transform(self, wanted: Conversion) -> Transform:
        entry = find_entry(wanted.name.network)

        def values(image: Image.Image, pixels: np.ndarray) -> np.ndarray:  # noqa: ARG001
            return np.asarray(import_keras().ops.convert_to_numpy(preprocess_input(entry, pixels)))

        return Transform(f"Keras {version('keras')}", values)

    def network(self, name: BackboneName, *, weights: str, image_size: int, random: bool) -> tuple[Any, str]:
        entry = find_entry(name.network)
        network = _network(entry, image_size, download=weights == "imagenet" and not random)
        if weights != "imagenet" and not random:
            load_weights_file(network, Path(weights), backbone=entry.name)
        return network, weights_hash(network)

    def bare(self, name: BackboneName, image_size: int) -> Any:
        with import_keras().StatelessScope():
            return _network(find_entry(name.network), image_size, download=False)

    def preprocessed(self, name: BackboneName, pixels: Any, preprocess: Preprocess | None) -> Any:  # noqa: ARG002
        return preprocess_input(find_entry(name.network), pixels)

    def preprocessing_layers(self, name: BackboneName, preprocess: Preprocess | None) -> list[Any]:  # noqa: ARG002
        return preprocessing_layers(find_entry(name.network))


def unloaded_network(name: str, image_size: int) -> Any:
    """A network of the catalogue whose weights are yet to be set; nothing is downloaded."""
    return _network(find_entry(name), image_size, download=False)


def preprocess_input(entry: CatalogueEntry, pixels: Any) -> Any:
    """The step before the network: (b, h, w, 3) RGB of 0..255, any dtype -> float32, as `entry` was trained."""
    keras = import_keras()
    pixels = keras.ops.cast(pixels, "float32")
    if entry.lite:
        return (pixels - 127.0) / 128.0
    return getattr(keras.applications, entry.module).preprocess_input(pixels)


_DEVIATIONS = (0.229, 0.224, 0.225)
_MEANS = {"torch": (0.485, 0.456, 0.406), "caffe": (103.939, 116.779, 123.68)}  # the latter of B, G, R
_MODES = {
    "densenet": "torch",
    "efficientnet_lite": "lite",
    "resnet": "caffe",
    "vgg16": "caffe",
    "vgg19": "caffe",
    **dict.fromkeys(
        ("inception_resnet_v2", "inception_v3", "mobilenet", "mobilenet_v2", "nasnet", "resnet_v2", "xception"), "tf"
    ),
}


def arithmetic(entry: CatalogueEntry, image_size: int) -> Preprocess:
    """`preprocess_input` as data; networks that hold their own arithmetic take values as they are."""
    if entry.lite:
        return Preprocess(resize="squash", size=image_size, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    mode = _MODES.get(entry.module, "")
    if mode == "tf":
        return Preprocess(resize="squash", size=image_size, rescale=1 / 127.5, mean=(1.0, 1.0, 1.0))
    if mode == "torch":
        return Preprocess(resize="squash", size=image_size, rescale=1 / 255, mean=_MEANS[mode], std=_DEVIATIONS)
    if mode == "caffe":
        return Preprocess(resize="squash", size=image_size, channels="BGR", mean=_MEANS[mode])
    return Preprocess(resize="squash", size=image_size)


def preprocessing_layers(entry: CatalogueEntry) -> list[Any]:
    """`preprocess_input` as built-in layers, equal to rounding.

    The legacy .h5 format can hold layers, but no operations such as a cast.
    """
    layers = import_keras().layers
    mode = _MODES.get(entry.module, "")
    if mode == "lite":
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


def _origin(entry: CatalogueEntry, weights: str) -> str:
    if weights != "imagenet":
        return file_hash(Path(weights))
    if not entry.lite:
        return "imagenet"
    package = lite_package(entry.name)
    return f"{package} {version(package)}"


def _network(entry: CatalogueEntry, image_size: int, *, download: bool) -> Any:
    keras = import_keras()
    if entry.lite:
        model = build_lite(entry.name, image_size)
        if download:
            load_lite_weights(model)
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
