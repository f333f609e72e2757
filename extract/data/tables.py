"""Whatever says something of images, read as a table: plain tables, and what annotation tools export."""

import json
from pathlib import Path
from typing import Any

from onepass.extract.data.coco import coco_records, is_coco
from onepass.extract.data.cvat import cvat_records
from onepass.extract.data.label_studio import is_label_studio, label_studio_records
from onepass.extract.data.listed import decoded_text
from onepass.extract.data.records import Records, read_records


def read_table(path: Path) -> Records:
    """Reads a table by the ending of its name, and JSON by what it holds.

    Args:
        path: The file: see `read_records`; or an export of COCO, Label Studio or CVAT.

    Raises:
        DataError: It cannot be read or is malformed; the message says where.
    """
    ending = path.suffix.lower()
    if ending == ".xml":
        return cvat_records(path)
    content = _json(path) if ending == ".json" else None
    if is_coco(content):
        return coco_records(path, content)
    if is_label_studio(content):
        return label_studio_records(path, content)
    return read_records(path)


def _json(path: Path) -> Any:
    """What a file holds if it is one JSON text; None if it is none, such as lines of them."""
    try:
        return json.loads(decoded_text(path.read_bytes()), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return None
