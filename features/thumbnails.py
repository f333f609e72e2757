"""Thumbnails: a few grey pixels of each image, in which copies are found that rows see as different.

A network sees a photo that was turned, or that has lost its colours, as another one. As 24 x 24 grey pixels they are
the same up to a turn. The other way round, pixels miss a crop, which hardly moves a row; so both are compared.
"""

from collections.abc import Iterator

import numpy as np

SIDE = 24
"""Pixels of a thumbnail along each axis."""
LEAST, DETAIL = 0.985, 0.9
"""Lowest correlations of two thumbnails of one picture, as they are and less the light on the ground.

The second tells photos of different things apart that were taken on one plain ground in one light; what both keep and
call is measured by benchmarks/copies.py.
"""
CROP_LEAST, CROP_DETAIL = 0.965, 0.92
"""The same for a thumbnail and a part of another."""
FLATTEST = 2.0
"""Lowest standard deviation, grey levels, from which on a thumbnail shows a picture and not noise on a plain ground."""

RULE = f"{LEAST} {DETAIL} {CROP_LEAST} {CROP_DETAIL} {FLATTEST} 1"
"""What the answers of this file hang on; count its last number up with any other change of them."""

_LOW = 12
"""Frequencies along each axis by which pairs are told apart before their pixels are compared."""
_GROUND = 4
"""Degree of the polynomial in both places that takes the light on the ground of a picture away from its details."""
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
    """How alike pairs of thumbnails are, the most alike of the eight ways to turn and mirror one of them.

    Args:
        thumbnails: (n, 24, 24) uint8.
        first: (m,) positions.
        second: (m,) positions.

    Returns:
        (m,) float32 in [-1, 1], correlations; those of the details alone where they are below `DETAIL`, 0 where a
        thumbnail shows nothing.

    >>> picture = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    >>> both = np.stack([picture, picture.T // 2])
    >>> bool(correlations(both, np.array([0]), np.array([1]))[0] > 0.999)
    True
    """
    found = np.full(len(first), -1, np.float32)
    for start in range(0, len(first), 4096):
        some = slice(start, start + 4096)
        left, right = _unit(thumbnails[first[some]]), _unit(thumbnails[second[some]])
        for turned, details in zip(_turns(right), _turns(_details(right)), strict=True):
            whole = np.einsum("nij,nij->n", left, turned)
            detail = np.einsum("nij,nij->n", _details(left), details)
            found[some] = np.maximum(found[some], np.where(detail < DETAIL, detail, whole))
    return found


def cropped(thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which pairs of thumbnails are one picture of which one lost up to 15 % along each axis, mirrored or not.

    A part of one, of 100, 95, 90 or 85 % of its sides and at any of 25 places, is compared with the whole of the other,
    and the other way round. That takes too long for all pairs: it is for those that something else speaks for.

    Args:
        thumbnails: (n, 24, 24) uint8.
        first: (m,) positions.
        second: (m,) positions.

    Returns:
        (m,) bool.

    >>> picture = np.add.outer(np.sin(np.arange(24)), np.cos(np.arange(24) / 2)) * 60 + 120
    >>> both = np.stack([picture, picture[:, ::-1], picture.T[::-1] / 2 + np.eye(24) * 99]).astype(np.uint8)
    >>> cropped(both, np.array([0, 0]), np.array([1, 2])).tolist()
    [True, False]
    """
    down, right = _windows()
    found = np.zeros(len(first), bool)
    for start in range(0, len(first), 32):
        some = slice(start, start + 32)
        for whole, part in ((first, second), (second, first)):
            windows = _normed(down @ thumbnails[whole[some], None].astype(np.float32) @ right)
            other = _unit(thumbnails[part[some]])
            for way in (other, other[:, :, ::-1]):
                pair, window = np.nonzero(np.einsum("nwij,nij->nw", windows, way) >= CROP_LEAST)
                details = np.einsum("nij,nij->n", _details(windows[pair, window]), _details(way[pair]))
                found[start + pair[details >= CROP_DETAIL]] = True
    return found


def _windows() -> tuple[np.ndarray, np.ndarray]:
    """(w, 24, 24) float32 twice: from the left and from the right, they enlarge w parts of a thumbnail to its size."""
    down, right = [], []
    for size in (1.0, 0.95, 0.9, 0.85):
        parts = [_enlarged(size, offset) for offset in np.linspace(0, 1 - size, 5 if size < 1 else 1)]
        for one in parts:
            for other in parts:
                down.append(one)
                right.append(other.T)
    return np.stack(down), np.stack(right)


def _enlarged(size: float, offset: float) -> np.ndarray:
    """(24, 24) float32: linear interpolation of a part of a line of 24 pixels, shares of its length."""
    place = (offset + (np.arange(SIDE) + 0.5) / SIDE * size) * SIDE - 0.5
    lower = np.clip(np.floor(place), 0, SIDE - 2).astype(np.int64)
    share = np.clip(place - lower, 0, 1)
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[np.arange(SIDE), lower] = 1 - share
    weights[np.arange(SIDE), lower + 1] += share.astype(np.float32)
    return weights


def _turns(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """The eight ways to turn and mirror (n, s, s) pictures."""
    for quarter in range(4):
        turned = np.rot90(pictures, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """(n, s, s) float32 of mean 0 and length 1; all zeros where there is nothing to see."""
    return _normed(thumbnails.astype(np.float32))


def _normed(pixels: np.ndarray, least: float = FLATTEST * SIDE) -> np.ndarray:
    pixels = pixels - pixels.mean(axis=(-2, -1), keepdims=True)
    lengths = np.sqrt(np.square(pixels).sum(axis=(-2, -1), keepdims=True))
    return np.asarray(np.where(lengths < least, 0, pixels / np.maximum(lengths, least)))


def _details(pictures: np.ndarray) -> np.ndarray:
    """(..., s, s) unit pictures less the polynomial of degree `_GROUND` that fits them best, of length 1 again."""
    powers = np.vander(np.linspace(-1, 1, SIDE), _GROUND + 1, increasing=True)
    basis = np.linalg.qr(powers)[0].astype(np.float32)
    ground = basis.T @ pictures @ basis
    ground[..., np.add.outer(np.arange(_GROUND + 1), np.arange(_GROUND + 1)) > _GROUND] = 0
    return _normed(pictures - basis @ ground @ basis.T, least=1e-3)


def _marks(thumbnails: np.ndarray) -> np.ndarray:
    """(n, 144) float32: magnitudes of low frequencies of unit thumbnails, the same however a picture is turned."""
    waves = _waves(_LOW)
    marks = np.empty((len(thumbnails), _LOW * _LOW), np.float32)
    upper = np.triu(np.ones((_LOW, _LOW), bool))
    for start in range(0, len(thumbnails), 4096):
        some = np.abs(waves @ _unit(thumbnails[start : start + 4096]) @ waves.T)
        crossed = some.transpose(0, 2, 1)
        sorted_pairs = np.where(upper, np.maximum(some, crossed), np.minimum(some, crossed))
        marks[start : start + 4096] = sorted_pairs.reshape(len(some), -1)
    return marks


def _waves(count: int) -> np.ndarray:
    """(count, 24) float32: the cosines of the discrete cosine transform, of length 1."""
    waves = np.cos(np.pi / SIDE * np.arange(count)[:, None] * (np.arange(SIDE) + 0.5)) * np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, np.float32)
