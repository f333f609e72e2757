"""Proof that a backbone is fed, and computes, what its own framework would have it: golden images by both ways."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from onepass.extract.backbones.engines import OpenVINOEngine
from onepass.extract.backbones.golden import golden_images
from onepass.extract.pixels.decode import decode_image, pixel_dtype
from onepass.features.drift import cosines
from onepass.features.errors import BackboneError
from onepass.features.preprocess import Preprocess

LEAST_COSINE = 0.9999
"""Between rows of the converted graph, in float32, and those of the framework."""

MOST_LEVELS = 4.0
"""Between pixels by our rule and those of the framework's own transform, of 255: frameworks round their filters
differently, torchvision by up to 2 levels."""


@dataclass(frozen=True)
class Transform:
    """What a framework does to an image before the network.

    Attributes:
        name: Of the framework, with its version.
        values: An RGB image of any size, and our (s, s, 3) pixels of it for frameworks that do not resize ->
            (s, s, 3), what the network sees.
    """

    name: str
    values: Callable[[Image.Image, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A network as its own framework runs it.

    Attributes:
        name: Of the framework, with its version.
        rows: (b, s, s, 3) float32, what the network sees of b images -> (b, d) rows.
        transform: How the framework feeds it; None if it does not say, or says it of another resize rule.
    """

    name: str
    rows: Callable[[np.ndarray], np.ndarray]
    transform: Transform | None = None


@dataclass(frozen=True)
class Proof:
    """How far a converted network lies from its framework, over the golden images.

    Attributes:
        reference: What it was compared with.
        levels: Largest difference between pixels, of 255; None if the framework has no transform to compare with.
        cosine: Lowest cosine between rows.
    """

    reference: str
    levels: float | None
    cosine: float

    @property
    def holds(self) -> bool:
        return self.cosine >= LEAST_COSINE and (self.levels is None or self.levels <= MOST_LEVELS)

    def __str__(self) -> str:
        pixels = "" if self.levels is None else f"pixels within {self.levels:.2g} levels of 255, "
        return f"{self.reference}: {pixels}lowest cosine of rows {self.cosine:.8f}"


def prove(graph: Path, preprocess: Preprocess, reference: Reference) -> Proof:
    """Compares a graph with its framework.

    Args:
        graph: OpenVINO graph, (1, s, s, 3) pixels -> (1, d) rows.
        preprocess: What happens to an image before it.
        reference: The framework.
    """
    files = golden_images()
    ours = np.stack([decode_image(data, image_size=preprocess.size, resize=preprocess.resize) for data in files])
    seen = preprocess.normalised(ours)
    levels = None
    if reference.transform:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        theirs = np.stack(
            [reference.transform.values(image, pixels) for image, pixels in zip(images, ours, strict=True)]
        )
        if theirs.shape != seen.shape:
            return Proof(_names(reference), 255.0, 0.0)
        levels = float((np.abs(theirs - seen) * preprocess.std / preprocess.rescale).max())
        seen = theirs
    engine = OpenVINOEngine(graph, image_size=preprocess.size, precision="float32")
    pixels = ours.astype(pixel_dtype(preprocess.resize), copy=False)
    found = dict(engine.run(enumerate(pixels)))
    rows = np.stack([found[i] for i in range(len(files))])
    return Proof(_names(reference), levels, float(cosines(rows, reference.rows(seen.astype(np.float32))).min()))


def _names(reference: Reference) -> str:
    both = [reference.name, *([reference.transform.name] if reference.transform else [])]
    return " and ".join(dict.fromkeys(both))


def require_proof(proof: Proof, label: str) -> Proof:
    """The proof, if it holds.

    Raises:
        BackboneError: It does not; with what differs.
    """
    if proof.holds:
        return proof
    raise BackboneError(
        f"{label} as converted is not what {proof.reference} computes: {str(proof).partition(': ')[2]}; needed: "
        f"{MOST_LEVELS:.0f} levels at most, and {LEAST_COSINE} at least. Its preprocessing is wrong, or OpenVINO does "
        "not read it rightly: compare preprocessing with that of its training, and try another version of OpenVINO.",
        backbone=label,
    )
