"""Train and test sides drawn from the content of each image or the name of its group; a feature file remembers them."""

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np

from onepass.features.contents import seen_before
from onepass.features.errors import MissingSideWarning, OptionError, opt
from onepass.features.groups import group_ids, group_keys

SPLITS = ("train", "val", "test")
"""Names of the splits; a feature file stores positions in this tuple."""


def content_split(
    content_hashes: np.ndarray,
    labels: np.ndarray,
    *,
    groups: Sequence[str] = (),
    copies: np.ndarray | None = None,
    kept: np.ndarray | None = None,
    test: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """Picks the same share of test images of every class, by their content or by the names of their groups.

    Each group of images gets a number, a seeded hash of its name or content. By rising numbers, groups become test
    images as long as that brings the counts of their classes nearer to `test`; so of a class whose images are all
    groups of their own, those with the smallest numbers are taken, exactly so many. Copies and groups always share
    a side, and what has a side keeps it. A class of two or more groups that would miss a side gets the next group
    there, unless another class would miss one for it.

    Args:
        content_hashes: (n, 32) uint8, SHA-256 of each image file.
        labels: (n,) integers.
        groups: n names, "" for an image that is a group of its own; empty if all are.
        copies: (n,) integers, equal for copies of one picture that are not equal byte for byte.
        kept: (n,) int8, 1 for images that were test images and stay, 0 for those that were not, -1 for those to
            be drawn. A group that was on both sides is drawn.
        test: Share of test images, 0 < test < 1.
        seed: Another seed, another split.

    Returns:
        (n,) bool, True for test images.

    Raises:
        OptionError: `test` is not between 0 and 1.

    Warns:
        MissingSideWarning: A class of several groups has all its images on one side.

    >>> hashes = np.random.default_rng(0).integers(0, 256, (28, 32), np.uint8)
    >>> labels = np.array([0] * 25 + [1] * 3)
    >>> np.bincount(labels[content_split(hashes, labels)]).tolist()
    [5, 1]
    """
    if not 0 < test < 1:
        raise OptionError(f"the test share is {test}; needed: a number between 0 and 1, such as 0.2.")
    ids = group_ids(groups, content_hashes, copies)
    number = seeded_numbers(ids, group_keys(groups or [""] * len(ids), content_hashes), seed)
    side, fixed = np.zeros(len(number), bool), np.zeros(len(number), bool)
    if kept is not None:
        was = [np.bincount(ids[kept == value], minlength=len(number)) > 0 for value in (0, 1)]
        fixed = was[0] != was[1]
        side = fixed & was[1]
    classes = groups_by_class(labels, ids)
    side = _stratified(side, classes, order=np.argsort(number), fixed=fixed, test=test)
    side = _with_both_sides(side, classes, distance=np.where(side, 1 - number, number), fixed=fixed)
    return np.asarray(side[ids])


def groups_by_class(labels: np.ndarray, ids: np.ndarray) -> list[dict[int, int]]:
    """Group -> its number of images, for each class that there is, from (n,) classes and (n,) groups."""
    pairs, counts = np.unique(np.column_stack([labels, ids]), axis=0, return_counts=True)
    starts = np.flatnonzero(np.diff(pairs[:, 0])) + 1
    return [
        dict(zip(units.tolist(), sizes.tolist(), strict=True))
        for units, sizes in zip(np.split(pairs[:, 1], starts), np.split(counts, starts), strict=True)
    ]


def _stratified(
    side: np.ndarray, classes: Sequence[dict[int, int]], *, order: np.ndarray, fixed: np.ndarray, test: float
) -> np.ndarray:
    """Adds groups to the test side, in order, while that brings the classes nearer to their share of test images.

    Args:
        side: (g,) bool, True for the groups on the test side; only fixed ones are.
        classes: Group -> its number of images, for each class.
        order: (g,) groups, the first to be taken first.
        fixed: (g,) bool, True for the groups that stay where they are.
        test: Share.
    """
    wanted: list[int] = []
    for units in classes:
        total = sum(units.values())
        share = int(test * total + 0.5)
        wanted.append(min(max(share, 1), total - 1) if len(units) > 1 else share)
    return taken_in_order(side, classes, wanted=wanted, order=order[~fixed[order]])


def taken_in_order(
    taken: np.ndarray, classes: Sequence[dict[int, int]], *, wanted: Sequence[int], order: np.ndarray
) -> np.ndarray:
    """Takes groups, in order, while that brings the classes nearer to the images wanted of them.

    Args:
        taken: (g,) bool, True for the groups that are taken already.
        classes: Group -> its number of images, for each class.
        wanted: Images wanted of each class.
        order: Groups that may be taken, the first to be taken first.

    Returns:
        (g,) bool, True for the groups taken.
    """
    side = taken.copy()
    short = list(wanted)
    sizes: list[list[tuple[int, int]]] = [[] for _ in side]
    for label, units in enumerate(classes):
        for unit, size in units.items():
            short[label] -= size * int(side[unit])
            sizes[unit].append((label, size))
    for unit in order.tolist():
        if sum(abs(short[label]) - abs(short[label] - size) for label, size in sizes[unit]) > 0:
            side[unit] = True
            for label, size in sizes[unit]:
                short[label] -= size
    return side


def _with_both_sides(
    side: np.ndarray, classes: Sequence[dict[int, int]], *, distance: np.ndarray, fixed: np.ndarray
) -> np.ndarray:
    """Moves a group of each class that is on one side alone, unless that would take a side from another class.

    Args:
        side: (g,) bool, True for the groups on the test side.
        classes: Group -> its number of images, for each class.
        distance: (g,) how far each group is from the other side; near ones move first.
        fixed: (g,) bool, True for the groups that stay where they are.
    """
    side = side.copy()
    several = {label: list(units) for label, units in enumerate(classes) if len(units) > 1}
    tests = {label: int(side[units].sum()) for label, units in several.items()}
    labels_of: dict[int, list[int]] = {}
    for label, units in several.items():
        for unit in units:
            labels_of.setdefault(unit, []).append(label)

    def on_one_side(label: int, count: int) -> bool:
        return count in (0, len(several[label]))

    def harms(unit: int) -> bool:
        change = -1 if side[unit] else 1
        return any(on_one_side(label, tests[label] + change) for label in labels_of[unit])

    for label, units in several.items():
        if on_one_side(label, tests[label]):
            near = sorted((unit for unit in units if not fixed[unit]), key=distance.__getitem__)
            moved = next((unit for unit in near if not harms(unit)), None)
            if moved is not None:
                for other in labels_of[moved]:
                    tests[other] += -1 if side[moved] else 1
                side[moved] = not side[moved]
    if count := sum(on_one_side(label, tests[label]) and not fixed[units].all() for label, units in several.items()):
        warnings.warn(
            f"{count} of {len(classes)} classes have all their images on one side of the split, because their groups "
            "also hold images of other classes. Add images of other groups, or make train and test folders.",
            MissingSideWarning,
            stacklevel=3,
        )
    return side


def seeded_numbers(ids: np.ndarray, keys: list[str | bytes], seed: int) -> np.ndarray:
    """A number in [0, 1) for each group: a hash of its name, the first of several, or of its content."""
    secret = seed.to_bytes(16, "little", signed=True)
    texts: dict[int, tuple[bool, bytes]] = {}
    for group, key in zip(ids.tolist(), keys, strict=True):
        text = (True, key) if isinstance(key, bytes) else (False, b"group " + key.encode(errors="surrogateescape"))
        texts[group] = min(texts.get(group, text), text)
    digests = [hashlib.blake2b(texts[group][1], digest_size=8, key=secret).digest() for group in range(len(texts))]
    return np.array([int.from_bytes(digest, "little") / 2**64 for digest in digests])


PARTS = ("auto", "all", "unseen", *SPLITS)
"""What names images to score."""


def require_part_name(part: str) -> None:
    """Refuses what names no images to score.

    Raises:
        OptionError: With what does.
    """
    if part not in PARTS:
        raise OptionError(
            f"{opt.split} is {part!r}; needed: auto, all, unseen or one of {', '.join(SPLITS)}.", split=part
        )


def rows_to_score(
    splits: np.ndarray,
    content_hashes: np.ndarray,
    part: str,
    *,
    drawn: bool,
    seen: np.ndarray,
    ids: np.ndarray | None = None,
) -> tuple[np.ndarray, str]:
    """Picks the images that give an honest score of a head.

    Args:
        splits: (n,) positions in `SPLITS`.
        content_hashes: (n, 32) uint8.
        part: A split, "all", "unseen" for the images whose content the head was not trained on, nor another image
            of their group, or "auto": the test folder, else the val folder, else (no split folders) unseen.
        drawn: True if the split was drawn from the content, not given by folders.
        seen: (m, 8) uint8, first bytes of the content hashes that the head was trained on.
        ids: (n,) numbers of the groups, see `ImageTable.group_ids`; None if every image is a group of its own.

    Returns:
        (k,) positions, and the name of the part.

    Raises:
        OptionError: An unknown part.
    """
    require_part_name(part)
    if part == "auto":
        present = [name for name in ("test", "val") if (splits == SPLITS.index(name)).any()]
        part = "unseen" if drawn or not present else present[0]
    if part == "all":
        return np.arange(len(splits)), part
    if part == "unseen":
        known = seen_before(content_hashes, seen)
        if ids is not None:
            known = np.isin(ids, ids[known])
        return np.flatnonzero(~known), part
    return np.flatnonzero(splits == SPLITS.index(part)), part
