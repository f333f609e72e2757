"""Annotations as CVAT exports them for images: XML of images with boxes, polygons and tags."""

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from onepass.extract.data.annotations import Export, Mark, Points, turned
from onepass.extract.data.listed import decoded_text
from onepass.extract.data.records import Records
from onepass.features.errors import DataError


def cvat_records(path: Path) -> Records:
    """The table of an export; the subset of an image is a column.

    Raises:
        DataError: It is none, or something in it cannot be meant; the message says where.
    """
    root = _root(path)
    export = Export(path, "CVAT")
    if root.find("track") is not None:
        raise DataError(f"{path} holds tracks of a video; needed: the export `CVAT for images`.")
    for image in root.iterfind("image"):
        name = image.get("name")
        if not name:
            raise export.complaint("an image", dict(image.attrib), "its name")
        for shape in image:
            place, label = f"{shape.tag} of {name}", shape.get("label")
            if shape.tag != "tag" and shape.tag not in _POINTS:
                export.left_out[f"of kind {shape.tag[:40]}"] += 1
                continue
            if not label:
                raise export.complaint(place, dict(shape.attrib), "its label")
            fields = {"subset": image.get("subset")} if image.get("subset") else {}
            fields |= {str(one.get("name")): one.text for one in shape.iterfind("attribute") if one.get("name")}
            box = None if shape.tag == "tag" else export.around(place, _points(export, shape, place))
            export.marks.append(Mark(name, (label,), place, box, fields))
    return export.records()


def _root(path: Path) -> ElementTree.Element:
    try:
        text = decoded_text(path.read_bytes())
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # which may unfold to any size, or name other files
            raise DataError(f"{path} declares entities, which no export does; it is not read.")
        root = ElementTree.fromstring(text)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not XML: {str(error)[:80]}.") from None
    if root.tag != "annotations":
        raise DataError(f"{path} is XML of {root.tag[:40]!r}; needed: the export `CVAT for images`.")
    return root


def _points(export: Export, shape: ElementTree.Element, place: str) -> Points:
    try:
        return _POINTS[shape.tag](shape)
    except (KeyError, ValueError):
        raise export.complaint(place, dict(shape.attrib), "its corners, in pixels") from None


def _of_box(shape: ElementTree.Element) -> Points:
    left, top, right, lower = (float(shape.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
    angle = math.radians(float(shape.get("rotation", 0)))
    middle = (left + right) / 2, (top + lower) / 2
    return turned([(left, top), (right, top), (right, lower), (left, lower)], angle, middle)


def _of_polygon(shape: ElementTree.Element) -> Points:
    pairs = [pair.split(",") for pair in shape.attrib["points"].split(";")]
    return [(float(x), float(y)) for x, y in pairs]


def _of_mask(shape: ElementTree.Element) -> Points:
    left, top, width, height = (float(shape.attrib[side]) for side in ("left", "top", "width", "height"))
    return [(left, top), (left + width, top + height)]


def _of_ellipse(shape: ElementTree.Element) -> Points:
    x, y, across, down = (float(shape.attrib[side]) for side in ("cx", "cy", "rx", "ry"))
    angle = math.radians(float(shape.get("rotation", 0)))
    corners = [(x + a * across, y + b * down) for a in (-1, 1) for b in (-1, 1)]
    return turned(corners, angle, (x, y))


_POINTS: dict[str, Callable[[ElementTree.Element], Points]] = {
    "box": _of_box, "polygon": _of_polygon, "polyline": _of_polygon, "mask": _of_mask, "ellipse": _of_ellipse,
}  # fmt: skip
