"""For FiftyOne: samples with labels, predictions, confidence and rows, as its import of FiftyOneDataset reads them."""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np

from onepass.features import CLASSES, LABELS
from onepass.features.names import shown
from onepass.features.tables import Record
from onepass.heads.share.shared_images import Said, SharedImages


def write_fiftyone(images: SharedImages, folder: Path) -> list[str]:
    """Writes samples.json and metadata.json; images stay where they are and are named by their whole paths.

    A metadata.json without a version is one that FiftyOne reads without its data base having written it. Rows are what
    it makes of arrays in JSON: numpy's format, compressed, in base64.

    Returns:
        What else the user should know.
    """
    files = images.files("FiftyOne")
    samples: list[Record] = []
    rows = (row for piece in images.file.pieces(images.positions) for row in piece)
    left = 0
    for file, split, label, said, row in zip(
        files, images.splits, images.labels, images.predictions, rows, strict=True
    ):
        if not _is_text(str(file)):  # whose data base takes UTF-8 alone
            left += 1
            continue
        sample: Record = {"filepath": str(file), "tags": [split], "metadata": None}
        sample["ground_truth"] = None if label is None else _label(label, images.table.task)
        if images.head:
            sample["prediction"] = None if said is None else _label(said, images.task)
        samples.append({**sample, "embedding": _array(row)})
    named = [shown(name) for name in images.class_names]
    info = {name: shown(str(value)) for name, value in images.facts().items()}
    metadata = {"media_type": "image", "info": {**info, "classes": named}, "default_classes": named}
    _write(folder / "samples.json", {"samples": samples})
    _write(folder / "metadata.json", metadata)
    return [f"left out: {left} images whose names are no UTF-8, which FiftyOne does not take"] if left else []


def _label(said: Said, task: str) -> Record:
    """A document of FiftyOne, by the name of its class."""
    if said.number is not None:
        return {"_cls": "Regression", "tags": [], "value": said.number}
    one = [{"_cls": "Classification", "tags": [], "label": shown(name)} for name in said.names]
    if task == LABELS:
        return {"_cls": "Classifications", "classifications": one}
    return {**one[0], "confidence": said.confidence} if task == CLASSES else one[0]


def _array(row: np.ndarray) -> Record:
    """A vector as FiftyOne stores it, in MongoDB's extended JSON."""
    written = io.BytesIO()
    np.save(written, row, allow_pickle=False)
    packed = base64.b64encode(zlib.compress(written.getvalue())).decode("ascii")
    return {"$binary": {"base64": packed, "subType": "00"}}


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _write(path: Path, content: Record) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
