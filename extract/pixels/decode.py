"""One image file into the square RGB pixels that a backbone sees, or a reason why not."""

import contextlib
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from onepass.extract.pixels import keras_pixels
from onepass.extract.pixels.crops import cut, parted
from onepass.extract.pixels.deep import FULL_DEPTH, deep_values, highest_of_upper_bytes, is_deep, to_bytes
from onepass.extract.pixels.formats import opened
from onepass.extract.pixels.image_bytes import ImageFile, read_bytes
from onepass.extract.pixels.views import Augmentation, view_pixels
from onepass.features.errors import OptionError, UnreadableImageError, opt
from onepass.features.preprocess import ResizeRule
from onepass.features.thumbnails import SIDE


class Decoded(NamedTuple):
    """What is made of an image file, which is decoded once for all of it.

    Attributes:
        views: (s, s, 3) RGB of each view asked for; uint8, or float32 in 0..255 for keras.
        thumbnail: (24, 24) uint8, the whole image in grey whatever the resize rule cuts off.
        highest: The largest value of an image with 16 bits per value; None for all others.
    """

    views: list[np.ndarray]
    thumbnail: np.ndarray
    highest: int | None = None


def require_views(resize: str, views: Sequence[int]) -> None:
    """Refuses views where there are none.

    Raises:
        OptionError: --resize keras gives plain images alone.
    """
    if resize == "keras" and tuple(views) != (0,):
        raise OptionError(
            f"{opt.resize('keras')} gives plain images alone; leave {opt.views} out, or choose another {opt.resize}."
        )


def decode_rule(resize: str, depth: int = FULL_DEPTH) -> str:
    """Name of everything below that changes pixels; part of the spec. Count it up with any such change.

    >>> decode_rule("squash"), decode_rule("squash", 12)
    ('rgb-exif-white-hamming-2', 'rgb-exif-white-hamming-2-depth12')
    """
    if resize == "keras":
        return "keras-rgb-bilinear-1"
    rule = "rgb-exif-white-full-1" if ResizeRule.parse(resize).filter else "rgb-exif-white-hamming-2"
    return rule + ("" if depth == FULL_DEPTH else f"-depth{depth}")


def checked_depth(depth: int | str, resize: str) -> int:
    """Bits in use of 16-bit values, from a number or its text.

    Raises:
        OptionError: It is not 1 to 16, or --resize keras has no choice.
    """
    if str(depth) not in map(str, range(1, FULL_DEPTH + 1)):
        raise OptionError(
            f"{opt.depth} is {depth!r}; needed: 1 to {FULL_DEPTH} bits, or data to extract with what the images use.",
            depth=depth,
        )
    if resize == "keras" and int(depth) != FULL_DEPTH:
        raise OptionError(
            f"{opt.resize('keras')} gives what Keras makes of 16-bit values; leave {opt.depth} out, or choose another "
            f"{opt.resize}.",
            depth=depth,
        )
    return int(depth)


def depth_of(rule: str) -> int:
    """The bits of values in 16-bit images that a rule takes for the full range: 16, if it names none.

    >>> depth_of("rgb-exif-white-hamming-2"), depth_of("rgb-exif-white-hamming-2-depth12")
    (16, 12)
    """
    found = re.search(r"-depth(\d+)$", rule)
    return int(found[1]) if found else FULL_DEPTH


def pixel_dtype(resize: str) -> str:
    """What `read_image` returns and the backbone's graph takes: uint8 or float32."""
    return "float32" if resize == "keras" else "uint8"


def read_image(file: ImageFile, *, image_size: int, resize: str, depth: int = FULL_DEPTH) -> np.ndarray:
    """Decodes and resizes one image file. Only the first frame counts.

    Colour profiles (ICC) are ignored, as in the data that pretrained networks have seen: values count as they stand in
    the file. Photos with a Display P3 or Adobe RGB profile have rows with a mean cosine of 0.996 and 0.993 to those of
    the same photos in sRGB; a JPEG of quality 85 has 0.994 (benchmarks/colour_profiles.py). Converting them would take
    a pass over all pixels, and make rows differ from those of files whose profile was stripped on the way.

    squash, crop and pad read JPEG, PNG, BMP, GIF, WebP, TIFF, AVIF and JPEG 2000, and HEIC and DICOM with extras
    (see `formats`). EXIF orientation is applied; transparency is laid over white; grey, palette and CMYK become
    RGB. DICOM is seen through its window. Other 16-bit values keep their upper 8 bits; see `deep.to_bytes` for
    those that use fewer bits than 16. Values of 32 bits and floating point ones are refused: nothing says which of
    them are black and white. Large JPEGs are decoded at 1/2, 1/4 or 1/8 as long as both sides stay at least twice
    the target; then Pillow makes them `image_size` square, with antialiasing and rounded to uint8: by its Hamming
    filter where the image is reduced along both axes, by its bicubic one where it is enlarged along one.

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
        file: What it is read from.
        image_size: Side s, pixels.
        resize: squash (aspect ratio given up), crop (centre square), pad (black bars), keras, or a rule with a filter,
            see `ResizeRule`.
        depth: Bits in use of 16-bit values; nothing else depends on it.

    Returns:
        (s, s, 3) RGB, uint8; float32 in 0..255 for keras.

    Raises:
        UnreadableImageError: With the reason.
    """
    return decode_image(read_bytes(file), image_size=image_size, resize=resize, depth=depth)


def decode_image(data: bytes, *, image_size: int, resize: str, depth: int = FULL_DEPTH) -> np.ndarray:
    """`read_image` for the bytes of a file."""
    return decode(data, image_size=image_size, resize=resize, depth=depth).views[0]


def decode(
    data: bytes,
    *,
    image_size: int,
    resize: str,
    views: Sequence[int] = (0,),
    augmentation: Augmentation | None = None,
    depth: int = FULL_DEPTH,
) -> Decoded:
    """Pixels of several views of one image and its thumbnail.

    Args:
        data: Bytes of the file.
        image_size: Side s, pixels.
        resize: As for `read_image`; keras for the plain image alone.
        views: Numbers of views; 0 is the plain image. None for the thumbnail alone.
        augmentation: What the others are drawn from.
        depth: Bits in use of 16-bit values.

    Raises:
        UnreadableImageError: With the reason.
        OptionError: Views of --resize keras.
    """
    if views:
        require_views(resize, views)

    rule = ResizeRule.parse(resize)

    def to_square(image: Image.Image, side: int) -> Image.Image:
        return _resized(image, side, rule.scaled(image_size, side))

    def pixels(image: Image.Image, view: int) -> np.ndarray:
        if view == 0 or augmentation is None:
            return np.asarray(to_square(image, image_size))
        return view_pixels(
            image, augmentation=augmentation, content=content, view=view, image_size=image_size, to_square=to_square
        )

    content = hashlib.sha256(data).digest() if augmentation else b""
    box, data = parted(data)
    with _opened(data, resize) as image:
        if resize == "keras":
            plain = keras_pixels.keras_pixels(image, data, image_size, box)
            return Decoded([plain], _thumbnail(Image.fromarray(plain.round().astype(np.uint8))))
        if image.format in ("JPEG", "MPO") and not (rule.filter or box):
            image.draft(None, (2 * image_size, 2 * image_size))
        rgb, highest = _upright_rgb(image, data, depth)
        rgb = cut(rgb, box)
        return Decoded([pixels(rgb, view) for view in views], _thumbnail(rgb), highest)


def decode_whole(data: bytes, *, resize: str, depth: int = FULL_DEPTH) -> np.ndarray:
    """An image as `decode_image` sees it before it is resized, large JPEGs at full size too.

    Args:
        data: Bytes of the file.
        resize: The rule, which says how to decode.
        depth: Bits in use of 16-bit values.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UnreadableImageError: With the reason.
    """
    box, data = parted(data)
    with _opened(data, resize) as image:
        if resize == "keras":
            return keras_pixels.decoded_pixels(image, data, box)
        return np.asarray(cut(_upright_rgb(image, data, depth)[0], box))


def _opened(data: bytes, resize: str) -> contextlib.AbstractContextManager[Image.Image]:
    if resize == "keras":
        return opened(data, keras_pixels.FORMATS, why_only=f"are all that {opt.resize('keras')} reads")
    return opened(data)


def _upright_rgb(image: Image.Image, data: bytes, depth: int) -> tuple[Image.Image, int | None]:
    """The image, and the largest of its values if they have 16 bits."""
    deep = is_deep(image)
    values = deep_values(image, data, always=deep and depth != FULL_DEPTH)
    if values is None:
        image.load()
        return _as_rgb(_turned(image)), highest_of_upper_bytes(image) if deep else None
    shallow = Image.fromarray(to_bytes(values, depth if deep else FULL_DEPTH))
    return _as_rgb(_turned(shallow, like=image)), int(values.max()) if deep else None


def _turned(image: Image.Image, like: Image.Image | None = None) -> Image.Image:
    """The image as its EXIF says, or that of the file it was made of."""
    try:
        # Asked here first, because exif_transpose copies even an image that is upright.
        orientation = (like or image).getexif().get(ExifTags.Base.Orientation, 1)
        if orientation == 1:
            return image
        image.getexif()[ExifTags.Base.Orientation] = orientation
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # Broken EXIF: the pixels are fine, and no viewer would turn them either.


def _as_rgb(image: Image.Image) -> Image.Image:
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


def _resized(image: Image.Image, size: int, rule: ResizeRule) -> Image.Image:
    if rule.filter:
        return _as_trained(image, size, rule)
    # Hamming's window is half as wide as the cubic one; heads do as well on either (benchmarks/decoding.py
    # has the times). It is made for reducing: enlarged by it, pixels turn into blocks.
    reduced = (max if rule.method == "pad" else min)(image.size) >= size
    method = Image.Resampling.HAMMING if reduced else Image.Resampling.BICUBIC
    if rule.method == "crop":
        return ImageOps.fit(image, (size, size), method)
    if rule.method == "pad":
        return ImageOps.pad(image, (size, size), method, color="black")
    return image.resize((size, size), method)


def _as_trained(image: Image.Image, size: int, rule: ResizeRule) -> Image.Image:
    """The square by a rule that names its filter."""
    method = Image.Resampling[rule.filter.upper()]
    if rule.method == "pad":
        return ImageOps.pad(image, (size, size), method, color="black")
    image = image.resize(rule.reduced(*image.size, size), method)
    if rule.method == "squash":
        return image
    left, upper = (rule.start(length, size) for length in image.size)
    return image.crop((left, upper, left + size, upper + size))
