"""One image file into the square RGB pixels that a backbone sees, or a reason why not."""

import contextlib
import hashlib
import io
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from onepass.extract.pixels import keras_pixels
from onepass.extract.pixels.views import Augmentation, view_pixels
from onepass.features.errors import OptionError, UnreadableImageError, opt
from onepass.features.thumbnails import SIDE

RESIZES = ("squash", "crop", "pad", "keras")

# Only decoders that read pixels; EPS, for one, would start another program. Importing registers them.
_FORMATS = [
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
    )
]


class Decoded(NamedTuple):
    """What is made of an image file, which is decoded once for all of it.

    Attributes:
        views: (s, s, 3) RGB of each view asked for; uint8, or float32 in 0..255 for keras.
        thumbnail: (24, 24) uint8, the whole image in grey whatever the resize rule cuts off.
    """

    views: list[np.ndarray]
    thumbnail: np.ndarray


def require_views(resize: str, views: Sequence[int]) -> None:
    """Refuses views where there are none.

    Raises:
        OptionError: --resize keras gives plain images alone.
    """
    if resize == "keras" and tuple(views) != (0,):
        raise OptionError(
            f"{opt.resize('keras')} gives plain images alone; leave {opt.views} out, or choose another {opt.resize}."
        )


def decode_rule(resize: str) -> str:
    """Name of everything below that changes pixels; part of the spec. Count it up with any such change."""
    return "keras-rgb-bilinear-1" if resize == "keras" else "rgb-exif-white-hamming-2"


def pixel_dtype(resize: str) -> str:
    """What `read_image` returns and the backbone's graph takes: uint8 or float32."""
    return "float32" if resize == "keras" else "uint8"


def read_image(path: Path, *, image_size: int, resize: str) -> np.ndarray:
    """Decodes and resizes one image file. Only the first frame counts.

    squash, crop and pad read JPEG, PNG, BMP, GIF, WebP and TIFF. EXIF orientation is applied;
    transparency is laid over white; 16-bit values keep their upper 8 bits; grey, palette and CMYK become
    RGB. Large JPEGs are decoded at 1/2, 1/4 or 1/8 as long as both sides stay at least twice the target;
    then Pillow makes them `image_size` square, with antialiasing and rounded to uint8: by its Hamming filter
    where the image is reduced along both axes, by its bicubic one where it is enlarged along one.

    keras gives what `keras.utils.image_dataset_from_directory(..., image_size=(s, s))` gives, bit for bit:
    the aspect ratio is given up, by TensorFlow's bilinear filter of four neighbours with half-pixel
    centres, without antialiasing (so a large photo is sampled, not averaged) and without rounding. EXIF
    is ignored; alpha is dropped, and what lies beneath it shows; 16-bit values keep their upper 8 bits;
    JPEGs are decoded at full size by libjpeg's fast integer DCT with smooth chroma, CMYK by TensorFlow's
    formula; 8-bit BMPs are grey, whatever their palette. Refused are WebP and TIFF; BMPs that are
    compressed, of 1, 4 or 16 bits or of another length than their header says; GIFs with transparent pixels
    or a first frame smaller than the whole; CMYK JPEGs with subsampled colours. A damaged file at
    which Keras would stop is a reason here, or is read where Pillow can.

    Args:
        path: The file.
        image_size: Side s, pixels.
        resize: squash (aspect ratio given up), crop (centre square), pad (black bars) or keras.

    Returns:
        (s, s, 3) RGB, uint8; float32 in 0..255 for keras.

    Raises:
        UnreadableImageError: With the reason.
    """
    return decode_image(read_bytes(path), image_size=image_size, resize=resize)


def decode_image(data: bytes, *, image_size: int, resize: str) -> np.ndarray:
    """`read_image` for the bytes of a file."""
    return decode(data, image_size=image_size, resize=resize).views[0]


def decode(
    data: bytes,
    *,
    image_size: int,
    resize: str,
    views: Sequence[int] = (0,),
    augmentation: Augmentation | None = None,
) -> Decoded:
    """Pixels of several views of one image and its thumbnail.

    Args:
        data: Bytes of the file.
        image_size: Side s, pixels.
        resize: squash, crop or pad; keras for the plain image alone.
        views: Numbers of views; 0 is the plain image. None for the thumbnail alone.
        augmentation: What the others are drawn from.

    Raises:
        UnreadableImageError: With the reason.
        OptionError: Views of --resize keras.
    """
    if views:
        require_views(resize, views)

    def to_square(image: Image.Image, side: int) -> Image.Image:
        return _resized(image, side, resize)

    def pixels(image: Image.Image, view: int) -> np.ndarray:
        if view == 0 or augmentation is None:
            return np.asarray(to_square(image, image_size))
        return view_pixels(
            image, augmentation=augmentation, content=content, view=view, image_size=image_size, to_square=to_square
        )

    content = hashlib.sha256(data).digest() if augmentation else b""
    with _opened(data, resize) as image:
        if resize == "keras":
            plain = keras_pixels.keras_pixels(image, data, image_size)
            return Decoded([plain], _thumbnail(Image.fromarray(plain.round().astype(np.uint8))))
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (2 * image_size, 2 * image_size))
        rgb = _upright_rgb(image)
        return Decoded([pixels(rgb, view) for view in views], _thumbnail(rgb))


def decode_whole(data: bytes, *, resize: str) -> np.ndarray:
    """An image as `decode_image` sees it before it is resized, large JPEGs at full size too.

    Args:
        data: Bytes of the file.
        resize: The rule, which says how to decode.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UnreadableImageError: With the reason.
    """
    with _opened(data, resize) as image:
        if resize == "keras":
            return keras_pixels.decoded_pixels(image, data)
        return np.asarray(_upright_rgb(image))


@contextlib.contextmanager
def _opened(data: bytes, resize: str) -> Iterator[Image.Image]:
    """An image that is not decoded yet; what goes wrong within the block becomes a reason.

    Raises:
        UnreadableImageError: With the reason.
    """
    keras = resize == "keras"
    if not data:
        raise UnreadableImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=keras_pixels.FORMATS if keras else _FORMATS) as image:
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        read = f"GIF are all that {opt.resize('keras')} reads" if keras else "GIF, WebP and TIFF are read"
        raise UnreadableImageError(f"not an image (JPEG, PNG, BMP, {read})") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UnreadableImageError(f"more than {limit} million pixels (decompression bomb?)") from None
    except MemoryError:
        raise UnreadableImageError("too large for this machine's memory") from None
    except Exception as error:
        # Pillow's decoders raise anything from OSError to struct.error on damaged files.
        raise UnreadableImageError(f"damaged: {str(error).strip() or type(error).__name__}"[:110]) from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file; a pipe or device would keep a run waiting for ever.

    Raises:
        UnreadableImageError: With the reason.
    """
    try:
        if not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableImageError("not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError((error.strerror or type(error).__name__).lower()) from None
    except ValueError as error:  # a null byte in the name
        raise UnreadableImageError(str(error)) from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return _as_rgb(_turned(image))


def _turned(image: Image.Image) -> Image.Image:
    try:
        # Asked here first, because exif_transpose copies even an image that is upright.
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if upright else ImageOps.exif_transpose(image)
    except Exception:
        return image  # Broken EXIF: the pixels are fine, and no viewer would turn them either.


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImageError("32 bits per pixel and channel; convert it to 8 or 16 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _thumbnail(image: Image.Image) -> np.ndarray:
    # A wide, symmetric filter: one that is not gives mirrored and half-sized copies another thumbnail.
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _resized(image: Image.Image, size: int, resize: str) -> Image.Image:
    # Hamming's window is half as wide as the cubic one; heads do as well on either (benchmarks/decoding.py
    # has the times). It is made for reducing: enlarged by it, pixels turn into blocks.
    reduced = (max if resize == "pad" else min)(image.size) >= size
    method = Image.Resampling.HAMMING if reduced else Image.Resampling.BICUBIC
    if resize == "crop":
        return ImageOps.fit(image, (size, size), method)
    if resize == "pad":
        return ImageOps.pad(image, (size, size), method, color="black")
    return image.resize((size, size), method)
