"""What a provider of backbones answers; each one lives in a file of its own and is found by `providers`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.proof import Proof, Reference, Transform, prove
from onepass.extract.frameworks import import_keras
from onepass.features.errors import BackboneError, OptionError, opt
from onepass.features.preprocess import Preprocess

MAP_POOLINGS = ("avg", "max", "flatten")
"""How a feature map, (b, h, w, c), becomes rows."""

TEXT_TOWERS = (
    "CLIP, SigLIP, SigLIP 2 and MetaCLIP 2 as keras-hub:PRESET, and MetaCLIP 2 as hf:owner/name or a folder of "
    "transformers"
)
"""Networks that have a text tower."""


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """What is known of a network before its weights are read.

    Attributes:
        provider: Where it comes from, as a spec says it.
        label: What specs and file names call it.
        weights: What a spec calls its weights: imagenet, own, pretrained, or the name of a file.
        origin: Hash of its files, or name and version of where else its weights come from: with the label, what a
            converted graph depends on.
        preprocess: What happens to an image before it, at its own size.
        native: Whether `preprocess.resize` is what it was trained with, and so the default.
        fixed_size: Whether it takes images of its own size alone.
        poolings: Those it has; the first is its default.
        width: Length of a row by the default pooling; None if that is known once it is built.
        parameters: Numbers in its weights; None if not known.
        licence: Of its weights, as far as it is known.
    """

    provider: str
    label: str
    weights: str
    origin: str
    preprocess: Preprocess
    native: bool = False
    fixed_size: bool = False
    poolings: tuple[str, ...] = MAP_POOLINGS
    width: int | None = None
    parameters: int | None = None
    licence: str = ""

    def preprocess_for(self, resize: str | None, image_size: int | None) -> Preprocess:
        """What happens to an image with the settings of a user; None is the network's own.

        Raises:
            OptionError: It does not know its own rule, takes no other size, or the rule does not give that size.
        """
        own, size = self.preprocess, image_size or self.preprocess.size
        if self.fixed_size and size != own.size:
            raise OptionError(f"{self.label} takes images of {own.size} px alone; leave {opt.image_size(size)} out.")
        if resize == "native" and not self.native:
            raise OptionError(
                f"{self.label} does not say by which rule its training images were resized; needed: another "
                f"{opt.resize} than native."
            )
        rule = str(own.rule.scaled(own.size, size)) if resize in (None, "native") else str(resize)
        made = own.resized(rule, size)
        if made.rule.method == "shortest" and made.rule.shortest < size:
            raise OptionError(f"{opt.resize(rule)} leaves less than the {size} px that {self.label} takes.")
        return made

    def pooling_for(self, pooling: str | None) -> str:
        """The pooling of a user, or several with commas, or the default.

        Raises:
            OptionError: The network does not have it.
        """
        for one in pooling.split(",") if pooling is not None else ():
            if one not in self.poolings:
                raise OptionError(
                    f"{opt.pooling} is {one!r}; {self.label} has {', '.join(self.poolings)}.", pooling=pooling
                )
        return pooling or self.poolings[0]


@dataclass(frozen=True)
class Asked:
    """What is known of a network that is to be described.

    Attributes:
        name: With an absolute path, if it is one.
        weights: "imagenet" for its own, or a file.
        image_size: As the user gave it; saves looking for the network's own.
        preprocess: As the user gave it, or as a spec remembers it.
    """

    name: BackboneName
    weights: str = "imagenet"
    image_size: int | None = None
    preprocess: Preprocess | None = None


class Provider(ABC):
    """Where backbones come from.

    Attributes:
        name: What stands before the colon in `name:network`.
    """

    name: ClassVar[str]

    @abstractmethod
    def check(self, name: BackboneName, weights: str) -> None:
        """Refuses what can be told without reading a network; nothing heavy is imported.

        Args:
            name: As it was typed.
            weights: "imagenet" for its own, or a file.

        Raises:
            UnknownBackboneError, BackboneError, OptionError, WeightsError: The message says what to do.
        """

    @abstractmethod
    def describe(self, asked: Asked) -> BackboneFacts:
        """Facts of a network that passed `check`; its weights need not be read for them.

        Raises:
            BackboneError: There is none, or it cannot be used.
            OptionError: It is not known how it was trained to be fed, or differs from what was given.
        """

    def transform(self, wanted: "Conversion") -> Transform | None:  # noqa: ARG002
        """How the network's own framework feeds it, where that is installed and the resize rule is its own."""
        return None

    def resolved(self, name: BackboneName) -> BackboneName:
        """The name that finds the network from any folder."""
        return name

    def check_texts(self, name: BackboneName) -> None:
        """Refuses a network that gives no rows of texts; nothing heavy is imported. By default none does.

        Raises:
            BackboneError: It has no text tower, or what that needs is missing.
        """
        raise _no_text_tower(name)

    def text_rows(
        self,
        name: BackboneName,
        texts: Sequence[str],  # noqa: ARG002
        image_size: int,  # noqa: ARG002
    ) -> tuple[np.ndarray, str]:
        """Rows of n texts in the space of the rows of images by the pooling `pooled`.

        Args:
            name: Of a network that passed `check_texts`, with an absolute path if it is one.
            texts: Any length; what is longer than the network takes is cut.
            image_size: Side of the images, pixels.

        Returns:
            (n, d) float32, and the hash of the weights of the network beside the text tower, as in a spec.

        Raises:
            BackboneError: They cannot be computed.
        """
        raise _no_text_tower(name)


def _no_text_tower(name: BackboneName) -> BackboneError:
    return BackboneError(f"{name.label} has no text tower. Networks with one: {TEXT_TOWERS}.", backbone=name.label)


class KerasProvider(Provider):
    """A provider whose networks Keras builds, so that they can be trained further."""

    @abstractmethod
    def network(self, name: BackboneName, *, weights: str, image_size: int, random: bool) -> tuple[Any, str]:
        """The `keras.Model`, (b, s, s, 3) floats -> features, uncut, and the hash of its weights.

        Args:
            name: Without its layer being looked at.
            weights: "imagenet" for its own, or a file.
            image_size: Side s, pixels.
            random: Whether it keeps its initial weights; nothing is downloaded then.
        """

    @abstractmethod
    def bare(self, name: BackboneName, image_size: int) -> Any:
        """The network to look at: its layers have shapes, and none of it was downloaded."""

    @abstractmethod
    def preprocessed(self, name: BackboneName, pixels: Any, preprocess: Preprocess | None) -> Any:
        """What the network sees of (b, s, s, 3) RGB pixels of 0..255, any dtype, as a Keras tensor."""

    @abstractmethod
    def preprocessing_layers(self, name: BackboneName, preprocess: Preprocess | None) -> list[Any]:
        """`preprocessed` as built-in layers, equal to rounding; the legacy .h5 format can hold no operations."""

    def for_pooling(self, network: Any, pooling: str) -> Any:  # noqa: ARG002
        """The part of an uncut network that a pooling needs, with one output, or one for each of several.

        By default all of it.
        """
        return network

    def rows(self, outputs: Any, pooling: str, label: str) -> list[Any]:
        """What the network gives as (b, d) by each pooling."""
        poolings = pooling.split(",")
        apart = len(poolings) > 1 and isinstance(outputs, list | tuple) and len(outputs) == len(poolings)
        each = outputs if apart else [outputs] * len(poolings)
        return [self.pooled(output, one, label) for output, one in zip(each, poolings, strict=True)]

    def pooled(self, outputs: Any, pooling: str, label: str) -> Any:
        """What the network gives as (b, d); by default of a feature map, (b, h, w, c), or of (b, d) itself."""
        return pooled(outputs, pooling, label)


@dataclass(frozen=True)
class Conversion:
    """A graph that is wanted.

    Attributes:
        name: Of the network, with an absolute path if it is one.
        weights: "imagenet" for its own, or a file.
        facts: From `Provider.describe`.
        preprocess: What happens to an image; the graph does all but the resizing.
        pooling: How its output becomes rows; several with commas.
        pixels: uint8 or float32, the dtype of the input.
    """

    name: BackboneName
    weights: str
    facts: BackboneFacts
    preprocess: Preprocess
    pooling: str
    pixels: str


@dataclass(frozen=True)
class OnnxSource:
    """A network as an ONNX file.

    Attributes:
        path: Of the file.
        output: Name of the output, or of the tensor inside, that gives features; empty if it has one output.
        digest: SHA-256 of its weights, hexadecimal, as `GraphProvider.convert` gives it.
        pooled: Whether the output is rows already, by the pooling that was wanted.
    """

    path: Path
    output: str
    digest: str
    pooled: bool = False


class GraphProvider(Provider):
    """A provider whose networks are graphs that OpenVINO runs and nobody trains further.

    Attributes:
        gives_onnx: Whether it has them as ONNX files too, so that heads on them can be exported to ONNX.
    """

    gives_onnx: ClassVar[bool] = False

    @abstractmethod
    def convert(self, wanted: Conversion, graph: Path) -> tuple[str, tuple[int, ...]]:
        """Writes the OpenVINO graph: (b, s, s, 3) RGB pixels of 0..255 -> (b, d) float32 rows.

        Args:
            wanted: What it computes.
            graph: Where it goes, a path that ends in `.xml`.

        Returns:
            SHA-256 of the weights, hexadecimal, and the width of the rows of each pooling that is wanted; in the graph
            they lie one after the other.

        Raises:
            BackboneError: It cannot be converted.
        """

    def reference(self, wanted: Conversion) -> Reference | None:  # noqa: ARG002
        """The network as its own framework runs it, where that is installed."""
        return None

    def proof(self, wanted: Conversion, graph: Path) -> Proof | None:
        """How far a graph lies from what `reference` computes; None where that is not at hand."""
        reference = self.reference(wanted)
        return prove(graph, wanted.preprocess, reference) if reference else None

    def onnx(self, wanted: Conversion) -> OnnxSource:
        """Where the network lies as an ONNX file; only asked of providers that say `gives_onnx`.

        Raises:
            BackboneError: It cannot be had, or ONNX cannot hold it.
        """
        raise BackboneError(f"{wanted.facts.label} cannot be had as an ONNX file.")


def require_file(name: BackboneName, weights: str, what: str) -> None:
    """Refuses a network that should be a file with its own weights.

    Raises:
        OptionError: It was given others.
        BackboneError: There is no such file.
    """
    if weights != "imagenet":
        raise OptionError(f"{opt.weights} does not go with {what}, which brings its own weights.")
    if not Path(name.network).is_file():
        raise BackboneError(f"there is no backbone file {name.network}.", path=name.network)


def absolute(name: BackboneName) -> BackboneName:
    """The name of a file or folder that finds it from anywhere."""
    return BackboneName(str(Path(name.network).resolve()), name.layer)


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
    return pool[pooling](name=f"rows_{pooling}")(outputs)
