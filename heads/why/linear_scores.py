"""Scores of heads that are one dense layer, as sums over columns of a row and over the positions behind a mean."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from onepass.extract import MapGrid
from onepass.heads.inference.network import DenseNetwork, Network


@dataclass(frozen=True, eq=False)
class LinearScores:
    """(x - mean) @ weights + bias of a row x: what softmax or sigmoid takes, or a number.

    Standardisation, rotation to principal components, class weights and the temperature of calibration are all in
    these arrays, as they are in those of the head.

    Attributes:
        mean: (d,) float64, of the training rows; 0 where a head does not standardise.
        weights: (d, k) float64.
        bias: (k,) float64, the scores of the mean training row.
    """

    mean: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, network: Network) -> Self | None:
        """Those of a head; None if it is not linear.

        A single sigmoid unit gives the log odds of the second class; those of the first are the negative.
        """
        if not isinstance(network, DenseNetwork) or len(network.kernels) != 1:
            return None
        weights = network.kernels[0].astype(np.float64) / network.scale.astype(np.float64)[:, None]
        bias = network.biases[0].astype(np.float64)
        if network.output == "sigmoid":
            weights, bias = np.concatenate([-weights, weights], axis=1), np.concatenate([-bias, bias])
        return cls(network.mean.astype(np.float64), weights, bias)

    def heat(self, row: np.ndarray, cells: np.ndarray, grid: MapGrid, label: int) -> tuple[np.ndarray, float]:
        """What each position adds to the score of a class, and what the columns add that are no mean over positions.

        With z = (x - mean) @ w over the columns of the mean, and x = (1 / P) sum_p x_p over P positions,
        z = sum_p (x_p - mean) @ w / P: each position counts against the mean of the training rows.

        Args:
            row: (d,).
            cells: (h, w, m), whose mean is `row[grid.columns]`.
            grid: Where that stands.
            label: Position of the class.

        Returns:
            (h, w) float64 and a number, which with the bias add up to the score.
        """
        own, weights = grid.columns, self.weights[:, label]
        heat = (cells.astype(np.float64) - self.mean[own]) @ weights[own] / (grid.height * grid.width)
        rest = np.delete(row - self.mean, own) @ np.delete(weights, own)
        return heat, float(rest)
