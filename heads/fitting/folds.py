"""Folds for tuning: stratified, and every group of images lies in one fold."""

import numpy as np

FOLDS = 5


def assign_folds(
    y: np.ndarray, *, groups: np.ndarray | None = None, folds: int = FOLDS, seed: int = 0, rare: bool = False
) -> np.ndarray:
    """Deals images to folds so that every fold has its share of every class.

    Whole groups are dealt, the largest first, each to the fold that has least of its classes. A class
    that would be missing from the training side is not held out: its groups stay in training always.

    Args:
        y: (n,) classes 0 to k - 1.
        groups: (n,) integers, equal for images that must stay together; by default each image is alone.
        folds: How many, 2 or more.
        seed: Of the order in which equal groups are dealt.
        rare: Whether classes that would be missing from the training side are held out nevertheless, because they
            are only ranges of numbers.

    Returns:
        (n,) int64: the fold that holds the image out, or -1 for images that are never held out. All are -1
        where nothing can be held out.

    >>> sorted(assign_folds(np.array([0, 0, 1, 1]), folds=2).tolist())
    [0, 0, 1, 1]
    """
    n = len(y)
    _, member = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    count = int(member.max()) + 1
    per_group = np.zeros((count, int(y.max()) + 1))
    np.add.at(per_group, (member, y), 1)
    lonely = ((per_group > 0).sum(axis=0) < 2) & (not rare or count < 2)
    held = np.flatnonzero(~(per_group[:, lonely] > 0).any(axis=1))
    order = np.random.default_rng(seed).permutation(held)
    order = order[np.argsort(-per_group[order].sum(axis=1), kind="stable")]
    share = per_group / np.maximum(per_group.sum(axis=0), 1)
    filled, sizes = np.zeros((folds, per_group.shape[1])), np.zeros(folds)
    fold_of = np.full(count, -1)
    for group in order:
        # By how much each fold already has of the classes of this group; among equals, the smallest fold.
        fullness = filled @ share[group] + 1e-9 * sizes
        fold_of[group] = fold = int(fullness.argmin())
        filled[fold] += per_group[group]
        sizes[fold] += per_group[group].sum()
    return np.asarray(fold_of[member])


def fold_masks(fold_of: np.ndarray) -> np.ndarray:
    """(n,) from `assign_folds` -> (n, f) bool, True where an image is held out; f is the number of folds in use."""
    return np.asarray(fold_of[:, None] == np.unique(fold_of[fold_of >= 0]))
