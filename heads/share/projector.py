"""For TensorBoard's projector: rows and what is known of them as TSV, thumbnails as a sprite, and what names these."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from onepass.features.names import shown
from onepass.features.thumbnails import SIDE
from onepass.heads.share.shared_images import SharedImages

_WIDEST = 8192
"""Pixels of a sprite along each axis that browsers show."""


def write_projector(images: SharedImages, folder: Path) -> list[str]:
    """Writes tensors.tsv, metadata.tsv, projector_config.pbtxt, and sprite.png where the file keeps thumbnails.

    Names are escaped (see `features.names.shown`), so that none begins a cell or a line.

    Returns:
        What else the user should know.
    """
    with open(folder / "tensors.tsv", "w", encoding="utf-8") as tensors:
        for rows in images.file.pieces(images.positions):
            np.savetxt(tensors, rows, fmt="%.7g", delimiter="\t")
    _write_metadata(images, folder / "metadata.tsv")
    sprite = _sprite(images)
    if sprite is not None:
        Image.fromarray(sprite).save(folder / "sprite.png")
    (folder / "projector_config.pbtxt").write_text(_config(images, sprite is not None), encoding="utf-8")
    return [] if sprite is not None else ["without pictures: the feature file keeps no thumbnails, or too many for one"]


def _write_metadata(images: SharedImages, path: Path) -> None:
    columns = {"image": list(images.table.paths), "label": [str(one or "") for one in images.labels]}
    columns["split"] = images.splits
    if images.file.table.group_names():
        columns["group"] = list(images.table.groups)
    if images.head:
        columns["predicted"] = [str(one or "") for one in images.predictions]
        columns["confidence"] = [
            "" if one is None or one.confidence is None else f"{one.confidence:.4f}" for one in images.predictions
        ]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(columns) + "\n")
        for cells in zip(*columns.values(), strict=True):
            file.write("\t".join(map(shown, cells)) + "\n")


def _sprite(images: SharedImages) -> np.ndarray | None:
    """(s, s) uint8: thumbnails row by row, as many across as down; None where there are none, or too many."""
    across = math.ceil(math.sqrt(len(images)))
    thumbnails = images.file.thumbnails[images.positions]
    if across * SIDE > _WIDEST or not thumbnails.any():
        return None
    sprite = np.zeros((across * across, SIDE, SIDE), np.uint8)
    sprite[: len(thumbnails)] = thumbnails
    return sprite.reshape(across, across, SIDE, SIDE).swapaxes(1, 2).reshape(across * SIDE, across * SIDE)


def _config(images: SharedImages, sprite: bool) -> str:
    """The message ProjectorConfig as text: https://github.com/tensorflow/tensorboard, projector_config.proto."""
    pictures = f"""  sprite {{
    image_path: "sprite.png"
    single_image_dim: {SIDE}
    single_image_dim: {SIDE}
  }}
"""
    return f"""embeddings {{
  tensor_name: "rows"
  tensor_shape: {len(images)}
  tensor_shape: {images.file.spec.width}
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
{pictures if sprite else ""}}}
"""
