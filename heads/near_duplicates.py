"""Images that are nearly the same picture (re-encoded, resized, cropped, shot twice), found from their rows."""

from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np

from onepass.features.contents import seen_before
from onepass.features.file import FeatureFile
from onepass.features.spec import Spec
from onepass.heads.fitting.pca import moments

THRESHOLDS = {
    "efficientnet_lite0": 0.64,
    "mobilenet_0.25": 0.77,
    "mobilenetv2": 0.61,
    "resnet50": 0.58,
}
"""Lowest cosine of a near duplicate, by backbone, for rows of 224 px images with average pooling.

Measured on 3,525 photos (hymenoptera, cats_dogs, trashnet) by benchmarks/near_duplicates.py: they keep 92, 93,
90 and 98 % of known duplicates (JPEG 50 and 30, half size, 5 % crop, 10 % brighter and darker, text, 2 %
border), and fewer than 1 in 1,000 photos is paired with one of a different object.
"""

STRICTEST = max(THRESHOLDS.values())

BLOCK = 2**24
"""Cosines held at a time: 64 MB."""
SCORED = 2**26
"""Bytes of the rows that are compared with all training rows in one pass over those."""
LEAKED_MEMORY = 750_000_000
"""Bytes that `leaked` takes at most; 300 MB for rows 2,048 wide."""
WIDEST = 4096
"""Rows wider than this are folded to it first."""


class Pairs(NamedTuple):
    """Pairs of images, the most alike first.

    Attributes:
        positions: (m, 2) int64.
        cosines: (m,) float32 in [-1, 1].
    """

    positions: np.ndarray
    cosines: np.ndarray


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


def near_duplicates(rows: np.ndarray, *, threshold: float, contents: np.ndarray | None = None) -> Pairs:
    """Pairs of images whose whitened rows have a high cosine.

    The cosine is that of `whitened` rows, so it depends a little on what else is in the data: fewer copies
    are found among fewer than 100 images (by about 5 in 100), and where most images have several copies.
    Memory: two copies of the rows, 64 MB, and the pairs found.

    Args:
        rows: (n, d) float, plain views.
        threshold: Lowest cosine of a pair; see `threshold_for`.
        contents: (n, 32) uint8 content hashes; pairs of exact copies are then left out.

    Returns:
        Each pair once, the lower position first.

    >>> rows = np.random.default_rng(0).normal(size=(50, 64))
    >>> rows[7] = 1.1 * rows[3]
    >>> near_duplicates(rows, threshold=0.9).positions.tolist()
    [[3, 7]]
    """
    directions = whitened(rows)
    positions, cosines = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    step = max(1, BLOCK // max(len(rows), 1))
    for start in range(0, len(rows), step):
        found = directions[start : start + step] @ directions[start:].T
        i, j = np.nonzero(found >= threshold)
        wanted = i < j
        if contents is not None:
            wanted &= (contents[start + i] != contents[start + j]).any(axis=1)
        i, j = i[wanted], j[wanted]
        positions.append(np.stack([start + i, start + j], axis=1))
        cosines.append(np.minimum(found[i, j], 1.0))
    every = np.concatenate(cosines)
    order = np.argsort(-every, kind="stable")
    return Pairs(np.concatenate(positions)[order], every[order])


def leaked(file: FeatureFile, scored: np.ndarray, trained: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """Images to score that are exact or near copies of training images.

    Near duplicates are those of `near_duplicates` among all the images given. The rows are read in pieces: any
    number of them takes at most `LEAKED_MEMORY`.

    Args:
        file: The feature file.
        scored: (m,) positions of committed images.
        trained: (t,) positions of committed images.
        threshold: Lowest cosine of a near duplicate; by default `threshold_for` the file's rows.

    Returns:
        (m,) bool, True for exact copies (equal content hash) and near duplicates of a training image.

    Raises:
        FeatureFileError: A row is not committed, or its bytes have changed.
    """
    contents = file.table.content_hashes
    found = seen_before(contents[scored], contents[trained])
    if not len(scored) or not len(trained):
        return found
    least = threshold_for(file.spec) if threshold is None else threshold
    whitening = Whitening.of(file.pieces(np.concatenate([scored, trained])))
    step = max(1, SCORED // (4 * whitening.rotation.shape[1]))
    for start in range(0, len(scored), step):
        asked = np.concatenate([whitening(rows) for rows in file.pieces(scored[start : start + step])])
        for rows in file.pieces(trained):
            found[start : start + step] |= _any_alike(asked, whitening(rows), least)
    return found


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
        mean: (r,) float32, r = min(d, 4096).
        rotation: (r, r) float32; all zeros if all rows are equal.

    Source: square root: Perronnin, Sanchez and Mensink (2010), ECCV. Whitening with a ridge: Mahalanobis
    distance with a shrunk covariance, Ledoit and Wolf (2004), J. Multivariate Anal. 88(2), 365-411.
    """

    mean: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[np.ndarray]) -> Self:
        """The whitening of rows that come as (m, d) float pieces."""
        count, mean, covariance = moments(_evened(rows) for rows in pieces)
        width = len(mean)
        spread = float(np.trace(covariance)) / max(min(count - 1, width), 1)
        if spread <= 1e-12 * float(mean @ mean):
            return cls(mean.astype(np.float32), np.zeros((width, width), np.float32))
        covariance[np.diag_indices(width)] += spread
        from scipy.linalg.lapack import dtrtri

        inverse, _ = dtrtri(np.linalg.cholesky(covariance), lower=True, overwrite_c=True)
        return cls(mean.astype(np.float32), np.ascontiguousarray(inverse.T, np.float32))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) -> (m, r) float32 of length 1.

        A row that is the mean has length 0; if all rows are equal, so are all directions.
        """
        if not self.rotation.any():
            return np.eye(1, len(self.mean), dtype=np.float32).repeat(len(rows), axis=0)
        evened = _evened(rows)
        evened -= self.mean
        directions = evened @ self.rotation
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        directions /= np.where(lengths > 0, lengths, 1.0)
        return np.asarray(directions)


def _any_alike(asked: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """(m,) bool: which of (m, r) directions have a cosine of at least the threshold with one of (t, r) others."""
    step = max(1, BLOCK // len(others))
    pieces = [asked[start : start + step] @ others.T for start in range(0, len(asked), step)]
    return np.concatenate([(cosines >= threshold).any(axis=1) for cosines in pieces])


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """Groups of images that are connected by pairs.

    Args:
        n: Images.
        pairs: (m, 2) positions.

    Returns:
        (n,) int64, the lowest position in each image's group; its own if it is in no pair.

    >>> connected(5, np.array([[0, 3], [3, 4]])).tolist()
    [0, 1, 2, 0, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(n, n))
    group = connected_components(graph, directed=False)[1]
    return np.asarray(np.unique(group, return_index=True)[1][group])


def _evened(rows: np.ndarray) -> np.ndarray:
    """Signed square roots, (n, min(d, 4096)) float32.

    Those of wider rows are added up in 4,096 groups with random signs, which keeps cosines to about 0.02.

    Source: count sketch, Charikar, Chen and Farach-Colton (2002); Weinberger et al. (2009), arXiv:0902.2206.
    """
    n, width = rows.shape
    evened = np.empty((n, min(width, WIDEST)), np.float32)
    generator = np.random.default_rng(0)
    order, signs = generator.permutation(width), generator.choice(np.array([-1, 1], np.float32), width)
    starts = np.linspace(0, width, WIDEST, endpoint=False).astype(np.int64)
    for start in range(0, n, 256):
        some = rows[start : start + 256]
        roots = np.sign(some) * np.sqrt(np.abs(some))
        if width > WIDEST:
            roots = np.add.reduceat((roots * signs)[:, order], starts, axis=1)
        evened[start : start + 256] = roots
    return evened
