"""Backbone and head as one Keras model that starts exactly where the head ended."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onepass.extract import KerasLayer, KerasModel, KerasVariable, TrainableBackbone, import_keras
from onepass.features.errors import OptionError, TrainingError, opt
from onepass.heads.head_options import LAYERED, OF_TEXTS, require_kind
from onepass.heads.inference.keras_layers import head_layers
from onepass.heads.inference.network import DenseNetwork, Network

LOGIT_TOLERANCE = 2.0**-10
"""Largest difference between logits of the joined model and of the head on cached float32 rows, in units of the largest
logit, or of 1 where all are smaller.

float32 rounds to 2**-24 of a number. A layer that adds up m products is off by about sqrt(m) of that, and l layers by
sqrt(l m): at m = 4608 (512 channels of 3 x 3) and l = 150, the largest of the catalogue's, by 2**-14. The head's own
sum cancels, which costs some bits more: its terms may be 2**4 times as large as what is left of them.
"""

_REDUCED_AGREE = 0.95
"""Least share of equal labels where the cached rows are of reduced precision, and logits cannot be compared."""


@dataclass(frozen=True, eq=False)
class Joined:
    """A backbone with a head of dense layers on top, as Keras layers.

    Attributes:
        backbone: The network.
        layers: Of the head: standardisation, dense layers, dropout; the last one gives logits.
    """

    backbone: TrainableBackbone
    layers: list[KerasLayer]

    @classmethod
    def of(cls, backbone: TrainableBackbone, head: Network, *, dropout: float = 0.0) -> "Joined":
        """Joins a fitted head to the network its rows come from; within `plain_keras()`.

        Raises:
            OptionError: The head is not made of dense layers.
        """
        with backbone.strategy.scope():
            layers = head_layers(import_keras(), as_softmax(require_layers(head)), dropout=dropout, output="linear")
        return cls(backbone, layers)

    @contextlib.contextmanager
    def reduced(self) -> Iterator[None]:
        """Lets the network compute in the backbone's precision; its weights, pooling and the head stay in float32."""
        if self.backbone.precision == "float32":
            yield
            return
        before = {layer: layer.dtype_policy for layer in _all_layers(self.backbone.network)}
        for layer in before:
            layer.dtype_policy = f"mixed_{self.backbone.precision}"
        self.__dict__.pop("logits", None)  # which may have been traced in float32
        try:
            yield
        finally:
            for layer, policy in before.items():
                layer.dtype_policy = policy
            self.__dict__.pop("logits", None)

    @cached_property
    def logits(self) -> KerasModel:
        """`keras.Model`: (b, s, s, 3) pixels -> (b, k) logits."""
        return self._headed(self.backbone.model, "logits")

    def logits_above(self, boundary: str) -> KerasModel:
        """`keras.Model`: activations of the boundary, (b, h, w, c) or (b, t, d) -> (b, k) logits."""
        return self._headed(self.backbone.top(boundary), "logits_above")

    def augmented(self, random_layers: KerasModel) -> KerasModel:
        """`keras.Model` like `logits`, that draws a view of each image in training."""
        keras = import_keras()
        model = self.backbone.model
        pixels = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
        seen = random_layers(pixels)
        if model.inputs[0].dtype == "uint8":  # or the cast would cut off what follows the point
            seen = keras.ops.cast(keras.ops.round(seen), "uint8")
        return keras.Model(pixels, self.logits(seen), name="augmented")

    def probabilities(self, *, of_layers: bool = False, output: str = "softmax") -> KerasModel:
        """`keras.Model`: (b, s, s, 3) pixels -> (b, k) probabilities, of nothing but what Keras brings.

        Args:
            of_layers: Of layers alone, as the legacy .h5 format needs them.
            output: What becomes of the last layer's scores, as an activation of Keras; linear leaves numbers.
        """
        keras = import_keras()
        model = self.backbone.of_layers() if of_layers else self.backbone.model
        pixels = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="pixels")
        rows = model(pixels)
        for layer in self.layers:
            rows = layer(rows)
        return keras.Model(pixels, last_layer(keras, output)(rows), name="classifier")

    def scale_logits(self, factor: float) -> None:
        """Multiplies all logits, which is what a temperature of 1 / factor does."""
        last = self.layers[-1]
        last.set_weights([weight * np.float32(factor) for weight in last.get_weights()])

    def unfreeze(self, first: int, *, batchnorm: bool = False) -> None:
        """Lets the head and the layers of the network from `first` on train, and nothing else.

        A frozen BatchNorm uses its stored moments in training too, so those above `first` stay as they are in
        inference unless `batchnorm` is set: batches of photos of a few classes would ruin them. A LayerNorm looks at
        one token alone, so it trains with its block.
        """
        normalisation = import_keras().layers.BatchNormalization
        self.backbone.network.trainable = True
        for i, layer in enumerate(self.backbone.network.layers):
            layer.trainable = i >= first
            for part in _within(layer):
                if i >= first and isinstance(part, normalisation):
                    part.trainable = batchnorm

    def variables_from(self, first: int) -> list[KerasVariable]:
        """All variables that training from `first` on can change, seeds left out: of those layers and of the head."""
        layers = [*self.backbone.network.layers[first:], *self.layers[1:]]
        found = {variable.path: variable for layer in layers for variable in layer.variables}
        return [variable for path, variable in found.items() if "seed_generator" not in path]

    def _headed(self, model: KerasModel, name: str) -> KerasModel:
        keras = import_keras()
        outputs = model.outputs[0]
        for layer in self.layers:
            outputs = layer(outputs)
        return keras.Model(model.inputs[0], outputs, name=name)


def _all_layers(network: KerasModel) -> Iterator[KerasLayer]:
    """The layers of a network, and those that they are made of."""
    for layer in network.layers:
        yield from _within(layer)


def _within(layer: KerasLayer) -> Iterator[KerasLayer]:
    """A layer and those that it is made of: the blocks of a transformer hold theirs as attributes."""
    yield from layer._flatten_layers()


def require_layers(head: Network) -> DenseNetwork:
    """Refuses heads that no Keras layers compute.

    Raises:
        OptionError: With those that are layers.
    """
    if not isinstance(head, DenseNetwork):
        raise OptionError(
            f"a head of form {head.form} is no network of layers, so it cannot be trained with the backbone. "
            "Use one that is: logreg, svm, ridge, lda, centroid, mlp or linear."
        )
    return head


def require_layered(kind: str) -> None:
    """Refuses, before it is trained, a kind of head that no Keras layers compute.

    Raises:
        OptionError: With those that are layers.
    """
    require_kind(kind)
    if kind not in LAYERED:
        raise OptionError(
            f"{opt.head(kind)} is no network of layers, so it cannot be trained with the backbone. Needed: one of "
            f"{', '.join(one for one in LAYERED if one not in OF_TEXTS)}.",
            head=kind,
        )


def last_layer(keras: Any, output: str) -> KerasLayer:
    """The layer that makes probabilities or numbers of scores: softmax, sigmoid or linear."""
    if output == "softmax":
        return keras.layers.Softmax(dtype="float32", name="probabilities")
    return keras.layers.Activation(output, dtype="float32", name="numbers" if output == "linear" else "probabilities")


def as_softmax(network: DenseNetwork) -> DenseNetwork:
    """The same head with one unit per score: a single sigmoid is a softmax over 0 and its logit."""
    if network.output != "sigmoid":
        return network
    kernel, bias = network.kernels[-1], network.biases[-1]
    kernels = (*network.kernels[:-1], np.concatenate([np.zeros_like(kernel), kernel], axis=1))
    biases = (*network.biases[:-1], np.concatenate([np.zeros_like(bias), bias]))
    return replace(network, kernels=kernels, biases=biases, output="softmax")


def random_head(like: DenseNetwork, seed: int) -> DenseNetwork:
    """A head of the same layers with random weights (X. Glorot and Y. Bengio, 2010) that does not standardise."""
    random = np.random.default_rng(seed)
    like = as_softmax(like)
    kernels = tuple(
        (random.normal(size=kernel.shape) * np.sqrt(2 / sum(kernel.shape))).astype(np.float32)
        for kernel in like.kernels
    )
    biases = tuple(np.zeros_like(bias) for bias in like.biases)
    return replace(like, mean=np.zeros_like(like.mean), scale=np.ones_like(like.scale), kernels=kernels, biases=biases)


@dataclass(frozen=True)
class Agreement:
    """How the joined model compares with the head on cached rows, before the first step.

    Attributes:
        images: Compared.
        largest: Largest difference of a logit.
        flips: Images with another label, ties within the tolerance left out.
        tolerance: What a logit may differ by: `LOGIT_TOLERANCE` of the largest.
    """

    images: int
    largest: float
    flips: int
    tolerance: float = LOGIT_TOLERANCE

    def __str__(self) -> str:
        return f"{self.images} images, {self.flips} labels differ, logits by {self.largest:.1e} at most"


def require_agreement(
    joined: np.ndarray, cached: np.ndarray, *, precision: str, name: Callable[[int], str]
) -> Agreement:
    """Compares logits of the joined model with those of the head on cached rows.

    Args:
        joined, cached: (m, k) logits of the same images.
        precision: That the cached rows were computed in. Below float32 only labels are compared.
        name: Position among the m -> path of the image.

    Raises:
        TrainingError: They are not the same model.
    """
    away = np.abs(joined - cached).max(axis=1)
    top = np.sort(cached, axis=1)
    exact = precision == "float32"
    tolerance = LOGIT_TOLERANCE * max(1.0, float(np.abs(cached).max()))
    tied = top[:, -1] - top[:, -2] <= (2 * tolerance if exact else 0)
    flipped = (joined.argmax(axis=1) != cached.argmax(axis=1)) & ~tied
    found = Agreement(len(away), float(away.max()), int(flipped.sum()), tolerance)
    sound = (found.largest <= tolerance and not found.flips) if exact else flipped.mean() <= 1 - _REDUCED_AGREE
    if not sound or not np.isfinite(away).all():
        worst = int(away.argmax())
        raise TrainingError(
            f"the joined model is not the head that was trained: {found}; needed: no label, logits within "
            f"{tolerance:.2g}. Most of all differs {name(worst)}: {joined[worst].round(4).tolist()} against "
            f"{cached[worst].round(4).tolist()}. Check the rows with `onepass verify`, then train the head again.",
            agreement=found,
        )
    return found
