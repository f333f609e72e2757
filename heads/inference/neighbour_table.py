"""Nearest neighbours as plain arrays: the training rows, and how their votes become probabilities."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from onepass.heads.inference.network import Network, Settings, require_shapes


@dataclass(frozen=True, eq=False)
class NeighbourTable(Network):
    """Scores from the votes of the nearest training rows by cosine, see `vote_scores`.

    Attributes:
        mean, scale: As for `Network`.
        memory: (m, d) float32, standardised training rows of length 1.
        votes: (m, k) float32, the weight of each row for its class.
        neighbours: How many vote.
        decay: Cosine over which a vote loses a factor e.
        inverse_temperature: Factor on the scores; "sharpness" in the head file.
    """

    form = "neighbours"
    mean: np.ndarray
    scale: np.ndarray
    memory: np.ndarray
    votes: np.ndarray
    neighbours: int
    decay: float
    inverse_temperature: float = 1.0

    @property
    def classes(self) -> int:
        return int(self.votes.shape[1])

    def scaled(self, factor: float) -> Self:
        return replace(self, inverse_temperature=self.inverse_temperature * factor)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "scale": self.scale, "memory": self.memory, "votes": self.votes}

    def settings(self) -> Settings:
        return {"neighbours": self.neighbours, "decay": self.decay, "sharpness": self.inverse_temperature}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], settings: Settings) -> Self:
        (m, d), k = arrays["memory"].shape, arrays["votes"].shape[1]
        require_shapes(arrays, mean=(d,), scale=(d,), memory=(m, d), votes=(m, k))
        neighbours, decay, factor = int(settings["neighbours"]), float(settings["decay"]), float(settings["sharpness"])
        if not 1 <= neighbours <= m or not 0 < decay < 1e6 or not 0 < factor < 1e6:
            raise ValueError(f"{neighbours} neighbours, decay {decay}, sharpness {factor}")
        return cls(**arrays, neighbours=neighbours, decay=decay, inverse_temperature=factor)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        cosines = unit_length(x) @ self.memory.T
        nearest = nearest_first(cosines, self.neighbours)
        cosines = np.take_along_axis(cosines, nearest, axis=1)
        return self.inverse_temperature * vote_scores(cosines, self.votes[nearest], self.decay)


def unit_length(x: np.ndarray) -> np.ndarray:
    """(n, d) rows -> the same directions with length 1; rows of zeros stay zero."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def nearest_first(cosines: np.ndarray, count: int) -> np.ndarray:
    """(n, m) -> (n, count) positions of the largest of each row, the largest first."""
    some = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def vote_scores(cosines: np.ndarray, votes: np.ndarray, decay: float) -> np.ndarray:
    """Log shares of the votes.

    A neighbour's vote counts exp((its cosine - the nearest one's) / decay). One further vote is spread
    evenly over the classes, so that no class without neighbours has probability 0.

    Args:
        cosines: (n, neighbours), the largest first.
        votes: (n, neighbours, k).
        decay: Above 0.

    Returns:
        (n, k) logarithms of shares that sum to 1.
    """
    weights = np.exp((cosines - cosines[:, :1]) / decay)
    counted = np.einsum("nj,njk->nk", weights, votes) + 1 / votes.shape[2]
    return np.asarray(np.log(counted / counted.sum(axis=1, keepdims=True)))
