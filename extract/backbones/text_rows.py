"""Rows of texts beside the rows of a feature file, by the text tower of its network."""

import functools

import numpy as np

from onepass.extract.backbones.catalogue import BackboneName
from onepass.extract.backbones.options import BackboneOrigin
from onepass.extract.backbones.provider import TEXT_TOWERS
from onepass.extract.backbones.providers import provider_of
from onepass.features.errors import BackboneError, OptionError, SpecMismatchError, opt
from onepass.features.progress import phase
from onepass.features.spec import Spec

POOLING = "pooled"
"""The network's own vector of an image, which alone is compared with texts."""


def check_text_tower(spec: Spec, source: BackboneOrigin) -> None:
    """Refuses rows that no text can be compared with; nothing heavy is imported.

    Args:
        spec: Of the rows.
        source: Where their network came from.

    Raises:
        BackboneError: The network has no text tower, or what that needs is missing.
        OptionError: The rows are not the network's own vectors.
    """
    name = BackboneName.parse(source.name)
    provider_of(name).check_texts(name)
    if spec.pooling != POOLING:
        raise OptionError(
            f"these rows are {spec.pooling} of {spec.backbone}; texts are compared with the network's own vector "
            f"alone. Extract with {opt.pooling(POOLING)} from a network with a text tower: {TEXT_TOWERS}.",
            pooling=spec.pooling,
        )


@functools.lru_cache(maxsize=4)  # a comparison asks for the same rows in each of its trainings
def text_rows(spec: Spec, source: BackboneOrigin, texts: tuple[str, ...]) -> np.ndarray:
    """Rows of texts, (n, d) float32, in the space of rows of this spec; read only.

    Args:
        spec: Of the rows of images.
        source: Where their network came from.
        texts: n of them.

    Raises:
        BackboneError, OptionError: As for `check_text_tower`, or the texts cannot be computed.
        SpecMismatchError: The network that is found has other weights than that of the rows.
    """
    check_text_tower(spec, source)
    name = BackboneName.parse(source.name)
    with phase(f"computing {len(texts)} texts by {spec.backbone}"):
        rows, digest = provider_of(name).text_rows(name, texts, spec.image_size)
    if digest != spec.weights_hash:
        raise SpecMismatchError(
            f"the weights of {source.name} are not those that the rows were computed with ({digest[:16]}…, not "
            f"{spec.weights_hash[:16]}…). Put those back, or extract again.",
            differences={"weights_hash": (digest, spec.weights_hash)},
        )
    if rows.shape != (len(texts), spec.width) or not np.isfinite(rows).all() or not rows.any(axis=1).all():
        raise BackboneError(
            f"{spec.backbone} gives no usable rows of texts: shape {rows.shape}; needed: ({len(texts)}, {spec.width}), "
            "finite and not zero. Take another network with a text tower."
        )
    rows.flags.writeable = False
    return rows
