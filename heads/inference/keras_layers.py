"""A head as the plain Keras model it stands for."""

from typing import Any

import numpy as np

from onepass.extract import plain_keras, quiet_stderr
from onepass.features.errors import OptionError
from onepass.heads.inference.network import DenseNetwork, Network

Keras = Any
"""The module, a model or a layer: Keras has no types of its own, and is imported late."""


def to_keras(network: Network, *, dropout: float = 0.0, name: str = "head") -> Keras:
    """Builds the `keras.Sequential` that computes the same probabilities.

    Args:
        network: The fitted head.
        dropout: Rate after each hidden layer; only a training step would notice.
        name: Of the model.

    Returns:
        Model of (b, d) rows -> (b, k) probabilities, or (b, 1) of the second class for a sigmoid.

    Raises:
        OptionError: The head is not made of dense layers.
    """
    if not isinstance(network, DenseNetwork):
        raise OptionError(
            f"a head of form {network.form} has no Keras layers. Use one made of dense layers, such as mlp or logreg.",
            form=network.form,
        )
    with plain_keras() as keras, quiet_stderr():
        rows = keras.Input((network.width,), name="rows")
        return keras.Sequential([rows, *head_layers(keras, network, dropout=dropout)], name=name)


def head_layers(keras: Keras, network: DenseNetwork, *, dropout: float = 0.0, output: str | None = None) -> list[Keras]:
    """The layers of a head, built and with its weights; to be called within `plain_keras()`.

    Args:
        keras: The module.
        network: The fitted head.
        dropout: Rate after each hidden layer; only a training step would notice.
        output: Activation of the last layer; by default the head's own.
    """
    variance = np.square(network.scale, dtype=np.float64)
    layers = [keras.layers.Normalization(mean=network.mean, variance=variance, name="standardise")]
    last = len(network.kernels) - 1
    for i, (kernel, bias) in enumerate(zip(network.kernels, network.biases, strict=True)):
        activation = network.activation if i < last else output or network.output.removesuffix("s")
        dense = keras.layers.Dense(len(bias), activation=activation, name=f"dense_{i + 1}")
        dense.build((None, len(kernel)))
        dense.set_weights([kernel, bias])
        layers.append(dense)
        if i < last and dropout:
            layers.append(keras.layers.Dropout(dropout, name=f"dropout_{i + 1}"))
    return layers


def summary(network: Network, *, dropout: float = 0.0) -> str:
    """Keras's own `model.summary()` of a head, as text."""
    lines: list[str] = []
    to_keras(network, dropout=dropout).summary(print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines)


def network_summary(model: Keras) -> str:
    """Keras's own `model.summary()` of a whole network, the layers of models within it included, as text.

    Args:
        model: A `keras.Model`. Layers are marked with what trains: Y or N.
    """
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line), expand_nested=True, show_trainable=True)
    return "\n".join(lines)
