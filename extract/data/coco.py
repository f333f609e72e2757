"""Annotations as COCO writes them: JSON of images, categories and annotations with boxes, polygons or neither."""

from pathlib import Path
from typing import Any, TypeGuard

from onepass.extract.data.annotations import Export, Mark, plain_fields
from onepass.extract.data.records import Records

_PARTS = ("images", "annotations", "categories")


def is_coco(content: Any) -> TypeGuard[dict[str, Any]]:
    """True for what a JSON file of this kind holds."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return False
    return any(part in content for part in _PARTS[1:]) or all(
        isinstance(one, dict) and "file_name" in one for one in content["images"]
    )


def coco_records(path: Path, content: dict[str, Any]) -> Records:
    """The table of a file of annotations; crowds, which are boxes of many objects, have no row.

    Args:
        path: The file.
        content: What it holds, see `is_coco`.

    Raises:
        DataError: Something in it cannot be meant; the message says where.
    """
    export = Export(path, "COCO")
    for part in _PARTS:
        export.has(content, part, list, "the whole file", "a list of them, as COCO has it")
    numbers = (int, str)
    images = {
        export.has(image, "id", numbers, f"image {i}", "a number"): (
            export.has(image, "file_name", str, f"image {i}", "the name of its file"),
            plain_fields(image, ("id", "file_name", "width", "height", "coco_url", "flickr_url")),
        )
        for i, image in enumerate(content["images"], 1)
    }
    names = {
        export.has(category, "id", numbers, f"category {i}", "a number"): export.has(
            category, "name", str, f"category {i}", "its name"
        )
        for i, category in enumerate(content["categories"], 1)
    }
    for i, annotation in enumerate(content["annotations"], 1):
        place = f"annotation {i}"
        image = export.has(annotation, "image_id", numbers, place, "the id of an image")
        category = export.has(annotation, "category_id", numbers, place, "the id of a category")
        if image not in images:
            raise export.complaint(place, image, "an image_id that one of the images has")
        if category not in names:
            raise export.complaint(place, category, "a category_id that one of the categories has")
        if annotation.get("iscrowd"):
            export.left_out["crowds"] += 1
            continue
        points = _corners(export, annotation, place)
        box = export.around(place, points) if points else None
        name, fields = images[image]
        export.marks.append(Mark(name, (names[category],), place, box, fields))
    return export.records()


def _corners(export: Export, annotation: dict[str, Any], place: str) -> list[tuple[Any, Any]]:
    """Points around what is meant; none for the whole image."""
    box, polygons = annotation.get("bbox"), annotation.get("segmentation")
    if box:
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(one, int | float) for one in box):
            raise export.complaint(place, box, "bbox, which is left, top, width and height")
        left, top, width, height = box
        if not (width > 0 and height > 0):
            raise export.complaint(place, box, "bbox with a width and a height above 0")
        return [(left, top), (left + width, top + height)]
    if not polygons:
        return []
    if not isinstance(polygons, list) or not all(isinstance(one, list) and len(one) % 2 == 0 for one in polygons):
        raise export.complaint(place, polygons, "bbox, or segmentation as polygons")
    return [pair for one in polygons for pair in zip(one[::2], one[1::2], strict=True)]
