"""Nearest neighbours as plain arrays: the training rows, and how their votes become probabilities or numbers."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from onepass.heads.inference.network import Network, Settings, moved, output_of, require_shapes


@dataclass(frozen=True, eq=False)
class NeighbourTable(Network):
    """Scores from the votes of the nearest training rows by cosine; see `vote_scores`, `mean_votes`, `vote_odds`.

    Attributes:
        mean, scale: As for `Network`.
        memory: (m, d) float32, standardised training rows of length 1.
        votes: (m, k) float32, the weight of each row for its class. For k labels, or a number, (m, 2 k): value of
            each row times its weight in front, and its weight behind.
        neighbours: How many vote.
        decay: Cosine over which a vote loses a factor e.
        inverse_temperature: Factor on the scores of classes; "sharpness" in the head file.
        output: As for `Network`.
        factors, shifts: (k,) float32, on the log odds of labels; None for all else.
    """

    form = "neighbours"
    mean: np.ndarray
    scale: np.ndarray
    memory: np.ndarray
    votes: np.ndarray
    neighbours: int
    decay: float
    inverse_temperature: float = 1.0
    output: str = "softmax"
    factors: np.ndarray | None = None
    shifts: np.ndarray | None = None

    @property
    def classes(self) -> int:
        return int(self.votes.shape[1]) // (1 if self.output == "softmax" else 2)

    def scaled(self, factor: float | np.ndarray, shift: float | np.ndarray = 0.0) -> Self:
        if self.output == "linear":
            values, weights = np.split(self.votes.astype(np.float64), 2, axis=1)
            values = moved(values, factor, shift * weights)
            return replace(self, votes=np.concatenate([values, self.votes[:, self.classes :]], axis=1))
        if self.output == "sigmoids":
            factors, shifts = self.odds()
            return replace(self, factors=moved(factors, factor, 0.0), shifts=moved(shifts, factor, shift))
        return replace(self, inverse_temperature=float(self.inverse_temperature * factor))

    def odds(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) factors and (k,) shifts on the log odds of labels."""
        if self.factors is None or self.shifts is None:
            return np.ones(self.classes, np.float32), np.zeros(self.classes, np.float32)
        return self.factors, self.shifts

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"mean": self.mean, "scale": self.scale, "memory": self.memory, "votes": self.votes}
        if self.output == "sigmoids":
            arrays["factors"], arrays["shifts"] = self.odds()
        return arrays

    def settings(self) -> Settings:
        settings: Settings = {
            "neighbours": self.neighbours,
            "decay": self.decay,
            "sharpness": self.inverse_temperature,
        }
        return settings if self.output == "softmax" else {**settings, "output": self.output}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], settings: Settings) -> Self:
        (m, d), k, output = arrays["memory"].shape, arrays["votes"].shape[1], output_of(settings)
        if output == "sigmoids":
            require_shapes(arrays, factors=(k // 2,), shifts=(k // 2,))
        if len(arrays) != (6 if output == "sigmoids" else 4):
            raise ValueError(f"{len(arrays)} arrays")
        require_shapes(arrays, mean=(d,), scale=(d,), memory=(m, d), votes=(m, k))
        neighbours, decay, factor = int(settings["neighbours"]), float(settings["decay"]), float(settings["sharpness"])
        if not 1 <= neighbours <= m or not 0 < decay < 1e6 or not 0 < factor < 1e6:
            raise ValueError(f"{neighbours} neighbours, decay {decay}, sharpness {factor}")
        return cls(**arrays, neighbours=neighbours, decay=decay, inverse_temperature=factor, output=output)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        cosines = unit_length(x) @ self.memory.T
        nearest = nearest_first(cosines, self.neighbours)
        cosines = np.take_along_axis(cosines, nearest, axis=1)
        scores = VOTES[self.output](cosines, self.votes[nearest], self.decay)
        if self.output == "sigmoids":
            factors, shifts = self.odds()
            return np.asarray(scores * factors + shifts)
        return self.inverse_temperature * scores


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


def mean_votes(cosines: np.ndarray, votes: np.ndarray, decay: float) -> np.ndarray:
    """Means of the neighbours' numbers, weighted as in `vote_scores`.

    Args:
        cosines: (n, neighbours), the largest first.
        votes: (n, neighbours, 2 k): values times weights in front, and weights behind.
        decay: Above 0.

    Returns:
        (n, k).
    """
    values, weights = _sums(cosines, votes, decay)
    return np.asarray(values / weights)


def vote_odds(cosines: np.ndarray, votes: np.ndarray, decay: float) -> np.ndarray:
    """Log odds of labels among the neighbours, weighted as in `vote_scores`.

    One further vote is spread evenly over "has it" and "has it not", so that no odds are infinite.

    Args:
        cosines: (n, neighbours), the largest first.
        votes: (n, neighbours, 2 k): weights where a neighbour has the label in front, else 0; and weights behind.
        decay: Above 0.

    Returns:
        (n, k).
    """
    has, weights = _sums(cosines, votes, decay)
    return np.asarray(np.log((has + 0.5) / (weights - has + 0.5)))


def _sums(cosines: np.ndarray, votes: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    nearness = np.exp((cosines - cosines[:, :1]) / decay)
    values, weights = np.split(np.einsum("nj,njk->nk", nearness, votes.astype(np.float64)), 2, axis=1)
    return values, weights


VOTES = {"softmax": vote_scores, "sigmoids": vote_odds, "linear": mean_votes}
"""Output of a network -> what its scores are made of: cosines, votes and decay."""
