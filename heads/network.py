"""A fitted head as plain arrays: standardise, dense layers, class probabilities, by numpy alone."""

from dataclasses import dataclass

import numpy as np

OUTPUTS = ("softmax", "sigmoid")


@dataclass(frozen=True, eq=False)
class DenseNetwork:
    """What every head becomes once it is fitted: ReLU layers and one output layer.

    Attributes:
        mean: (d,) float32, subtracted from a row.
        scale: (d,) float32, divides it afterwards.
        kernels: One (inputs, units) float32 per layer.
        biases: One (units,) float32 per layer.
        output: softmax over k units, or sigmoid of one unit (the probability of the second class).
    """

    mean: np.ndarray
    scale: np.ndarray
    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    output: str

    @property
    def width(self) -> int:
        """Length d of the rows it takes."""
        return len(self.mean)

    @property
    def classes(self) -> int:
        return 2 if self.output == "sigmoid" else len(self.biases[-1])

    def is_finite(self) -> bool:
        """True if no number in it is infinite or undefined."""
        return all(np.isfinite(a).all() for a in (self.mean, self.scale, *self.kernels, *self.biases))

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, units) float32 before softmax or sigmoid."""
        pieces = [self._logits(rows[start : start + 4096]) for start in range(0, len(rows), 4096)]
        return np.concatenate(pieces) if pieces else np.empty((0, len(self.biases[-1])), np.float32)

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) rows -> (n, k) float64 that sum to 1 along each row; (n, v, d) are averaged over the v views."""
        if rows.ndim == 3:
            n, views, width = rows.shape
            each = self.probabilities(rows.reshape(n * views, width))
            return np.asarray(each.reshape(n, views, self.classes).mean(axis=1))
        logits = self.logits(rows).astype(np.float64)
        if self.output == "sigmoid":
            # The same as a softmax over (0, logit), and as stable.
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        return softmax(logits)

    def _logits(self, rows: np.ndarray) -> np.ndarray:
        x: np.ndarray = (np.asarray(rows, np.float32) - self.mean) / self.scale
        last = len(self.kernels) - 1
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = np.asarray(x @ kernel + bias)
            if i < last:
                x = np.maximum(x, 0)
        return x


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, k) logits -> (n, k) probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


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
    scale = rows.std(axis=0, dtype=np.float64)
    average = np.sqrt(np.square(scale).mean())
    # Rounding leaves rows that are all alike a deviation of about 1e-8 of their size, not exactly 0.
    floor = average if average > 1e-6 * np.abs(mean).max() else 1.0
    return mean.astype(np.float32), np.maximum(scale, floor).astype(np.float32)
