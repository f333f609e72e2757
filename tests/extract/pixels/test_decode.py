import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onepass.extract.pixels.decode import decode_image, read_image
from onepass.features.errors import UnreadableImageError
from support import READ


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, size: int = 16, resize: str = "squash") -> np.ndarray:
    return decode_image(data, image_size=size, resize=resize)


@pytest.fixture
def photo(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
])  # fmt: skip
def test_lossless_formats_come_back_pixel_for_pixel(photo: Image.Image, kind: str, options: dict):
    np.testing.assert_array_equal(decoded(encoded(photo, kind, **options)), np.asarray(photo))


def test_jpeg_is_what_pillow_decodes(photo: Image.Image):
    data = encoded(photo, "JPEG", quality=95)
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


def test_a_large_jpeg_decoded_at_a_fraction_looks_like_the_whole(rng: np.random.Generator):
    smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((800, 640), 3)
    data = encoded(smooth, "JPEG", quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.HAMMING))
    difference = np.abs(decoded(data, 64).astype(int) - whole)
    assert difference.mean() < 1
    assert difference.max() <= 8


def test_only_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decoded(data)[8, 8].tolist()[0] > 240, kind
        assert decoded(data)[8, 8].tolist()[2] < 15, kind


def test_grey_and_palette_become_rgb(photo: Image.Image):
    grey = photo.convert("L")
    np.testing.assert_array_equal(decoded(encoded(grey, "PNG")), np.stack([np.asarray(grey)] * 3, axis=-1))
    palette = photo.quantize(16)
    np.testing.assert_array_equal(decoded(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    one_bit = photo.convert("1")
    assert set(np.unique(decoded(encoded(one_bit, "PNG")))) <= {0, 255}


def test_transparency_is_laid_over_white(rng: np.random.Generator):
    rgba = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    alpha = rgba[..., 3:].astype(float) / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)

    found = decoded(encoded(Image.fromarray(rgba), "PNG"))

    assert np.abs(found - expected).max() <= 1


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    data = encoded(image, "PNG", transparency=1)
    assert (decoded(data) == 255).all()


def test_16_bit_grey_keeps_its_upper_8_bits(rng: np.random.Generator):
    values = rng.integers(0, 65536, (16, 16), dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decoded(encoded(Image.fromarray(values), kind))
        np.testing.assert_array_equal(found[..., 0], values >> 8, err_msg=kind)


def test_cmyk_jpeg_becomes_rgb():
    red = Image.new("RGB", (16, 16), (200, 30, 20)).convert("CMYK")
    assert np.abs(decoded(encoded(red, "JPEG", quality=95))[8, 8].astype(int) - [200, 30, 20]).max() < 12


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(photo: Image.Image, orientation: int, turn: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(encoded(photo, "PNG", exif=exif))
    np.testing.assert_array_equal(found, np.rot90(np.asarray(photo), turn))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_image(photo: Image.Image):
    data = encoded(photo, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12garbage", quality=95)
    assert decoded(data).shape == (16, 16, 3)


def test_squash_crop_and_pad(rng: np.random.Generator):
    wide = Image.new("RGB", (64, 32), "red")
    wide.paste(Image.new("RGB", (32, 32), "white"), (16, 0))
    data = encoded(wide, "PNG")

    squashed, cropped, padded = (decoded(data, 32, resize).astype(int) for resize in ("squash", "crop", "pad"))

    assert (cropped == 255).all()
    np.testing.assert_array_equal(squashed, np.asarray(wide.resize((32, 32), Image.Resampling.HAMMING)))
    assert (padded[:8] == 0).all()
    assert (padded[-8:] == 0).all()
    assert (padded[16, 16] == 255).all()


def test_what_is_enlarged_along_one_axis_is_smoothed_by_the_bicubic_filter(photo: Image.Image):
    tall = photo.resize((16, 90))
    expected = np.asarray(tall.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decoded(encoded(tall, "PNG"), 32), expected)


@pytest.mark.parametrize("change", [
    lambda data: (b"", "empty file"),
    lambda data: (b"this is a text file called .jpg", f"not an image ({READ})"),
    lambda data: (data[: len(data) // 2], "damaged: "),
    lambda data: (data[:20], "not an image|damaged: "),
    lambda data: (data[:300] + bytes(100) + data[400:], None),
    lambda data: (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
])  # fmt: skip
def test_bad_bytes_give_a_reason_or_an_image_and_nothing_else(photo: Image.Image, change):
    bad, reason = change(encoded(photo.resize((64, 64)), "PNG"))
    if reason is None:
        try:
            assert decoded(bad).shape == (16, 16, 3)
        except UnreadableImageError as error:
            assert str(error).startswith("damaged: ")
        return
    with pytest.raises(UnreadableImageError) as caught:
        decoded(bad)
    assert any(str(caught.value).startswith(part.split(" (")[0]) for part in reason.split("|"))


def test_a_truncated_jpeg_is_refused_and_never_grey_below(photo: Image.Image):
    data = encoded(photo.resize((200, 200)), "JPEG")
    with pytest.raises(UnreadableImageError, match="^damaged: image file is truncated"):
        decoded(data[: len(data) // 2])


def test_a_decompression_bomb_is_refused_before_it_unpacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)
    bomb = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 20_000
    with pytest.raises(UnreadableImageError, match=r"^more than 20 million pixels \(decompression bomb\?\)$"):
        decoded(bomb)


def test_float_pixels_are_refused_with_advice(rng: np.random.Generator):
    data = encoded(Image.fromarray(rng.random((8, 8)).astype(np.float32)), "TIFF")
    with pytest.raises(UnreadableImageError, match="^32 bits per pixel and channel; convert it to 8 or 16 bits first$"):
        decoded(data)


def test_a_missing_file_and_a_folder_are_reasons_too(tmp_path: Path):
    for path, reason in ((tmp_path / "no.jpg", "no such file or directory"), (tmp_path, "is a directory")):
        with pytest.raises(UnreadableImageError, match=f"^{reason}$"):
            read_image(path, image_size=16, resize="squash")
