"""A head as the plain Keras model it stands for."""

from typing import Any

import numpy as np

from features.errors import OptionError
from features.frameworks import plain_keras, quiet_stderr
from heads.network import DenseNetwork, Network


def to_keras(network: Network, *, dropout: float = 0.0, name: str = "head") -> Any:
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
            f"a head of form {network.form} has no Keras layers. Use one made of dense layers, such as mlp or logreg."
        )
    with plain_keras() as keras, quiet_stderr():
        return _sequential(keras, network, dropout, name)


def _sequential(keras: Any, network: DenseNetwork, dropout: float, name: str) -> Any:
    layers = [keras.Input((network.width,), name="rows")]
    variance = np.square(network.scale, dtype=np.float64)
    layers.append(keras.layers.Normalization(mean=network.mean, variance=variance, name="standardise"))
    last = len(network.kernels) - 1
    for i, bias in enumerate(network.biases):
        activation = network.activation if i < last else network.output
        layers.append(keras.layers.Dense(len(bias), activation=activation, name=f"dense_{i + 1}"))
        if i < last and dropout:
            layers.append(keras.layers.Dropout(dropout, name=f"dropout_{i + 1}"))
    model = keras.Sequential(layers, name=name)
    dense = [layer for layer in model.layers if layer.name.startswith("dense_")]
    for layer, kernel, bias in zip(dense, network.kernels, network.biases, strict=True):
        layer.set_weights([kernel, bias])
    return model


def summary(network: Network, *, dropout: float = 0.0) -> str:
    """Keras's own `model.summary()` of a head, as text."""
    lines: list[str] = []
    to_keras(network, dropout=dropout).summary(print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines)
