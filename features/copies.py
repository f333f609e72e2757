"""Images that are the same picture: re-encoded, resized, cropped, shot twice, turned, mirrored, in other colours.

Rows find what a network sees as alike, thumbnails what pixels say is alike; each finds copies that the other misses.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from onepass.features import thumbnails as pictures
from onepass.features.groups import Groups
from onepass.features.moments import moments
from onepass.features.spec import Spec

THRESHOLDS = {
    "efficientnet_lite0": 0.63,
    "mobilenet_0.25": 0.79,
    "mobilenetv2": 0.65,
    "resnet50": 0.64,
}
"""Lowest cosine of a near duplicate, by backbone, for rows of 224 px images with average pooling.

Measured on 3,525 photos (hymenoptera, cats_dogs, trashnet) by benchmarks/near_duplicates.py: they keep 93, 91,
85 and 94 % of known duplicates (JPEG 50 and 30, half size, 5 % crop, 10 % brighter and darker, text, 2 %
border), and of the pairs called at least 95 % show the same object.
"""

SIMILAR = 0.5
"""Cosine from which on two images are copies where their thumbnails say so too, see `thumbnails.cropped`."""

STRICTEST = max(THRESHOLDS.values())

BLOCK = 2**24
"""Cosines held at a time: 64 MB."""
WIDEST, NARROWEST = 4096, 512
"""Rows wider than the first are folded to it; where there are very many rows, further, but not below the second."""
DIRECTIONS = 500_000_000
"""Bytes of all whitened rows from which on these are folded."""


class Pairs(NamedTuple):
    """Pairs of images, the most alike first.

    Attributes:
        positions: (m, 2) int64.
        cosines: (m,) float32 in [-1, 1]: of whitened rows, or of the pixels of thumbnails less their mean.
        by_rows: (m,) bool: True where rows tell that they are copies, False where thumbnails do.
    """

    positions: np.ndarray
    cosines: np.ndarray
    by_rows: np.ndarray


def threshold_for(spec: Spec) -> float:
    """Lowest cosine of a near duplicate for rows of this spec.

    Backbones that were not measured, other poolings and other image sizes get the strictest value of `THRESHOLDS`. To
    calibrate one's own: `python benchmarks/near_duplicates.py DATA --backbone NAME --weights FILE`
    makes known duplicates of DATA's photos, compares them with the nearest different photos, and
    prints what each threshold keeps and what it calls falsely; give the value as `threshold`.

    Narrow rows need more: two unrelated directions in d dimensions reach a cosine t with a chance of about
    exp(-d t^2 / 2), which must stay below one in a thousand million pairs. Below 43 features only rows
    that are all but equal count.
    """
    measured = spec.pooling == "avg" and spec.image_size == 224
    usual = THRESHOLDS.get(spec.backbone, STRICTEST) if measured else STRICTEST
    return min(max(usual, float(np.sqrt(2 * np.log(1e9) / spec.width))), 0.9999)


Pieces = Callable[[], Iterable[np.ndarray]]
"""Gives (m, d) float pieces of the rows, from the first one on at each call."""


def near_duplicates(
    rows: np.ndarray, thumbnails: np.ndarray, *, threshold: float, contents: np.ndarray | None = None
) -> Pairs:
    """Pairs of images that are copies of one another, by their rows or by their thumbnails.

    The cosine of rows is that of `whitened` rows, so it depends a little on what else is in the data: fewer copies
    are found among fewer than 100 images (by about 5 in 100), and where most images have several copies.
    Memory: two copies of the rows, 64 MB, and the pairs found.

    Args:
        rows: (n, d) float, plain views.
        thumbnails: (n, 24, 24) uint8; all zeros where there is none.
        threshold: Lowest cosine of a pair of rows; see `threshold_for`. From `SIMILAR` on thumbnails decide.
        contents: (n, 32) uint8 content hashes; pairs of exact copies are then left out.

    Returns:
        Each pair once, the lower position first; by rows if both ways find it.

    >>> rows = np.random.default_rng(0).normal(size=(50, 64))
    >>> rows[7] = 1.1 * rows[3]
    >>> near_duplicates(rows, np.zeros((50, 24, 24), np.uint8), threshold=0.9).positions.tolist()
    [[3, 7]]
    """
    by_rows = [np.column_stack(found) for found in _same_rows(whitened(rows), thumbnails, threshold)]
    by_pixels = [np.column_stack(found) for found in _same_pictures(thumbnails)]
    every = np.concatenate([np.empty((0, 3)), *by_rows, *by_pixels])
    count = sum(map(len, by_rows))
    positions, first = np.unique(every[:, :2].astype(np.int64), axis=0, return_index=True)
    if contents is not None:
        other = (contents[positions[:, 0]] != contents[positions[:, 1]]).any(axis=1)
        positions, first = positions[other], first[other]
    order = np.argsort(-every[first, 2], kind="stable")
    first = first[order]
    return Pairs(positions[order], every[first, 2].astype(np.float32), first < count)


def copy_groups(pieces: Pieces, thumbnails: np.ndarray, *, threshold: float) -> np.ndarray:
    """Numbers images so that copies of one picture have one number, copies of copies included.

    Memory grows with the images, a gigabyte at most below a quarter of a million, and not with the pairs. Time grows
    with the square of the images.

    Args:
        pieces: The rows of n images, plain views.
        thumbnails: (n, 24, 24) uint8; all zeros where there is none.
        threshold: Lowest cosine of a pair of rows; see `threshold_for`.

    Returns:
        (n,) int64, the lowest position of its copies.

    >>> rows = np.random.default_rng(0).normal(size=(5, 640))
    >>> rows[4] = 1.1 * rows[3]
    >>> copy_groups(lambda: [rows], np.zeros((5, 24, 24), np.uint8), threshold=0.9).tolist()
    [0, 1, 2, 3, 3]
    """
    groups = Groups(len(thumbnails))
    for first, second in pictures.alike(thumbnails):
        _join(groups, first, second, lambda i, j: pictures.correlations(thumbnails, i, j) >= pictures.LEAST)
    if len(thumbnails) > 1:
        widest = max(NARROWEST, DIRECTIONS // (4 * len(thumbnails)))
        whitening = Whitening.of(pieces(), widest=widest)
        directions = np.empty((len(thumbnails), len(whitening.mean)), np.float32)
        done = 0
        for rows in pieces():
            directions[done : done + len(rows)] = whitening(rows)
            done += len(rows)
        for i, j, cosines in _alike(directions, _similar(directions, threshold)):
            sure = cosines >= threshold
            groups.join(i[sure], j[sure])
            _join(groups, i[~sure], j[~sure], partial(pictures.cropped, thumbnails))
    return groups.of


def _join(
    groups: Groups, first: np.ndarray, second: np.ndarray, same: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """Joins those of some pairs that are the same, and asks only about pairs that are not together yet."""
    for start in range(0, len(first), 2**12):
        i, j = groups.apart(first[start : start + 2**12], second[start : start + 2**12])
        found = same(i, j)
        groups.join(i[found], j[found])


def _alike(directions: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of (n, r) directions with a cosine of at least the threshold: first, second and cosine, in pieces."""
    step = max(1, BLOCK // max(len(directions), 1))
    for start in range(0, len(directions), step):
        found = directions[start : start + step] @ directions[start:].T
        i, j = np.nonzero(found >= threshold)
        i, j = i[i < j], j[i < j]
        yield start + i, start + j, np.minimum(found[i, j], 1.0)


def _similar(directions: np.ndarray, threshold: float) -> float:
    """Cosine from which on thumbnails are asked; so high that chance gives at most one in a million pairs."""
    return min(threshold, max(SIMILAR, float(np.sqrt(2 * np.log(1e6) / directions.shape[1]))))


def _same_rows(
    directions: np.ndarray, thumbnails: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of images with rows alike, or similar enough where thumbnails agree; as `_alike`."""
    for first, second, cosines in _alike(directions, _similar(directions, threshold)):
        same = cosines >= threshold
        open_ones = np.flatnonzero(~same)
        same[open_ones] = pictures.cropped(thumbnails, first[open_ones], second[open_ones])
        yield first[same], second[same], cosines[same]


def _same_pictures(thumbnails: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of thumbnails of one picture: first, second and correlation, in pieces."""
    for first, second in pictures.alike(thumbnails):
        found = pictures.correlations(thumbnails, first, second)
        same = found >= pictures.LEAST
        yield first[same], second[same], np.minimum(found[same], 1.0)


def whitened(rows: np.ndarray) -> np.ndarray:
    """(n, d) float rows -> (n, r) float32 of length 1, whitened by their own `Whitening`."""
    return Whitening.of([rows])(rows) if len(rows) else np.empty((0, rows.shape[1]), np.float32)


class Whitening(NamedTuple):
    """Maps rows to a space where the data spread evenly, so that what all images share counts little.

    Features are replaced by their signed square root, so that a few large ones do not decide alone. With
    the covariance S of the result and s the mean of its eigenvalues that are not 0, x becomes
    (S + s I)^(-1/2) (x - mean), up to a rotation, which no cosine sees. The ridge s keeps directions in
    which the data hardly vary, noise mostly, from counting as much as the others. Known duplicates stand
    out from different images far better so than by the cosine of plain or centred rows:
    benchmarks/near_duplicates.py compares them.

    Attributes:
        mean: (r,) float32, r = d but for rows that were folded.
        rotation: (r, r) float32; all zeros if all rows are equal.

    Source: square root: Perronnin, Sanchez and Mensink (2010), ECCV. Whitening with a ridge: Mahalanobis
    distance with a shrunk covariance, Ledoit and Wolf (2004), J. Multivariate Anal. 88(2), 365-411.
    """

    mean: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[np.ndarray], *, widest: int = WIDEST) -> Self:
        """The whitening of rows that come as (m, d) float pieces; wider ones are folded to `widest`."""
        count, mean, covariance = moments(_evened(rows, min(widest, WIDEST)) for rows in pieces)
        width = len(mean)
        spread = float(np.trace(covariance)) / max(min(count - 1, width), 1)
        if spread <= 1e-12 * float(mean @ mean):
            return cls(mean.astype(np.float32), np.zeros((width, width), np.float32))
        covariance[np.diag_indices(width)] += spread
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        return cls(mean.astype(np.float32), np.ascontiguousarray(inverse.T, np.float32))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) -> (m, r) float32 of length 1.

        A row that is the mean has length 0; if all rows are equal, so are all directions.
        """
        if not self.rotation.any():
            return np.eye(1, len(self.mean), dtype=np.float32).repeat(len(rows), axis=0)
        evened = _evened(rows, len(self.mean))
        evened -= self.mean
        directions = evened @ self.rotation
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        directions /= np.where(lengths > 0, lengths, 1.0)
        return np.asarray(directions)


def _evened(rows: np.ndarray, widest: int) -> np.ndarray:
    """Signed square roots, (n, min(d, widest)) float32.

    Those of wider rows are added up in so many groups with random signs, which keeps cosines to about 1 / sqrt(widest).

    Source: count sketch, Charikar, Chen and Farach-Colton (2002); Weinberger et al. (2009), arXiv:0902.2206.
    """
    n, width = rows.shape
    evened = np.empty((n, min(width, widest)), np.float32)
    generator = np.random.default_rng(0)
    order, signs = generator.permutation(width), generator.choice(np.array([-1, 1], np.float32), width)
    starts = np.linspace(0, width, widest, endpoint=False).astype(np.int64)
    for start in range(0, n, 256):
        some = rows[start : start + 256]
        roots = np.sign(some) * np.sqrt(np.abs(some))
        if width > widest:
            roots = np.add.reduceat((roots * signs)[:, order], starts, axis=1)
        evened[start : start + 256] = roots
    return evened
