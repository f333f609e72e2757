"""Keras's optimizers, with a learning rate of its own for each of many nets."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

Tensor = Any
"""Of Keras, which has no types of its own."""

_KINDS: dict[str, tuple[type, dict[str, float | bool]]] = {
    "adam": (keras.optimizers.Adam, {}),
    "adamw": (keras.optimizers.Adam, {}),  # what it adds to Adam is the caller's part
    "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "nadam": (keras.optimizers.Nadam, {}),
    "lion": (keras.optimizers.Lion, {}),
}


class _RatePerNet:
    """Goes before an optimizer of Keras, all of which take a learning rate that varies along an axis."""

    rates: np.ndarray

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        super().update_step(gradient, variable, learning_rate * self.rates)  # type: ignore[misc]


def optimizer_per_net(name: str, rates: Sequence[float]) -> keras.optimizers.Optimizer:
    """An optimizer of variables (m, inputs, units), m nets with a learning rate each.

    It leaves weight decay to the caller, since Keras knows one strength for all variables.

    Args:
        name: A key of `OPTIMIZERS`. sgd has Nesterov's momentum of 0.9; all else is Keras's default.
        rates: m learning rates.
    """
    kind, options = _KINDS[name]
    optimizer = type(kind.__name__, (_RatePerNet, kind), {})(1.0, **options)
    optimizer.rates = np.asarray(rates, np.float32)[:, None, None]
    return optimizer
