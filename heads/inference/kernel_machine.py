"""A kernel machine as plain arrays: scores from Gaussian similarities to support vectors."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from onepass.heads.inference.network import Network, Settings, moved, output_of, require_shapes


@dataclass(frozen=True, eq=False)
class KernelMachine(Network):
    """Scores exp(-gamma |x - s|^2) @ coefficients + bias over support vectors s.

    Attributes:
        mean, scale: As for `Network`.
        support: (m, d) float32, standardised.
        coefficients: (m, k) float32.
        bias: (k,) float32.
        gamma: Above 0; 1 / gamma is a squared distance between standardised rows.
        output: As for `Network`.
    """

    form = "kernel"
    mean: np.ndarray
    scale: np.ndarray
    support: np.ndarray
    coefficients: np.ndarray
    bias: np.ndarray
    gamma: float
    output: str = "softmax"

    @property
    def classes(self) -> int:
        return len(self.bias)

    def scaled(self, factor: float | np.ndarray, shift: float | np.ndarray = 0.0) -> Self:
        coefficients = self.coefficients * np.float32(factor)
        return replace(self, coefficients=coefficients, bias=moved(self.bias, factor, shift))

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("mean", "scale", "support", "coefficients", "bias")
        return {name: getattr(self, name) for name in names}

    def settings(self) -> Settings:
        return {"gamma": self.gamma, **({} if self.output == "softmax" else {"output": self.output})}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], settings: Settings) -> Self:
        (m, d), k, gamma = arrays["support"].shape, len(arrays["bias"]), float(settings["gamma"])
        require_shapes(arrays, mean=(d,), scale=(d,), support=(m, d), coefficients=(m, k), bias=(k,))
        if not 0 < gamma < float("inf") or len(arrays) != 5:
            raise ValueError(f"gamma {gamma} and {len(arrays)} arrays")
        return cls(**arrays, gamma=gamma, output=output_of(settings))

    def _scores(self, x: np.ndarray) -> np.ndarray:
        distances = squared_distances(x, self.support)
        return np.asarray(np.exp(-self.gamma * distances) @ self.coefficients + self.bias)


def squared_distances(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, d) and (m, d) -> (n, m) squared Euclidean distances, none below 0."""
    lengths = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("md,md->m", others, others)
    return np.asarray(np.maximum(lengths - 2 * (x @ others.T), 0))
