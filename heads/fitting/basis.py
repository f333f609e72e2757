"""Standardised rows and their principal axes: worked out once, shared by all heads, strengths and folds."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy.linalg import eigh

from onepass.heads.inference.network import standardisation


@dataclass(frozen=True, eq=False)
class Basis:
    """Training rows, standardised and rotated into the axes they span.

    A penalty on the length of weights does not see rotations, so whatever has one is fitted along the
    principal axes: exact, and as X'X is diagonal there, easy. Whoever only needs any rotation close to
    these takes `rotated`, which costs a third of `exact`.

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
        """The basis of (n, d) float32 rows; the last one is kept, since heads are mostly compared on the same rows."""
        key = (rows.shape, hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).digest())
        if key not in _last:
            mean, scale = standardisation(rows)
            _last.clear()
            _last[key] = cls(mean, scale, (rows - mean) / scale)
        return _last[key]  # type: ignore[return-value]

    @staticmethod
    def forget() -> None:
        """Lets go of the rows that were kept."""
        _last.clear()

    @cached_property
    def _principal(self) -> tuple[np.ndarray, np.ndarray | None]:
        return _axes(self.standardised)

    @property
    def axes(self) -> np.ndarray:
        """(d, r) float64, orthonormal columns, by falling variance."""
        return self._principal[0]

    @cached_property
    def exact(self) -> np.ndarray:
        """(n, r) float64: the rows along `axes`."""
        axes, rotated = self._principal
        return self.standardised.astype(np.float64) @ axes if rotated is None else rotated

    @cached_property
    def turn(self) -> tuple[np.ndarray, np.ndarray]:
        """(r,) falling variances times n, and (d, r) orthonormal axes that have about these; float32.

        Nothing lies outside of the axes, unlike those of an eigh in single precision of rows by rows.
        """
        z = self.standardised
        if z.shape[1] > 2 * len(z):
            axes = self.axes if self.axes.size else np.eye(z.shape[1], 1)
            return np.square(z @ axes).sum(axis=0, dtype=np.float32), axes.astype(np.float32)
        values, vectors = eigh(z.T @ z, driver="evd", check_finite=False)
        return values[::-1], np.ascontiguousarray(vectors[:, ::-1])

    @cached_property
    def rotated(self) -> np.ndarray:
        """(n, r) float32: the rows along the axes of `turn`."""
        return np.asarray(self.standardised @ self.turn[1])


_last: dict[tuple, Basis] = {}


def principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of what the rows span, and the rows in it.

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
