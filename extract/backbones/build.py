"""Builds a backbone as one Keras model: (b, s, s, 3) RGB pixels in, (b, d) float32 rows out."""

import contextlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.keras_applications import unloaded_network
from onepass.extract.backbones.proof import Reference
from onepass.extract.backbones.provider import Asked, Conversion, KerasProvider
from onepass.extract.backbones.providers import provider_of
from onepass.extract.backbones.stages import did_you_mean, trunk_of
from onepass.extract.backbones.weights import weights_hash
from onepass.extract.frameworks import import_keras, plain_keras, quiet_stderr
from onepass.features.errors import BackboneError
from onepass.features.preprocess import Preprocess


@dataclass(frozen=True)
class BuiltBackbone:
    """A Keras model with its preprocessing inside, and what its spec needs to know.

    Attributes:
        model: `keras.Model`, (b, s, s, 3) uint8 or float32 pixels -> (b, d) float32.
        network: The part of it between preprocessing and pooling, cut if its name says so.
        weights_hash: SHA-256 of the whole network's weights, hexadecimal.
        widths: Of the rows of each pooling that was asked for; they add up to d.
    """

    model: Any
    network: Any
    weights_hash: str
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        return sum(self.widths)


def build_backbone(
    name: str,
    *,
    weights: str | Path,
    image_size: int,
    pooling: str,
    precision: str = "float32",
    pixels: str = "uint8",
    preprocess: Preprocess | None = None,
    strategy: Any = None,
    random: int | None = None,
) -> BuiltBackbone:
    """Builds a network that Keras knows, with its weights.

    Args:
        name: As for `load_backbone`, paths absolute; it may be followed by @ and the layer after which the network is
            cut.
        weights: "imagenet" for its own, or a weights file.
        image_size: Side s of the input, pixels.
        pooling: How what it gives becomes (b, d); several with commas, whose rows lie one after the other.
        precision: float32, or bfloat16 for Keras's mixed policy (weights stay float32).
        pixels: uint8 or float32, the input's dtype; 0..255 either way.
        preprocess: What happens to pixels before it; needed where it does not follow from the name.
        strategy: `tf.distribute` strategy whose devices each get a copy of the weights.
        random: Seed of initial weights that stand in for the pretrained ones; also sets Keras's global seed.

    Raises:
        BackboneError: Keras does not know it, the file is no Keras model, or the size does not fit.
        WeightsError: The weights cannot be downloaded or do not fit.
    """
    parsed = BackboneName.parse(name)
    provider = keras_provider(parsed)
    # Keras announces downloads on stdout, which belongs to results.
    # The scope comes after the fresh session, which would throw it away.
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with plain_keras(precision) as keras, quiet_stderr() as stderr, contextlib.redirect_stdout(stderr), scope:
        if random is not None:
            keras.utils.set_random_seed(random)
        network, digest = provider.network(
            parsed, weights=str(weights), image_size=image_size, random=random is not None
        )
        if random is not None:
            digest = weights_hash(network)
        network = _cut(network, parsed) if parsed.layer else provider.for_pooling(network, pooling)
        return with_rows(
            network, parsed, image_size=image_size, pooling=pooling, pixels=pixels, digest=digest, preprocess=preprocess
        )


def keras_provider(name: BackboneName) -> KerasProvider:
    """The provider of a network that Keras can train.

    Raises:
        BackboneError: It is a graph that OpenVINO runs.
    """
    provider = provider_of(name)
    if not isinstance(provider, KerasProvider):
        kind = "an ONNX graph" if provider.name == "onnx" else f"a graph of {provider.name}"
        raise BackboneError(
            f"{name.label} is {kind}, which Keras neither runs nor trains. Needed here: a backbone that Keras builds, "
            "which is one of `onepass backbones`, a .keras file, hf:... or keras-hub:...; extract with it first.",
            backbone=str(name),
        )
    return provider


def keras_reference(built: BuiltBackbone, wanted: Conversion) -> Reference:
    """A backbone as Keras runs it, fed by its provider's own transform where that is installed."""
    provider = keras_provider(wanted.name)

    def rows(seen: np.ndarray) -> np.ndarray:
        with plain_keras():
            outputs, label = built.network(seen, training=False), wanted.facts.label
            parts = provider.rows(outputs, wanted.pooling, label)
            found = [np.asarray(import_keras().ops.convert_to_numpy(part), np.float32) for part in parts]
            return np.concatenate(found, axis=-1)

    return Reference(f"Keras {version('keras')}", rows, provider.transform(wanted))


def build_unloaded(name: str, image_size: int) -> BuiltBackbone:
    """A catalogue backbone that averages, whose weights are yet to be set; nothing is downloaded.

    There is no hash of its weights: on OpenVINO, Keras computes each that was not set when somebody reads it.
    """
    network = unloaded_network(name, image_size)
    return with_rows(network, BackboneName.parse(name), image_size=image_size, pooling="avg", pixels="uint8", digest="")


def bare_network(name: str, image_size: int | None = None) -> Any:
    """A network to look at: its layers have shapes, and none of it was downloaded.

    Args:
        name: As for `build_backbone`.
        image_size: Pixels; by default the network's own.

    Raises:
        BackboneError: The name is unknown, the file is no Keras model, or the size does not fit.
    """
    parsed = BackboneName.parse(name)
    provider = keras_provider(parsed)
    facts = provider.describe(Asked(parsed, image_size=image_size))
    with plain_keras(), quiet_stderr():
        network = provider.bare(parsed, facts.preprocess.size)
        return _cut(network, parsed) if parsed.layer else network


def _cut(network: Any, name: BackboneName) -> Any:
    names = [layer.name for layer in network.layers]
    if name.layer in names[1:]:
        return trunk_of(network, name.layer)
    raise BackboneError(
        f"{name.network} has no layer {name.layer!r} to be cut after. {did_you_mean(name.layer, names[1:])}"
        f"`onepass backbones --stages {name.network}` lists good places."
    )


def with_rows(
    network: Any,
    name: BackboneName,
    *,
    image_size: int,
    pooling: str,
    pixels: str,
    digest: str,
    preprocess: Preprocess | None = None,
) -> BuiltBackbone:
    """Preprocessing before a network and pooling behind it; arguments as for `build_backbone`."""
    keras, provider = import_keras(), keras_provider(name)
    inputs = keras.Input((image_size, image_size, 3), dtype=pixels)
    try:
        outputs = network(provider.preprocessed(name, inputs, preprocess))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise BackboneError(f"{name.network} cannot take {image_size} px RGB images: {reason}") from None
    parts = [keras.ops.cast(part, "float32") for part in provider.rows(outputs, pooling, name.label)]
    rows = parts[0] if len(parts) == 1 else keras.ops.concatenate(parts, axis=-1)
    widths = tuple(int(part.shape[-1]) for part in parts)
    return BuiltBackbone(keras.Model(inputs, rows, name="backbone"), network, digest, widths)
