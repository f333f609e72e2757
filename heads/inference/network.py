"""A fitted head as plain arrays that give probabilities or numbers by numpy alone; and its usual form, dense layers.

Rows and arrays are float32, sums are float64: BLAS orders the sums of a product by the shape of the batch, and in
float32 the probabilities of a row would change by 1e-6 with the rows beside it.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

Settings = dict[str, str | int | float]
"""What a network has besides arrays, as JSON takes it."""

OUTPUTS = ("softmax", "sigmoid")
"""Of the last layer, of a head of classes: one unit each, or a single one for two classes."""

EACH = {"softmax": "softmax", "sigmoid": "softmax", "sigmoids": "sigmoid", "linear": "linear"}
"""What a network makes of its scores -> the same as an activation of Keras that takes k scores."""

_ROWS_AT_ONCE = 4096


class Network(ABC):
    """A fitted head: it standardises rows and scores classes or labels, or gives numbers.

    Attributes:
        form: Its name in the head file.
        output: What becomes of k scores: softmax over classes; sigmoid, of a single unit, for two classes; sigmoids,
            one for each label; linear, which are numbers as they stand.
        mean: (d,) float32, subtracted from a row.
        scale: (d,) float32, divides it afterwards.
    """

    form: ClassVar[str]
    mean: np.ndarray
    scale: np.ndarray
    output: str

    @property
    def width(self) -> int:
        """Length d of the rows it takes."""
        return len(self.mean)

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number k of classes or labels; 1 for numbers."""

    @abstractmethod
    def scaled(self, factor: float | np.ndarray, shift: float | np.ndarray = 0.0) -> Self:
        """The same with all scores multiplied, which is what a temperature of 1 / factor does, and then shifted.

        Args:
            factor: One for all scores; or (k,), not for a softmax.
            shift: The same; 0 for a softmax.
        """

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All its arrays, by the names they have in the head file."""

    @abstractmethod
    def settings(self) -> Settings:
        """All its values that are no arrays."""

    @classmethod
    @abstractmethod
    def restore(cls, arrays: dict[str, np.ndarray], settings: Settings) -> Self:
        """The network of `arrays()` and `settings()`.

        Raises:
            ValueError, KeyError, TypeError: They do not fit each other.
        """

    @abstractmethod
    def _scores(self, x: np.ndarray) -> np.ndarray:
        """(n, d) standardised rows, float64 -> (n, k) scores."""

    def is_finite(self) -> bool:
        """True if no number in it is infinite or undefined."""
        return all(np.isfinite(array).all() for array in self.arrays().values())

    def require_sound(self) -> None:
        """Refuses numbers that no fit gives.

        Raises:
            ValueError: One is infinite or undefined, or rows would be divided by what is not above 0.
        """
        if not self.is_finite():
            raise ValueError("numbers that are not finite")
        if not (self.scale > 0).all():
            raise ValueError("a scale that is not above 0")

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, k) float64 that `output` makes probabilities or numbers of."""
        starts = range(0, max(len(rows), 1), _ROWS_AT_ONCE)
        pieces = (self.standardised(rows[start : start + _ROWS_AT_ONCE]) for start in starts)
        return np.concatenate([self._scores(piece.astype(np.float64)) for piece in pieces])

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, k) float64 probabilities, or (n, 1) numbers; (n, v, d) are averaged over the v views."""
        if rows.ndim == 3:
            n, views, width = rows.shape
            each = self.outputs(rows.reshape(n * views, width))
            return np.asarray(each.reshape(n, views, self.classes).mean(axis=1))
        return _ACTIVATED[EACH[self.output]](self.scores(rows))

    def standardised(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> the same with the mean subtracted, divided by the scale."""
        return np.asarray((np.asarray(rows, np.float32) - self.mean) / self.scale)


@dataclass(frozen=True, eq=False)
class DenseNetwork(Network):
    """Dense layers, the hidden ones with an activation.

    Attributes:
        mean, scale: As for `Network`.
        kernels: One (inputs, units) float32 per layer.
        biases: One (units,) float32 per layer.
        output: As for `Network`; a single sigmoid unit gives the probability of the second class.
        activation: Of the hidden layers, by Keras's name.
    """

    form = "dense"
    mean: np.ndarray
    scale: np.ndarray
    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    output: str = "softmax"
    activation: str = "relu"

    @classmethod
    def identity(cls, k: int, output: str = "softmax") -> Self:
        """The network whose scores are its k inputs."""
        zeros = np.zeros(k, np.float32)
        return cls(zeros, np.ones(k, np.float32), (np.eye(k, dtype=np.float32),), (zeros,), output)

    @property
    def classes(self) -> int:
        return 2 if self.output == "sigmoid" else len(self.biases[-1])

    def scaled(self, factor: float | np.ndarray, shift: float | np.ndarray = 0.0) -> Self:
        kernels = (*self.kernels[:-1], self.kernels[-1] * np.float32(factor))
        return replace(self, kernels=kernels, biases=(*self.biases[:-1], moved(self.biases[-1], factor, shift)))

    def arrays(self) -> dict[str, np.ndarray]:
        layers = zip(self.kernels, self.biases, strict=True)
        named = {
            f"{name}_{i}": array for i, pair in enumerate(layers) for name, array in zip(_LAYER, pair, strict=True)
        }
        return {"mean": self.mean, "scale": self.scale, **named}

    def settings(self) -> Settings:
        return {"output": self.output, "activation": self.activation}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], settings: Settings) -> Self:
        kernels, biases = (tuple(arrays[f"{name}_{i}"] for i in range((len(arrays) - 2) // 2)) for name in _LAYER)
        if not kernels:
            raise ValueError("no layers")
        sizes = [len(arrays["mean"]), *(len(bias) for bias in biases)]
        require_shapes(arrays, mean=(sizes[0],), scale=(sizes[0],))
        for i, (inputs, units) in enumerate(itertools.pairwise(sizes)):
            require_shapes(arrays, **{f"kernel_{i}": (inputs, units), f"bias_{i}": (units,)})
        output, activation = str(settings["output"]), str(settings["activation"])
        if output not in EACH or activation not in ACTIVATIONS:
            raise ValueError(f"output {output!r} after {activation!r}")
        if output == "sigmoid" and sizes[-1] != 1:
            raise ValueError(f"a sigmoid output of {sizes[-1]} units")
        return cls(arrays["mean"], arrays["scale"], kernels, biases, output, activation)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        logits = self.layers(x)
        # One sigmoid unit is a softmax over (0, logit).
        return np.concatenate([np.zeros_like(logits), logits], axis=1) if self.output == "sigmoid" else logits

    def layers(self, x: np.ndarray) -> np.ndarray:
        """(n, d) standardised rows -> (n, units) outputs of the last layer, before softmax or sigmoid."""
        last = len(self.kernels) - 1
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = np.asarray(x @ kernel + bias)
            if i < last:
                x = ACTIVATIONS[self.activation](x)
        return x


_LAYER = ("kernel", "bias")


def moved(values: np.ndarray, factor: float | np.ndarray, shift: float | np.ndarray) -> np.ndarray:
    """values * factor + shift, rounded to float32 once."""
    return np.asarray(values.astype(np.float64) * factor + shift, np.float32)


def output_of(settings: Settings) -> str:
    """What becomes of the scores of a network that is no softmax by nature.

    Raises:
        ValueError: It is unknown.
    """
    output = str(settings.get("output", "softmax"))
    if output not in ("softmax", "sigmoids", "linear"):
        raise ValueError(f"output {output!r}")
    return output


def require_shapes(arrays: dict[str, np.ndarray], **shapes: tuple[int, ...]) -> None:
    """Refuses arrays of another shape or type than float32.

    Raises:
        ValueError: Naming the first.
    """
    for name, shape in shapes.items():
        if arrays[name].dtype != np.float32 or arrays[name].shape != shape or 0 in shape:
            raise ValueError(f"{name} of shape {arrays[name].shape}, {arrays[name].dtype}; needed: {shape}, float32")


def _selu(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))))


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return np.asarray(x * ndtr(x))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": _selu,
    "gelu": _gelu,
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0),
}
"""Activations of hidden layers: Keras's name -> the same in numpy."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, k) logits -> (n, k) probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits of any shape -> the probability of each by itself."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) of each number; in single precision numpy's logaddexp takes nine times as long.

    >>> softplus(np.array([-1000.0, 0.0, 1000.0])).round(4).tolist()
    [0.0, 0.6931, 1000.0]
    """
    return np.asarray(np.maximum(x, 0) + np.log(1 + np.exp(-np.abs(x))))


_ACTIVATED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "linear": lambda scores: scores,
}


def standardisation(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and divisor of each feature: its standard deviation, but not below the average one.

    The average is the root mean square over all features. Dividing a feature that hardly ever moves
    by its own deviation would blow its rare moves up: on ReLU6 features, to thousands of deviations.

    Args:
        rows: (n, d) float32.

    Returns:
        (mean, scale), (d,) float32 each.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32), scale_of(rows.std(axis=0, dtype=np.float64), mean)


def scale_of(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Divisors of features from their (d,) standard deviations and means, float32; see `standardisation`."""
    average = np.sqrt(np.square(deviation).mean())
    # Rounding leaves rows that are all alike a deviation of about 1e-8 of their size, not exactly 0.
    floor = average if average > 1e-6 * np.abs(mean).max() else 1.0
    return np.asarray(np.maximum(deviation, floor), np.float32)
