"""Standardised rows and their principal components, which all heads are fitted on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from onepass.features.moments import moments
from onepass.heads.fitting.row_chunks import RowSource
from onepass.heads.inference.network import scale_of, standardisation

FEWEST_AXES, MOST_AXES = 256, 512
_SHARE = 0.95
"""Of the variance: the remaining axes hold mostly noise, which a net would learn."""


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Training rows, standardised and rotated onto their principal axes.

    An L2 penalty on weights is the same in any rotation, so heads that have one are fitted along the principal
    axes: exact, and easy, because X'X is diagonal there. Heads that only need a rotation close to the principal
    one use `rotated`, which costs a third of `exact`.

    Attributes:
        mean: (d,) float32.
        scale: (d,) float32.
        standardised: (n, d) float32.
    """

    mean: np.ndarray
    scale: np.ndarray
    standardised: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """The components of (n, d) float32 rows."""
        mean, scale = standardisation(rows)
        return cls(mean, scale, (rows - mean) / scale)

    @cached_property
    def _principal(self) -> tuple[np.ndarray, np.ndarray | None]:
        return _axes(self.standardised)

    @property
    def axes(self) -> np.ndarray:
        """(d, r) float64, orthonormal columns by falling variance."""
        return self._principal[0]

    @cached_property
    def exact(self) -> np.ndarray:
        """(n, r) float64: the rows along `axes`."""
        axes, rotated = self._principal
        return self.standardised.astype(np.float64) @ axes if rotated is None else rotated

    @cached_property
    def rotation(self) -> tuple[np.ndarray, np.ndarray]:
        """(r,) falling variances times n, and (d, r) orthonormal axes that have about these; float32.

        No part of the rows lies outside these axes, unlike those of an eigh of rows by rows in single precision.
        """
        z = self.standardised
        if z.shape[1] > 2 * len(z):
            axes = self.axes if self.axes.size else np.eye(z.shape[1], 1)
            return np.square(z @ axes).sum(axis=0, dtype=np.float32), axes.astype(np.float32)
        from scipy.linalg import eigh

        values, vectors = eigh(z.T @ z, driver="evd", check_finite=False)
        return values[::-1], np.ascontiguousarray(vectors[:, ::-1])

    @cached_property
    def rotated(self) -> np.ndarray:
        """(n, r) float32: the rows along the axes of `rotation`."""
        return np.asarray(self.standardised @ self.rotation[1])

    def weighted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for rows of (n,) weights.

        Returns:
            centre: (d,) their weighted mean, of standardised rows.
            axes: (d, r) float64, orthonormal.
            z: (n, r) float64 standardised rows less the centre along these axes, in which Z' diag(weights) Z is
                diagonal.
        """
        if np.ptp(weights) == 0:
            return np.zeros(len(self.mean)), self.axes, self.exact
        centre = np.average(self.standardised, axis=0, weights=weights)
        roots = np.sqrt(weights)[:, None]
        axes, z = principal_axes((self.standardised - centre) * roots)
        return centre, axes, z / roots


class SharedComponents:
    """Principal components of the rows last asked for, for heads that are fitted on the same rows one after another.

    They live as long as this object, which belongs to whoever fits the heads.

    >>> shared, rows = SharedComponents(), np.eye(3, dtype=np.float32)
    >>> shared.of(rows) is shared.of(rows.copy())
    True
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[tuple[int, ...], bytes], PrincipalComponents] | None = None

    def of(self, rows: np.ndarray) -> PrincipalComponents:
        """The components of (n, d) float32 rows, computed only where these are not the last ones again."""
        key = (rows.shape, hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).digest())
        if self._last is None or self._last[0] != key:
            self._last = None  # so that two sets of rows are never kept at once
            self._last = (key, PrincipalComponents.of(rows))
        return self._last[1]


def principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of the space that rows span, and the rows in it.

    Args:
        rows: (n, d), centred.

    Returns:
        axes: (d, r) float64, orthonormal columns by falling variance, r <= min(n, d) the numerical rank.
        rotated: (n, r) float64 with rows = rotated @ axes.T.
    """
    axes, rotated = _axes(rows)
    return axes, rows.astype(np.float64) @ axes if rotated is None else rotated


def _axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The axes, and the rows along them where these come without further work.

    The smaller of the two products, rows by rows or features by features, is decomposed: eigh of a
    symmetric matrix of side min(n, d) is several times faster than the svd of the rows.
    """
    x = rows.astype(np.float64)
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = values[::-1], vectors[:, ::-1]
    # float32 rows carry about 1e-7 of relative noise, 1e-14 in squares; below that is no information.
    kept = values > max(values[0], 1e-300) * 1e-12
    if not wide:
        return vectors[:, kept], None
    lengths = np.sqrt(values[kept])
    return x.T @ (vectors[:, kept] / lengths), vectors[:, kept] * lengths


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows of width d -> their coordinates along the leading r principal axes: what the Keras heads train on.

    Three reasons. A step costs as much as rows are wide, and 256 of 2,048 axes hold about 85 % of the variance. The
    axes fold back exactly into the first kernel. And optimizers such as Adam, which give each coordinate a step size
    of its own, do better along these axes: by 0.7 points on trashnet.

    Attributes:
        mean: (d,) float32.
        scale: (d,) float32.
        axes: (d, r) float32, orthonormal columns by falling variance.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray

    @classmethod
    def of_rows(cls, x: np.ndarray, components: PrincipalComponents | None = None) -> tuple[Self, np.ndarray]:
        """The projection that suits (n, v, d) float32 rows, and the rows in it, (n, v, r) float32.

        Args:
            x: The rows.
            components: Of all of them, where these are known already.
        """
        found = components or PrincipalComponents.of(x.reshape(-1, x.shape[2]))
        values, axes = found.rotation
        axes = axes[:, : _kept(values, float(np.square(found.standardised).sum(dtype=np.float64)))]
        return cls(found.mean, found.scale, axes), (found.standardised @ axes).reshape(*x.shape[:2], -1)

    @classmethod
    def of_source(cls, source: RowSource) -> Self:
        """The projection that suits rows which come in chunks, from one pass over them."""
        from scipy.linalg import eigh

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
