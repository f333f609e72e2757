"""`resize='keras'` against `image_dataset_from_directory` itself."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract.frameworks import import_keras
from onepass.extract.pixels.decode import decode_image, read_image
from onepass.features.errors import UnreadableImageError

SIZES = [(61, 47), (64, 64), (5, 4), (2, 3), (1, 1), (300, 33)]
"""Width and height: odd, even, too small for smooth chroma, large on one side."""


def of_keras(path: Path, size: int) -> np.ndarray:
    """(size, size, 3) float32 of the one image in the folder of `path`."""
    read = import_keras().utils.image_dataset_from_directory
    (batch,) = read(path.parent, labels=None, image_size=(size, size), shuffle=False, verbose=False)
    return batch.numpy()[0]


def photo(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Smooth colours with some noise, so that every step of a JPEG decoder leaves a trace."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + rng.integers(-20, 21, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_pixels_of_keras(tmp_path: Path, name: str, data: bytes, sizes: tuple[int, ...] = (16, 45)) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for size in sizes:
        found = read_image(path, image_size=size, resize="keras")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, of_keras(path, size), err_msg=f"{name} at {size}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [
    {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"subsampling": "4:2:0"},
    {"subsampling": "4:2:0", "progressive": True, "quality": 30}, {"subsampling": "4:2:2", "quality": 100},
])  # fmt: skip
def test_jpegs_are_those_of_keras(tmp_path: Path, rng: np.random.Generator, size: tuple[int, int], options: dict):
    assert_pixels_of_keras(tmp_path, "a.jpg", encoded(photo(rng, size), "JPEG", **options))


def test_jpegs_of_other_kinds_are_those_of_keras(tmp_path: Path, rng: np.random.Generator):
    image, turned = photo(rng, (61, 47)), Image.Exif()
    turned[0x0112] = 6
    for options in ({"exif": turned}, {"restart_marker_blocks": 2}, {"keep_rgb": True, "subsampling": "4:4:4"}):
        assert_pixels_of_keras(tmp_path, "a.jpg", encoded(image, "JPEG", **options))
    assert_pixels_of_keras(tmp_path, "a.jpg", encoded(image.convert("L"), "JPEG"))
    wide = encoded(image, "JPEG", subsampling="4:2:2")
    assert b"\x03\x01\x21\x00" in wide
    for factors in (b"\x12", b"\x41", b"\x42", b"\x14"):  # the same samples, said to lie otherwise: 4:4:0, 4:1:1, ...
        assert_pixels_of_keras(tmp_path, "a.jpg", wide.replace(b"\x03\x01\x21\x00", b"\x03\x01" + factors + b"\x00"))


def test_cmyk_jpegs_are_those_of_keras(tmp_path: Path, rng: np.random.Generator):
    data = encoded(photo(rng, (61, 47)).convert("CMYK"), "JPEG")
    mark = data.index(b"\xff\xee\x00\x0eAdobe")
    assert_pixels_of_keras(tmp_path, "a.jpg", data)
    assert_pixels_of_keras(tmp_path, "a.jpg", data[: mark + 15] + b"\x02" + data[mark + 16 :])  # YCCK
    assert_pixels_of_keras(tmp_path, "a.jpg", data[:mark] + data[mark + 16 :])  # without Adobe's mark: not inverted


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P"])
def test_pngs_are_those_of_keras(tmp_path: Path, rng: np.random.Generator, mode: str):
    image = photo(rng, (61, 47))
    image.putalpha(Image.fromarray(rng.integers(0, 256, (47, 61), dtype=np.uint8)))
    image = image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)
    assert_pixels_of_keras(tmp_path, "a.png", encoded(image, "PNG"))
    transparent = {"P": [1, bytes(range(16))], "L": [100], "RGB": [(1, 2, 3)]}.get(mode, [])
    for transparency in transparent:
        assert_pixels_of_keras(tmp_path, "a.png", encoded(image, "PNG", transparency=transparency))


def test_16_bit_pngs_are_those_of_keras(tmp_path: Path, rng: np.random.Generator):
    import_keras()
    import tensorflow as tf

    for channels in (1, 2, 3, 4):
        values = rng.integers(0, 65536, (47, 61, channels), dtype=np.uint16)
        assert_pixels_of_keras(tmp_path, "a.png", tf.io.encode_png(values).numpy())


def test_bmps_are_those_of_keras(tmp_path: Path, rng: np.random.Generator):
    image = photo(rng, (61, 47))
    for variant in (image, image.convert("L"), image.quantize(16), image.convert("RGBA")):
        assert_pixels_of_keras(tmp_path, "a.bmp", encoded(variant, "BMP"))
    data = bytearray(encoded(image, "BMP"))
    data[22:26] = struct.pack("<i", -47)  # rows from the top down
    assert_pixels_of_keras(tmp_path, "a.bmp", bytes(data))


def test_gifs_are_those_of_keras(tmp_path: Path, rng: np.random.Generator):
    image, second = photo(rng, (61, 47)), photo(rng, (61, 47))
    assert_pixels_of_keras(tmp_path, "a.gif", encoded(image, "GIF"))
    assert_pixels_of_keras(tmp_path, "a.gif", encoded(image, "GIF", interlace=True))
    assert_pixels_of_keras(tmp_path, "a.gif", encoded(image, "GIF", save_all=True, append_images=[second]))
    assert_pixels_of_keras(
        tmp_path, "a.gif", encoded(image.quantize(16), "GIF", transparency=17)
    )  # a colour that no pixel has


def test_an_image_of_the_right_size_is_not_changed(tmp_path: Path, rng: np.random.Generator):
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = decode_image(encoded(Image.fromarray(pixels), "PNG"), image_size=32, resize="keras")
    np.testing.assert_array_equal(found, pixels)


GIF_OF_COLOUR_3_OF_2 = (
    struct.pack("<6sHHBBB6x", b"GIF89a", 1, 1, 0x80, 0, 0)
    + struct.pack("<sHHHHB", b",", 0, 0, 1, 1, 0)
    + bytes([2, 2, 0x5C, 0x01, 0])  # LZW of 3 bits: clear, 3, end
    + b";"
)


def small_first_frame(image: Image.Image) -> bytes:
    data = bytearray(encoded(image, "GIF"))
    data[6:10] = struct.pack("<HH", 100, 100)  # the screen is larger than the only frame
    return bytes(data)


@pytest.mark.parametrize(("make", "reason"), [
    (lambda i: encoded(i, "WEBP"), "not an image (JPEG, PNG, BMP, GIF are all that resize='keras' reads)"),
    (lambda i: encoded(i, "TIFF"), "not an image (JPEG, PNG, BMP, GIF are all that resize='keras' reads)"),
    (lambda i: encoded(i.convert("1"), "BMP"),
     "a BMP that Keras does not read; needed: uncompressed, 8, 24 or 32 bits per pixel"),
    (lambda i: encoded(i, "BMP") + b"..",
     "a BMP that Keras does not read; needed: uncompressed, 8, 24 or 32 bits per pixel"),
    (lambda i: encoded(i.quantize(16), "GIF", transparency=i.quantize(16).getpixel((0, 0))),
     "a GIF with transparent pixels, which TensorFlow leaves undefined"),
    (small_first_frame, "a GIF whose first frame does not fill it, which Keras reads at another size"),
    (lambda i: GIF_OF_COLOUR_3_OF_2, "a GIF with colours that its palette lacks, which Keras does not read"),
    (lambda i: encoded(i.convert("CMYK"), "JPEG").replace(b"C\x11\x00", b"C\x22\x00"),
     "a CMYK JPEG with subsampled colours, which is not read as Keras reads it"),
])  # fmt: skip
def test_what_keras_does_not_read_is_refused_with_the_reason(rng: np.random.Generator, make, reason: str):
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(make(photo(rng, (61, 47))), image_size=16, resize="keras")
    assert str(caught.value) == reason


def test_damaged_files_are_refused_here_too(rng: np.random.Generator):
    for kind in ("JPEG", "PNG", "GIF"):
        data = encoded(photo(rng, (61, 47)), kind)
        with pytest.raises(UnreadableImageError, match="^damaged: "):
            decode_image(data[: len(data) // 2], image_size=16, resize="keras")
