"""DICOM files, as hospitals keep them: through their window into the greys that a reader sees."""

import io
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from onepass.features.errors import UnreadableImageError

MARK = b"DICM"
"""What stands behind the first 128 bytes of such a file."""


def is_dicom(data: bytes | Path) -> bool:
    """True for the bytes, or the path, of a DICOM file."""
    if isinstance(data, Path):
        with open(data, "rb") as file:
            data = file.read(132)
    return data[128:132] == MARK


@cache
def register() -> None:
    """Lets Pillow open these files, by pydicom."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE  # what is odd in a header is no matter here
    Image.register_open("DICOM", _open)  # type: ignore[arg-type] # which takes any image, whatever it declares


def patient_of(data: bytes) -> str | None:
    """The PatientID in the header; None without one, or if the file is none.

    Raises:
        Exception: Anything, as pydicom's reader raises it on damaged files.
    """
    import pydicom

    header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["PatientID"])
    return str(header.get("PatientID") or "").strip() or None


def _open(file: IO[bytes], _: str) -> Image.Image:
    import pydicom
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    file.seek(0)
    if not is_dicom(file.read(132)):
        raise SyntaxError("not DICOM")
    file.seek(0)
    header = pydicom.dcmread(file)
    if "PixelData" not in header:
        raise UnreadableImageError("DICOM without an image")
    _require_size(header)
    pixels = np.asarray(pixel_array(header, index=0))
    if header.SamplesPerPixel == 1 and header.PhotometricInterpretation != "PALETTE COLOR":
        grey = seen(np.asarray(apply_modality_lut(pixels, header), np.float64), header)
        image = Image.fromarray(255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey)
    elif header.PhotometricInterpretation == "PALETTE COLOR":
        image = Image.fromarray((apply_color_lut(pixels, header) >> 8).astype(np.uint8)[..., :3])
    else:
        image = Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    image.format = "DICOM"
    return image


def _require_size(header: Any) -> None:
    """Refuses what declares more pixels than Pillow would decode."""
    if header.Rows * header.Columns > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise Image.DecompressionBombError


def seen(values: np.ndarray, header: Any) -> np.ndarray:
    """Greys as a viewer shows them: through the file's first table or window, or from the darkest to the brightest.

    Args:
        values: (h, w) after the modality's table, such as Hounsfield units.
        header: Of the file.

    Returns:
        (h, w) uint8, before MONOCHROME1 is turned to its negative.

    Source: DICOM PS3.3, C.11.2.
    """
    from pydicom.pixels.processing import apply_voi

    if header.get("VOILUTSequence"):
        table = header.VOILUTSequence[0]
        scaled = apply_voi(values.astype(np.int64), header, index=0) / (2 ** int(table.LUTDescriptor[2]) - 1)
    elif header.get("WindowWidth") is not None and header.get("WindowCenter") is not None:
        centre, width = (float(np.atleast_1d(header.get(name))[0]) for name in ("WindowCenter", "WindowWidth"))
        kind = header.get("VOILUTFunction") or "LINEAR"
        if kind == "SIGMOID":
            scaled = 1 / (1 + np.exp(-4 * (values - centre) / width))
        elif kind == "LINEAR_EXACT":
            scaled = (values - centre) / width + 0.5
        else:
            scaled = (values - centre + 0.5) / max(width - 1, 1e-6) + 0.5
    else:
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) / ((high - low) or 1.0)
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), np.uint8)
