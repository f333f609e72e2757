"""Annotations as Label Studio exports them: JSON of tasks with results, or its short form (JSON-MIN)."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import parse_qs, unquote, urlsplit

from onepass.extract.data.annotations import IMAGE, LABEL, Export, Mark, Points, plain_fields, turned
from onepass.extract.data.records import Records
from onepass.extract.pixels.formats import is_image_name
from onepass.features.errors import DataError

_LABELS = ("rectanglelabels", "ellipselabels", "polygonlabels", "choices", "taxonomy")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What stands before the name of a file that was uploaded."""
_OF_TASKS = ("annotations", "completions")


def is_label_studio(content: Any) -> TypeGuard[list[Any]]:
    """True for what a JSON file of this kind holds."""
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    first = content[0]
    if isinstance(first.get("data"), dict):
        return any(isinstance(first.get(name), list) for name in _OF_TASKS)
    return any(_is_region(one) for value in first.values() if isinstance(value, list) for one in value[:1])


def label_studio_records(path: Path, content: list[Any]) -> Records:
    """The table of an export; what a task says beside its image, and numbers and ratings, are columns.

    Args:
        path: The file.
        content: What it holds, see `is_label_studio`.

    Raises:
        DataError: Something in it cannot be meant; the message says where.
    """
    export = Export(path, "Label Studio", spell=_names)
    for i, task in enumerate(content, 1):
        place = f"task {task.get('id', i) if isinstance(task, dict) else i}"
        if not isinstance(task, dict):
            raise export.complaint(place, task, "an object")
        if isinstance(task.get("data"), dict):
            _of_task(export, task, place)
        else:
            _of_short_task(export, task, place)
    return export.records()


def _of_task(export: Export, task: dict[str, Any], place: str) -> None:
    done: list[Any] = next((task[name] for name in _OF_TASKS if isinstance(task.get(name), list)), [])
    kept = [one for one in done if isinstance(one, dict) and not one.get("was_cancelled")]
    kept = [one for one in kept if one.get("ground_truth")] or kept
    if len(kept) > 1:
        raise DataError(
            f"{export.path}, {place} has {len(kept)} annotations; needed: one. Mark the right one as ground truth."
        )
    if not kept:
        export.left_out["tasks without annotation"] += 1
        return
    results = export.has(kept[0], "result", list, place, "a list")
    where = [one.get("to_name") for one in results if isinstance(one, dict)]
    name, value = _image(export, task["data"], place, [str(one) for one in where])
    fields = plain_fields(task["data"], (name,))
    labels: list[str] = []
    numbers: dict[str, float] = {}
    for one in results:
        inner = export.has(one, "value", dict, place, "an object")
        said = str(one.get("from_name") or one.get("type"))
        if _is_region(inner) or "points" in inner or "radiusX" in inner:
            sides = {**inner, **{side: one.get(side) for side in ("original_width", "original_height")}}
            _add_region(export, sides, place, value, fields)
        elif names := _labels(inner):
            labels += names
        elif isinstance(number := inner.get("number", inner.get("rating")), int | float):
            numbers[said] = number
        else:
            export.left_out[f"results of {said[:40]}"] += 1
    if labels or numbers:
        export.marks.append(Mark(value, tuple(labels), place, fields={**fields, **numbers}))


def _of_short_task(export: Export, task: dict[str, Any], place: str) -> None:
    lists = {name: value for name, value in task.items() if isinstance(value, list) and value and _is_region(value[0])}
    name, value = _image(export, task, place, ["image"])
    fields = plain_fields(task, (name,))
    for regions in lists.values():
        for region in regions:
            _add_region(export, region, place, value, fields)
    if not lists:
        export.left_out["tasks without boxes"] += 1


def _image(export: Export, data: dict[str, Any], place: str, likely: list[str]) -> tuple[str, str]:
    """The field of a task with the address of its image, and that."""
    texts = {name: value for name, value in data.items() if isinstance(value, str) and value}
    for name in (*likely, IMAGE, *texts):
        if name in texts and (name in likely or any(is_image_name(one) and "." in one for one in _names(texts[name]))):
            return name, texts[name]
    raise export.complaint(place, data, "the name or address of an image")


def _is_region(value: Any) -> bool:
    return isinstance(value, dict) and all(side in value for side in ("x", "y", "width", "height"))


def _labels(value: dict[str, Any]) -> list[str]:
    """The labels of a result; of a taxonomy the last step of each path."""
    found = next((value[name] for name in _LABELS if name in value), None)
    if found is None:
        found = value.get(LABEL + "s", [])
    found = found if isinstance(found, list) else [found]
    return [str(one[-1] if isinstance(one, list) and one else one) for one in found]


def _add_region(export: Export, region: Any, place: str, image: str, fields: dict[str, Any]) -> None:
    if not isinstance(region, dict):
        raise export.complaint(place, region, "a region")
    labels = _labels(region)
    if not labels:
        export.left_out["regions without label"] += 1
        return
    width, height = (
        export.has(region, side, (int, float), place, "pixels") for side in ("original_width", "original_height")
    )
    try:
        points = [(x * width / 100, y * height / 100) for x, y in _percent(region)]
        if _is_region(region) and region.get("rotation"):
            points = turned(_corners(points), math.radians(float(region["rotation"])), points[0])
    except (KeyError, TypeError, ValueError):
        raise export.complaint(place, region, "a region in percent of the image") from None
    export.marks.append(Mark(image, tuple(labels), place, export.around(place, points), fields))


def _percent(region: dict[str, Any]) -> Points:
    """Points around a region."""
    if "points" in region:
        return [(float(x), float(y)) for x, y in region["points"]]
    if "radiusX" in region:
        x, y, across, down = (float(region[side]) for side in ("x", "y", "radiusX", "radiusY"))
        return [(x - across, y - down), (x + across, y + down)]
    left, top, width, height = (float(region[side]) for side in ("x", "y", "width", "height"))
    return [(left, top), (left + width, top + height)]


def _corners(points: Points) -> Points:
    (left, top), (right, lower) = points
    return [(left, top), (right, top), (right, lower), (left, lower)]


def _names(address: str) -> Iterator[str]:
    """Names that a file may have whose address in Label Studio is known.

    >>> list(_names("/data/upload/3/0a1b2c3d-ant.jpg"))
    ['data/upload/3/0a1b2c3d-ant.jpg', '0a1b2c3d-ant.jpg', 'ant.jpg']
    >>> list(_names("/data/local-files/?d=photos/ant%201.jpg"))
    ['photos/ant 1.jpg', 'ant 1.jpg']
    >>> list(_names("/data/local-files/?d=lab/photos/ant.jpg"))
    ['lab/photos/ant.jpg', 'photos/ant.jpg', 'ant.jpg']
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return
    # Bytes that are no UTF-8 stay what they are, as in names from the disk.
    local = parse_qs(parts.query, errors="surrogateescape").get("d")
    path = (local[0] if local else unquote(parts.path, errors="surrogateescape")).lstrip("/")
    steps = path.split("/")
    below = ["/".join(steps[i:]) for i in range(1, len(steps))] if local else []  # whatever folder is served
    yield from _once((path, *below, steps[-1], _UPLOADED.sub("", steps[-1])))


def _once(names: Iterable[str]) -> Iterator[str]:
    return iter(dict.fromkeys(filter(None, names)))
