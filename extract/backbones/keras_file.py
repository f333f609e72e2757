"""Networks that a user keeps as a `.keras` file."""

import zipfile
from pathlib import Path
from typing import Any, ClassVar

from onepass.extract.backbones.bounded_model import load_bounded_model
from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.provider import Asked, BackboneFacts, KerasProvider, absolute, require_file
from onepass.extract.backbones.weights import file_hash, set_layer_weights
from onepass.extract.frameworks import import_keras
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.preprocess import Preprocess
from onepass.features.seal import matches_seal


class KerasFile(KerasProvider):
    """Models of Keras 3, which take values of 0 to 255 and do the rest themselves."""

    name: ClassVar[str] = "keras-file"

    def check(self, name: BackboneName, weights: str) -> None:
        require_file(name, weights, "a .keras file")

    def resolved(self, name: BackboneName) -> BackboneName:
        return absolute(name)

    def describe(self, asked: Asked) -> BackboneFacts:
        name, given = asked.name, asked.preprocess
        path = Path(name.network)
        own = Preprocess(resize="squash", size=asked.image_size or keras_file_size(path) or 224)
        if given is not None and given.resized(own.resize, own.size) != own:
            raise OptionError(
                f"{path.name} takes values of 0 to 255 and holds its own arithmetic; {opt.preprocess} says "
                f"{given.channels}, {given.arithmetic}. Put it into the model, as a Rescaling or "
                "Normalization layer."
            )
        return BackboneFacts(provider="keras", label=name.label, weights="own", origin=file_hash(path), preprocess=own)

    def network(
        self,
        name: BackboneName,
        *,
        weights: str,  # noqa: ARG002
        image_size: int,
        random: bool,
    ) -> tuple[Any, str]:
        return _network(name, image_size, random=random)

    def bare(self, name: BackboneName, image_size: int) -> Any:
        return _network(name, image_size)[0]

    def preprocessed(self, name: BackboneName, pixels: Any, preprocess: Preprocess | None) -> Any:  # noqa: ARG002
        return import_keras().ops.cast(pixels, "float32")

    def preprocessing_layers(self, name: BackboneName, preprocess: Preprocess | None) -> list[Any]:  # noqa: ARG002
        return [import_keras().layers.Rescaling(1.0)]


def _network(name: BackboneName, image_size: int, *, random: bool = False) -> tuple[Any, str]:
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
        raise unfit_size(path, image_size, error) from None
    for layer in model.layers:
        if layer.weights and (keep_weights or isinstance(layer, keras.layers.Normalization)):
            set_layer_weights(clone.get_layer(layer.name), layer.get_weights())
    return clone


def unfit_size(path: Path, image_size: int, error: Exception) -> BackboneError:
    return BackboneError(f"{path} cannot take {image_size} px RGB images: {str(error).splitlines()[0]}")


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
