"""Standardised rows along their leading principal axes: what the Keras heads train on.

Three reasons. A step costs as much as rows are wide, and 256 of 2,048 axes hold about 85 % of the variance. The
axes fold back exactly into the first kernel. And optimizers such as Adam, which give each coordinate a step size of
its own, do better along these axes: on photos of rubbish by 0.7 points.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import eigh

from onepass.heads.fitting.basis import Basis
from onepass.heads.fitting.moments import moments
from onepass.heads.fitting.row_chunks import RowSource
from onepass.heads.inference.network import scale_of

FEWEST_AXES, MOST_AXES = 256, 512
_SHARE = 0.95
"""Of the variance: what so many axes leave is mostly noise, and nets would learn it."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows of width d -> their coordinates along r axes.

    Attributes:
        mean: (d,) float32.
        scale: (d,) float32.
        axes: (d, r) float32, orthonormal columns by falling variance.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray

    @classmethod
    def of_rows(cls, x: np.ndarray) -> tuple[Self, np.ndarray]:
        """The projection that suits (n, v, d) float32 rows, and the rows in it, (n, v, r) float32."""
        basis = Basis.of(x.reshape(-1, x.shape[2]))
        values, axes = basis.turn
        axes = axes[:, : _kept(values, float(np.square(basis.standardised).sum(dtype=np.float64)))]
        return cls(basis.mean, basis.scale, axes), (basis.standardised @ axes).reshape(*x.shape[:2], -1)

    @classmethod
    def of_source(cls, source: RowSource) -> Self:
        """The projection that suits rows which come in chunks, from one pass over them."""
        _, mean, covariance = moments(rows.reshape(-1, source.width) for _, rows in source.chunks(None))
        scale = scale_of(np.sqrt(np.maximum(covariance.diagonal(), 0)), mean)
        covariance /= np.outer(scale, scale)
        first = max(source.width - MOST_AXES, 0)
        values, vectors = eigh(
            covariance.astype(np.float32), subset_by_index=(first, source.width - 1), check_finite=False
        )
        kept = _kept(values[::-1], float(covariance.trace()))
        return cls(mean.astype(np.float32), scale, np.ascontiguousarray(vectors[:, ::-1][:, :kept]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(..., d) float32 -> (..., r) float32."""
        return np.asarray(((rows - self.mean) / self.scale) @ self.axes)


def _kept(values: np.ndarray, total: float) -> int:
    """How many axes are kept, of falling variances and the sum of all."""
    values = values[:MOST_AXES]
    shares = np.cumsum(values, dtype=np.float64) / max(total, 1e-30)
    # Rounding leaves about 1e-6 of the largest where there is nothing.
    rank = max(int((values > 1e-5 * values[0]).sum()), 1)
    return min(max(int(np.searchsorted(shares, _SHARE)) + 1, FEWEST_AXES), rank)
