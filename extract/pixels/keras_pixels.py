"""The pixels that `keras.utils.image_dataset_from_directory` gives, bit for bit, without TensorFlow."""

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from PIL import GifImagePlugin, Image, JpegImagePlugin

from onepass.extract.pixels.crops import Box, area
from onepass.features.errors import UnreadableImageError

FORMATS = ("JPEG", "PNG", "BMP", "GIF")
"""Formats that `image_dataset_from_directory` reads."""

_BLOCK = 32  # target rows at once: arrays this small stay in the processor's cache, and are not mapped anew

# (m,) rows and (n,) columns of a decoded image -> its red, green and blue there, each (m, n), 0..255
_Source = Callable[[np.ndarray, np.ndarray], Iterable[np.ndarray]]


def keras_pixels(image: Image.Image, data: bytes, image_size: int, box: Box | None = None) -> np.ndarray:
    """One image as `tf.image.decode_image` and `tf.image.resize` (bilinear, no antialias) make it.

    Each output pixel mixes four source pixels; colours are only computed for these.

    Args:
        image: Opened with Pillow, not loaded yet; one of `FORMATS`.
        data: The file's bytes.
        image_size: s, pixels.
        box: Part of it that counts as the image; by default all. EXIF turns neither.

    Returns:
        (s, s, 3) float32 RGB in 0..255, not rounded.

    Raises:
        UnreadableImageError: TensorFlow refuses the image or leaves its pixels undefined; with the reason.
    """
    source = _source(image, data)
    left, top, end, lower = area(image.size, box)
    rows, down = _neighbours(lower - top, image_size)
    columns, right = _neighbours(end - left, image_size)
    rows, columns = rows + top, columns + left
    resized = np.empty((image_size, image_size, 3), np.float32)
    for start in range(0, image_size, _BLOCK):
        block = slice(start, start + _BLOCK)
        for colour, pixels in enumerate(source(rows[:, block].ravel(), columns.ravel())):
            # TensorFlow's order of float32 operations: along x first, then along y, each as a + (b - a) * t.
            pixels = pixels.astype(np.float32)
            lines = _between(pixels[:, :image_size], pixels[:, image_size:], right)
            resized[block, :, colour] = _between(lines[: len(lines) // 2], lines[len(lines) // 2 :], down[block, None])
    return resized


def decoded_pixels(image: Image.Image, data: bytes, box: Box | None = None) -> np.ndarray:
    """One image as `tf.image.decode_image` makes it, (h, w, 3) uint8 RGB; see `keras_pixels`."""
    left, top, right, lower = area(image.size, box)
    colours = _source(image, data)(np.arange(top, lower), np.arange(left, right))
    return np.stack([np.asarray(colour, np.uint8) for colour in colours], axis=-1)


def _source(image: Image.Image, data: bytes) -> _Source:
    return {"JPEG": _jpeg, "MPO": _jpeg, "PNG": _png, "BMP": _bmp, "GIF": _gif}[image.format or ""](image, data)


def _between(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    b -= a
    b *= t
    b += a
    return b


def _neighbours(size: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source positions on both sides of each target pixel's centre along one axis, and how far it lies between.

    Args:
        size: Pixels of the source.
        image_size: s, pixels of the target.

    Returns:
        (2, s) int64 lower and upper neighbours, and (s,) float32 in [0, 1).
    """
    scale = np.float32(size) / np.float32(image_size)
    centres = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    lower = np.floor(centres)
    return np.stack([lower, np.ceil(centres)]).astype(np.int64).clip(0, size - 1), centres - lower


def _rgb(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """The source of (height, width, 1 or more) uint8: one channel is repeated, a fourth one dropped."""
    taken = pixels.take(rows, axis=0).take(columns, axis=1)
    return (taken[..., colour % taken.shape[2]] for colour in range(3))


def _jpeg(image: Image.Image, _: bytes) -> _Source:
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    sampling = [(h, v) for _, h, v, *_ in image.layer]
    most = max(h for h, _ in sampling), max(v for _, v in sampling)
    whole = all(factors == most for factors in sampling)
    if not whole:
        if len(sampling) == 4:
            raise UnreadableImageError("a CMYK JPEG with subsampled colours, which is not read as Keras reads it")
        image.draft("YCbCr", None)
    # (1/1 of the size, draft): TensorFlow decodes with libjpeg's fast integer DCT. Pillow has that only
    # together with plain repetition of subsampled colours, so these are taken apart and smoothed here.
    image.decoderconfig = (1, 1)
    pixels = np.asarray(image)
    if image.mode == "CMYK":
        return partial(_cmyk, pixels, adobe="adobe" in image.info)
    if whole:
        return partial(_rgb, np.atleast_3d(pixels))
    steps = [(most[0] // h, most[1] // v) for h, v in sampling]
    planes = [np.ascontiguousarray(pixels[::v, ::h, component]) for component, (h, v) in enumerate(steps)]
    return partial(_ycbcr, planes, steps)


def _cmyk(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, adobe: bool) -> Iterator[np.ndarray]:
    """Pillow takes all CMYK for inverted, as Adobe stores it; TensorFlow asks for Adobe's mark."""
    taken = pixels.take(rows, axis=0).take(columns, axis=1).astype(np.int32)
    taken = 255 - taken if adobe else taken
    return (taken[..., colour] * taken[..., 3] // 255 for colour in range(3))


def _ycbcr(
    planes: list[np.ndarray], steps: list[tuple[int, int]], rows: np.ndarray, columns: np.ndarray
) -> Iterator[np.ndarray]:
    """JFIF colour conversion in libjpeg's fixed point arithmetic, 16 bits behind the point.

    Args:
        planes: Y, Cb and Cr as stored, each (ceil(height / v), ceil(width / h)) uint8.
        steps: (h, v) of each: pixels per sample along x and y.
        rows: (m,) positions in the image.
        columns: (n,) positions in the image.
    """
    y, cb, cr = (_upsampled(plane, *step, rows, columns) for plane, step in zip(planes, steps, strict=True))
    cb, cr = cb.astype(np.int32) - 128, cr.astype(np.int32) - 128
    for added in (91881 * cr, -22554 * cb - 46802 * cr, 116130 * cb):  # 1.402, 0.34414, 0.71414, 1.772
        added += 1 << 15
        added >>= 16
        added += y
        yield np.clip(added, 0, 255, out=added)


def _upsampled(plane: np.ndarray, h: int, v: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """libjpeg's "fancy" upsampling: 3/4 of the nearer sample and 1/4 of the farther one, along each axis.

    Returns:
        (m, n) integers in 0..255.
    """
    smooth_x = h == 2 and v <= 2 and plane.shape[1] > 2
    smooth_y = v == 2 and (smooth_x or h == 1)
    if not smooth_x and not smooth_y:
        return plane.take(rows // v, axis=0).take(columns // h, axis=1)
    samples = plane.take(rows // v, axis=0).astype(np.int16)
    if smooth_y:
        samples = 3 * samples + plane.take(_farther(rows, len(plane)), axis=0)
    # Half of the divisor, one more or less in turn so that rounding does not drift.
    bias, shift = 1 + rows[:, None] % 2, 2
    if smooth_x:
        samples = 3 * samples.take(columns // 2, axis=1) + samples.take(_farther(columns, plane.shape[1]), axis=1)
        bias, shift = (8 - columns % 2, 4) if smooth_y else (1 + columns % 2, 2)
    else:
        samples = samples.take(columns, axis=1)
    samples += bias.astype(np.int16)
    samples >>= shift
    return samples


def _farther(positions: np.ndarray, size: int) -> np.ndarray:
    beside: np.ndarray = positions // 2 + 2 * (positions % 2) - 1
    return beside.clip(0, size - 1)


def _png(image: Image.Image, _: bytes) -> _Source:
    if image.mode.startswith("I"):
        return partial(_rgb, (np.asarray(image)[..., None] >> 8).astype(np.uint8))
    image.info.pop("transparency", None)
    return partial(_rgb, np.asarray(image.convert("RGB")))


def _gif(image: Image.Image, _: bytes) -> _Source:
    assert isinstance(image, GifImagePlugin.GifImageFile)
    if image.dispose_extent != (0, 0, *image.size):
        raise UnreadableImageError("a GIF whose first frame does not fill it, which Keras reads at another size")
    indices = np.asarray(image)
    if image.mode != "P" or image.palette is None or indices.max() >= len(image.palette.palette) // 3:
        raise UnreadableImageError("a GIF with colours that its palette lacks, which Keras does not read")
    if (indices == image.info.get("transparency", -1)).any():
        raise UnreadableImageError("a GIF with transparent pixels, which TensorFlow leaves undefined")
    return partial(_rgb, np.asarray(image.convert("RGB")))


def _bmp(image: Image.Image, data: bytes) -> _Source:
    """TensorFlow reads uncompressed 8, 24 and 32 bits per pixel, and takes palette indices for grey."""
    start, width, height, bits = struct.unpack("<i4xiixxh", data[10:30])
    channels, lines = bits // 8, abs(height)
    stride = (channels * width + 3) // 4 * 4
    if channels not in (1, 3, 4) or len(data) != start + stride * lines or (width, lines) != image.size:
        raise UnreadableImageError("a BMP that Keras does not read; needed: uncompressed, 8, 24 or 32 bits per pixel")
    pixels = np.frombuffer(data, np.uint8, offset=start).reshape(lines, stride)[:, : channels * width]
    pixels = pixels.reshape(lines, width, channels)[:: 1 if height < 0 else -1, :, 2::-1]
    return partial(_rgb, np.ascontiguousarray(pixels))
