"""The image formats that are read: their names, the endings of their files, and what opens them."""

import contextlib
import importlib.util
import io
import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from onepass.extract.pixels import dicom
from onepass.extract.pixels.crops import parted
from onepass.extract.pixels.image_bytes import ImageFile
from onepass.features.errors import UnreadableImageError


class _Format(NamedTuple):
    name: str
    opens: str
    endings: tuple[str, ...]


# Only decoders that read pixels; EPS, for one, would start another program. Importing registers them.
_KNOWN = (
    _Format("JPEG", JpegImagePlugin.JpegImageFile.format, (".jpg", ".jpeg", ".jpe", ".jfif")),
    _Format("PNG", PngImagePlugin.PngImageFile.format, (".png",)),
    _Format("BMP", BmpImagePlugin.BmpImageFile.format, (".bmp",)),
    _Format("GIF", GifImagePlugin.GifImageFile.format, (".gif",)),
    _Format("WebP", WebPImagePlugin.WebPImageFile.format, (".webp",)),
    _Format("TIFF", TiffImagePlugin.TiffImageFile.format, (".tif", ".tiff")),
    _Format("AVIF", AvifImagePlugin.AvifImageFile.format, (".avif",)),
    _Format("JPEG 2000", Jpeg2KImagePlugin.Jpeg2KImageFile.format, (".jp2", ".j2k", ".jpx", ".jpf")),
)
DICOM_ENDINGS = (".dcm", ".dicom")
_HEIC = _Format("HEIC", "HEIF", (".heic", ".heif"))
_DICOM = _Format("DICOM", "DICOM", DICOM_ENDINGS)
_BUILT_IN = {"AVIF": "avif", "JPEG 2000": "jpg_2000", "WebP": "webp"}
"""Formats that Pillow may have been built without -> its name for them."""

_NEEDS_EXTRA = {one.name: f"{one.name}; install onepass[{one.name.lower()}] to read it" for one in (_HEIC, _DICOM)}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@cache
def _formats() -> tuple[_Format, ...]:
    """Those that are read here."""
    built = tuple(one for one in _KNOWN if one.name not in _BUILT_IN or features.check(_BUILT_IN[one.name]))
    return (*built, *((_HEIC,) if _reads_heic() else ()), *((_DICOM,) if _reads_dicom() else ()))


@cache
def _reads_heic() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def _reads_dicom() -> bool:
    return importlib.util.find_spec("pydicom") is not None


@cache
def _register_heic() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)


def format_names(last: str) -> str:
    """The formats that are read here, for messages: format_names("or") -> "JPEG, PNG, ... or JPEG 2000"."""
    names = [one.name for one in _formats()]
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def is_image_name(path: str | Path) -> bool:
    """True if a file may be an image by its name: it ends as one, or has no ending at all."""
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 (a tenth of the time of Path.suffix)
    return not ending or any(ending in one.endings for one in _formats())


def why_no_image_name(path: Path) -> str:
    """The reason why a file is not read, whose name `is_image_name` is false for."""
    for one in (_HEIC, _DICOM):
        if path.suffix.lower() in one.endings:
            return _NEEDS_EXTRA[one.name]
    return f"not an image by its name ({path.suffix})"


@contextlib.contextmanager
def opened(data: bytes | Path, only: tuple[str, ...] = (), *, why_only: str = "") -> Iterator[Image.Image]:
    """An image that is not decoded yet; what goes wrong within the block becomes a reason.

    Args:
        data: Of the file, or its path; of a box, the whole image is opened.
        only: Formats by Pillow's names, if not all that are read here.
        why_only: What to say of these behind their names.

    Raises:
        UnreadableImageError: With the reason.
    """
    if isinstance(data, bytes):
        data = parted(data)[1]
    if isinstance(data, bytes) and not data:
        raise UnreadableImageError("empty file")
    try:
        if _reads_heic() and not only and _is_heic(data):
            _register_heic()
        if _reads_dicom() and not only and dicom.is_dicom(data):
            dicom.register()
            data = data.read_bytes() if isinstance(data, Path) else data  # Pillow would leave the file open
        wanted = only or [one.opens for one in _formats() if one.opens in Image.OPEN]
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=wanted) as image:
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        if _is_heic(data) and not _reads_heic():
            raise UnreadableImageError(_NEEDS_EXTRA["HEIC"]) from None
        if dicom.is_dicom(data) and not _reads_dicom():
            raise UnreadableImageError(_NEEDS_EXTRA["DICOM"]) from None
        read = f"{', '.join(only)} {why_only}" if only else f"{format_names('and')} are read"
        raise UnreadableImageError(f"not an image ({read})") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UnreadableImageError(f"more than {limit} million pixels (decompression bomb?)") from None
    except MemoryError:
        raise UnreadableImageError("too large for this machine's memory") from None
    except Exception as error:
        # Pillow's decoders raise anything from OSError to struct.error on damaged files.
        raise UnreadableImageError(f"damaged: {str(error).strip() or type(error).__name__}"[:110]) from None


def why_unreadable(file: ImageFile) -> str:
    """Why a file is no image, by its head alone; empty if it may be one, or cannot be looked at now."""
    try:
        if isinstance(file, Path):
            if not stat.S_ISREG(file.stat().st_mode):
                return "not a regular file"
            file.open("rb").close()
    except OSError:
        return ""
    try:
        with opened(file if isinstance(file, Path) else file.read()):
            return ""
    except UnreadableImageError as error:
        return str(error)


def _is_heic(data: bytes | Path) -> bool:
    if isinstance(data, Path):
        with open(data, "rb") as file:
            data = file.read(12)
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS
