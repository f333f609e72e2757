"""A sample that stands for all images: every class in its share, groups and copies kept together."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from onepass.features.groups import group_ids, group_keys
from onepass.features.splits import groups_by_class, seeded_numbers, taken_in_order

FOLDS = 5
"""A sample is good for so many folds: a class has so many images where it can, and no group more than one part in so
many of its class where other groups can fill the rest."""


def stratified_sample(
    content_hashes: np.ndarray, labels: np.ndarray, size: int, *, groups: Sequence[str] = (), seed: int = 0
) -> np.ndarray:
    """Picks about `size` images, by their content and the names of their groups, so that names of files do not matter.

    Every class keeps its share, but gets 5 images at least if it has them, or 2 where the sample is too small for
    that. Each group gets a number, a seeded hash of its name or content, and groups are taken by rising numbers. A
    group is taken whole, unless it would make up more than a fifth of its class's images in the sample and other
    groups can take its place; then so many of its images are, those with the smallest hashes. A class of two or more
    groups gets two at least. Exact copies are taken together. A larger sample holds nearly all of a smaller one.

    Args:
        content_hashes: (n, 32) uint8, SHA-256 of each image file.
        labels: (n,) integers.
        size: Images wanted, 1 or more; all are taken where there are no more.
        groups: n names, "" for an image that is a group of its own; empty if all are.
        seed: Another seed, another sample.

    Returns:
        (n,) bool, True for the images taken.

    >>> hashes = np.random.default_rng(0).integers(0, 256, (104, 32), np.uint8)
    >>> labels = np.array([0] * 60 + [1] * 40 + [2] * 4)
    >>> np.bincount(labels[stratified_sample(hashes, labels, 50)]).tolist()
    [29, 19, 4]
    """
    if len(labels) <= size:
        return np.ones(len(labels), bool)
    ids, contents = group_ids(groups, content_hashes), group_ids([], content_hashes)
    number = seeded_numbers(ids, group_keys(groups or [""] * len(ids), content_hashes), seed)
    own_number = seeded_numbers(contents, group_keys([""] * len(ids), content_hashes), seed)[contents]
    wanted = _quotas(np.unique(labels, return_counts=True)[1], size)
    offered = _offered(labels, ids, own_number, wanted)
    classes = groups_by_class(labels[offered], ids[offered])
    order = np.argsort(number)
    taken = taken_in_order(np.zeros(len(number), bool), classes, wanted=wanted.tolist(), order=order)
    for units in classes:
        lacking = min(2, len(units)) - int(taken[list(units)].sum())
        taken[sorted((unit for unit in units if not taken[unit]), key=number.__getitem__)[: max(lacking, 0)]] = True
    return np.isin(contents, contents[offered & taken[ids]])


def _quotas(counts: np.ndarray, size: int) -> np.ndarray:
    """(k,) images wanted of classes of (k,) images: their share by largest remainders, and the least of each."""
    exact = counts * (size / counts.sum())
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: size - int(shares.sum())]] += 1
    least = max(2, min(FOLDS, size // len(counts)))
    return np.asarray(np.minimum(np.maximum(shares, least), counts))


def _offered(labels: np.ndarray, ids: np.ndarray, number: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(n,) bool, False for images of a group beyond what a sample may hold of it, those with the largest numbers."""
    most = [
        max(-(-quota // FOLDS), _level(np.array(list(units.values())), quota))
        for units, quota in zip(groups_by_class(labels, ids), wanted.tolist(), strict=True)
    ]
    of = np.unique(labels, return_inverse=True)[1]
    order = np.lexsort((number, ids, of))
    first = np.r_[True, (np.diff(of[order]) != 0) | (np.diff(ids[order]) != 0)]
    place = np.arange(len(order)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    offered = np.empty(len(order), bool)
    offered[order] = place < np.array(most)[of[order]]
    return offered


def _level(sizes: np.ndarray, quota: int) -> int:
    """The fewest images that each of (g,) groups may give so that together they have the quota."""
    return 1 + bisect_left(range(1, quota), quota, key=lambda most: int(np.minimum(sizes, most).sum()))
