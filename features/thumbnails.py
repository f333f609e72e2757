"""Thumbnails: a few grey pixels of each image, in which copies are found that rows see as different.

A network sees a photo that was turned, or that has lost its colours, as another one. As 24 x 24 grey pixels they are
the same up to a turn. The other way round, pixels miss a crop, which hardly moves a row; so both are compared.
"""

from collections.abc import Iterator

import numpy as np

SIDE = 24
"""Pixels of a thumbnail along each axis."""
LEAST = 0.985
"""Lowest correlation of two thumbnails of one picture; benchmarks/copies.py measures it."""
FLATTEST = 2.0
"""Lowest standard deviation, grey levels, from which on a thumbnail shows a picture and not noise on a plain ground."""

_LOW = 12
"""Frequencies along each axis by which pairs are told apart before their pixels are compared."""
_BLOCK = 2**22
"""Pairs looked at in one go."""


def alike(thumbnails: np.ndarray, least: float = LEAST) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of thumbnails that may be one picture, in any of the eight ways to turn and mirror it.

    No pair that `correlations` would put at `least` or above is missing; some others are among them. For that, two
    thumbnails of length 1 are compared by the magnitudes of their lowest frequencies, each beside that of the
    transposed one, the larger first. Mirroring changes signs and a quarter turn transposes too, which leaves these
    alone, and no step makes a distance longer: those of a correlation c lie within sqrt(2 - 2 c) of each other.

    Args:
        thumbnails: (n, 24, 24) uint8.
        least: Lowest correlation.

    Yields:
        (m,) positions of the first, (m,) of the second of some pairs; the first is the lower one.
    """
    marks = _marks(thumbnails)
    squares = np.square(marks).sum(axis=1) / 2
    # Half the squared distance of two marks is a^2/2 + b^2/2 - ab; rounding gets a little room.
    room = np.float32(1 - least + 1e-5)
    shows = np.flatnonzero(squares > 0)
    marks, squares = marks[shows], squares[shows]
    step = max(1, _BLOCK // max(len(shows), 1))
    for start in range(0, len(shows), step):
        products = marks[start : start + step] @ marks[start:].T
        products -= squares[start : start + step, None]
        products -= squares[None, start:]
        i, j = np.nonzero(products >= -room)
        later = i < j
        yield shows[start + i[later]], shows[start + j[later]]


def correlations(thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How alike pairs of thumbnails are: the largest correlation over the eight ways to turn and mirror one of them.

    Args:
        thumbnails: (n, 24, 24) uint8.
        first: (m,) positions.
        second: (m,) positions.

    Returns:
        (m,) float32 in [-1, 1]; 0 where one shows nothing.

    >>> picture = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    >>> both = np.stack([picture, picture.T // 2])
    >>> bool(correlations(both, np.array([0]), np.array([1]))[0] > 0.999)
    True
    """
    found = np.full(len(first), -1, np.float32)
    for start in range(0, len(first), 4096):
        some = slice(start, start + 4096)
        left, right = _unit(thumbnails[first[some]]), _unit(thumbnails[second[some]])
        for turned in _turns(right):
            found[some] = np.maximum(found[some], np.einsum("nij,nij->n", left, turned))
    return found


def _turns(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """The eight ways to turn and mirror (n, s, s) pictures."""
    for quarter in range(4):
        turned = np.rot90(pictures, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """(n, s, s) float32 of mean 0 and length 1; all zeros where there is nothing to see."""
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt(np.square(pixels).sum(axis=(1, 2), keepdims=True))
    return np.asarray(np.where(lengths < FLATTEST * SIDE, 0, pixels / np.maximum(lengths, 1)))


def _marks(thumbnails: np.ndarray) -> np.ndarray:
    """(n, 144) float32: magnitudes of low frequencies of unit thumbnails, the same however a picture is turned."""
    place = np.arange(SIDE) + 0.5
    waves = np.cos(np.pi / SIDE * np.arange(_LOW)[:, None] * place) * np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    waves = waves.astype(np.float32)
    marks = np.empty((len(thumbnails), _LOW * _LOW), np.float32)
    upper = np.triu(np.ones((_LOW, _LOW), bool))
    for start in range(0, len(thumbnails), 4096):
        some = np.abs(waves @ _unit(thumbnails[start : start + 4096]) @ waves.T)
        crossed = some.transpose(0, 2, 1)
        sorted_pairs = np.where(upper, np.maximum(some, crossed), np.minimum(some, crossed))
        marks[start : start + 4096] = sorted_pairs.reshape(len(some), -1)
    return marks
