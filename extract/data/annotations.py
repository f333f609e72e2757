"""What annotation tools export, as a table: a row for each box that was drawn, or for each image with labels."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from onepass.extract.data.records import Records
from onepass.extract.pixels.crops import Box
from onepass.features.errors import DataError

IMAGE, LABEL = "image", "label"
"""Columns of the table; others are what else the export says of an image."""

Points = list[tuple[float, float]]
"""(x, y) in pixels, from the upper left corner of the image to the right and down."""

_FARTHEST = 10**8
"""Pixels: no image is as wide."""


class Mark(NamedTuple):
    """What somebody said of an image, or of a part of it.

    Attributes:
        image: Name of the image.
        labels: Of it; none where only `fields` say something.
        place: What to call the mark in a message: `annotation 3`.
        box: The part; None for the whole image.
        fields: What else is known of it.
    """

    image: str
    labels: tuple[str, ...]
    place: str
    box: Box | None = None
    fields: Mapping[str, Any] = {}


@dataclass
class Export:
    """An export while it is read.

    Attributes:
        path: The file.
        kind: What it is: `COCO`.
        marks: Found so far.
        left_out: Why something has no row -> how many of it.
        spell: Other names by which an image may be there.
    """

    path: Path
    kind: str
    marks: list[Mark] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    spell: Callable[[str], Iterable[str]] = tuple

    def complaint(self, place: str, found: object, needed: str) -> DataError:
        return DataError(f"{self.path}, {place}: {str(found)[:60]!r}; needed: {needed}.")

    def has(self, where: object, name: str, kinds: type | tuple[type, ...], place: str, needed: str) -> Any:
        """What an object of the export holds by a name.

        Raises:
            DataError: It is no object, or holds nothing of these types by this name.
        """
        value = where.get(name) if isinstance(where, dict) else None
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.complaint(place, value, f"{name}, {needed}")
        return value

    def around(self, place: str, points: Sequence[tuple[Any, Any]]) -> Box:
        """The smallest box of whole pixels around some points.

        Args:
            place: For a message.
            points: (x, y), pixels from the upper left corner of the image.

        Raises:
            DataError: They are no points of an image, or have no area inside of it.
        """
        try:
            numbers = [(float(x), float(y)) for x, y in points]
            finite = bool(numbers) and all(math.isfinite(x) and abs(x) < _FARTHEST for pair in numbers for x in pair)
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise self.complaint(place, points, "a box in pixels")
        left, top = (max(0, math.floor(min(values))) for values in zip(*numbers, strict=True))
        right, lower = (math.ceil(max(values)) for values in zip(*numbers, strict=True))
        if right <= left or lower <= top:
            raise self.complaint(place, points, "a box inside of the image, of one pixel or more")
        return Box(left, top, right - left, lower - top)

    def records(self) -> Records:
        """The table.

        Raises:
            DataError: Nothing is in it.
        """
        boxes = [mark for mark in self.marks if mark.box]
        if boxes and len(boxes) < len(self.marks):
            self.left_out["labels of whole images, because there are boxes"] += len(self.marks) - len(boxes)
        rows = boxes or list(_by_image(self.marks))
        notes = [f"{self.path}: {count} {what} left out." for what, count in self.left_out.items()]
        if not rows:
            raise DataError(" ".join([f"{self.path} is an export of {self.kind} without labels.", *notes]))
        columns: dict[str, list[Any]] = {IMAGE: [row.image for row in rows]}
        if any(row.labels for row in rows):
            several = any(len(row.labels) > 1 for row in rows)
            columns[LABEL] = [list(row.labels) if several else "".join(row.labels) for row in rows]
        for name in dict.fromkeys(name for row in rows for name in row.fields):
            columns.setdefault(name, [row.fields.get(name) for row in rows])
        return Records(
            self.path,
            columns,
            [row.place for row in rows],
            boxes=tuple(mark.box for mark in boxes if mark.box),
            usual={"path": IMAGE, **({"label": LABEL} if LABEL in columns else {})},
            notes=tuple(notes),
            spell=self.spell,
        )


def _by_image(marks: Iterable[Mark]) -> Iterator[Mark]:
    """Marks of whole images, those of one image put together."""
    found: dict[str, Mark] = {}
    for mark in marks:
        if first := found.get(mark.image):
            labels = tuple(dict.fromkeys((*first.labels, *mark.labels)))
            mark = first._replace(labels=labels, fields={**mark.fields, **first.fields})
        found[mark.image] = mark
    return iter(found.values())


def plain_fields(values: Mapping[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    """Of the values of an object those that fit into a table."""
    return {
        str(name): value
        for name, value in values.items()
        if name not in (*but, IMAGE, LABEL) and (value is None or isinstance(value, str | int | float))
    }


def turned(points: Points, angle: float, about: tuple[float, float]) -> Points:
    """Points turned clockwise, as they are seen.

    Args:
        points: Any number of them.
        angle: Radians.
        about: The point that stays.

    >>> turned([(2.0, 1.0)], math.pi / 2, (1.0, 1.0))
    [(1.0, 2.0)]
    """
    cos, sin = math.cos(angle), math.sin(angle)
    away = [(x - about[0], y - about[1]) for x, y in points]
    return [(about[0] + x * cos - y * sin, about[1] + x * sin + y * cos) for x, y in away]
