"""Groups that lie in more than one split, where they make a score better than it is."""

from dataclasses import dataclass

import numpy as np

from onepass.features.names import shown
from onepass.features.splits import SPLITS
from onepass.features.table import ImageTable


@dataclass(frozen=True)
class OverlappingGroup:
    """A group with images in more than one split.

    Attributes:
        group: Its name.
        splits: The splits, two or three.
    """

    group: str
    splits: list[str]


def find_overlapping_groups(table: ImageTable) -> list[OverlappingGroup]:
    """Groups of an image table that lie in more than one split, sorted; files that could not be read do not count."""
    found: dict[str, set[int]] = {}
    for i in np.flatnonzero(table.content_hashes.any(axis=1)).tolist():
        if table.groups[i]:
            found.setdefault(table.groups[i], set()).add(int(table.splits[i]))
    return [
        OverlappingGroup(group, [SPLITS[i] for i in sorted(splits)])
        for group, splits in sorted(found.items())
        if len(splits) > 1
    ]


def describe_overlapping_groups(found: list[OverlappingGroup]) -> str:
    """One line on the groups that lie in more than one split."""
    first = f"{shown(found[0].group)} in {' and '.join(found[0].splits)}"
    if len(found) == 1:
        return f"1 group lies in more than one split: {first}"
    return f"{len(found)} groups lie in more than one split, such as {first}"
