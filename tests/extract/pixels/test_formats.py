"""Which files are read, and that every message says the same of it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.data.watch import find_images
from onepass.extract.pixels import formats
from onepass.extract.pixels.decode import decode, decode_whole
from onepass.extract.pixels.formats import format_names, is_image_name, why_no_image_name
from onepass.features.errors import UnreadableImageError
from support import MakeFolder

NEW = [pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow lacks AVIF"))]
NEW += [pytest.param("JPEG2000", marks=pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow lacks it"))]
HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
NEEDS_EXTRA = "HEIC; install onepass[heic] to read it"


@pytest.fixture(params=[False, True], ids=["without heic", "with heic"])
def heic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    formats._formats.cache_clear()
    monkeypatch.setattr(formats, "_reads_heic", lambda: request.param)
    monkeypatch.setattr(formats, "_reads_dicom", lambda: False)
    yield request.param
    formats._formats.cache_clear()


def test_the_formats_are_named_in_one_place(heic: bool):
    assert format_names("or") == (
        "JPEG, PNG, BMP, GIF, WebP, TIFF, AVIF, JPEG 2000 or HEIC"
        if heic
        else "JPEG, PNG, BMP, GIF, WebP, TIFF, AVIF or JPEG 2000"
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jpe", "a.jfif", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif",
                                  "a.TIFF", "a.avif", "a.jp2", "a.j2k", "d.d/a", ".a"])  # fmt: skip
def test_names_of_images(name: str):
    assert is_image_name(name)
    assert is_image_name(Path(name))


def test_names_of_other_files(heic: bool):
    assert not is_image_name("a.txt")
    assert why_no_image_name(Path("a.txt")) == "not an image by its name (.txt)"
    assert is_image_name("a.HEIC") == heic
    if not heic:
        assert why_no_image_name(Path("a.HEIC")) == NEEDS_EXTRA


def test_heic_without_the_extra_is_skipped_with_the_reason_that_names_it(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
):
    formats._formats.cache_clear()
    monkeypatch.setattr(formats, "_reads_heic", lambda: False)
    data = make_folder({"cats": 2, "dogs": 2})
    (data / "cats" / "phone.heic").write_bytes(HEIC_HEAD)
    assert scan_source(open_source(data)).unread == {"cats/phone.heic": NEEDS_EXTRA}
    with pytest.raises(UnreadableImageError, match=f"^{NEEDS_EXTRA.replace('[', chr(92) + '[')}$"):
        decode(HEIC_HEAD, image_size=16, resize="squash")
    formats._formats.cache_clear()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def smooth(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)).resize((60, 90), 3)


@pytest.mark.parametrize("kind", NEW)
def test_new_formats_show_the_picture(kind: str, smooth: Image.Image, tmp_path: Path):
    data = saved(smooth, kind)
    assert np.abs(decode_whole(data, resize="squash").astype(int) - np.asarray(smooth)).mean() < 4
    (tmp_path / "a").with_suffix({"AVIF": ".avif", "JPEG2000": ".jp2"}[kind]).write_bytes(data)
    assert len(list(find_images([tmp_path]))) == 1
    for end in (len(data) // 2, 40):
        with pytest.raises(UnreadableImageError, match="^(damaged: |not an image)"):
            decode(data[:end], image_size=16, resize="squash")


def turned(smooth: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(smooth, kind, exif=exif.tobytes())


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_avif_is_turned_once(smooth: Image.Image, orientation: int, turn: int):
    found = decode_whole(turned(smooth, "AVIF", orientation), resize="squash").astype(int)
    assert np.abs(found - np.rot90(np.asarray(smooth), turn)).mean() < 4


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_heic_is_turned_once(smooth: Image.Image, orientation: int, turn: int):
    pytest.importorskip("pillow_heif").register_heif_opener()
    found = decode_whole(turned(smooth, "HEIF", orientation), resize="squash").astype(int)
    assert np.abs(found - np.rot90(np.asarray(smooth), turn)).mean() < 4


def test_of_an_avif_sequence_the_first_frame_counts():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    found = decode_whole(saved(frames[0], "AVIF", save_all=True, append_images=frames[1:]), resize="squash")
    assert found[8, 8, 0] > 200
    assert found[8, 8, 2] < 50


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("profile", ["sound", "broken", "cut off", "empty"])
def test_a_colour_profile_changes_nothing_whatever_it_is(kind: str, profile: str, smooth: Image.Image):
    sound = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    given = {"sound": sound, "broken": b"no profile at all" * 20, "cut off": sound[:100], "empty": b""}[profile]
    found = decode_whole(saved(smooth, kind, icc_profile=given), resize="squash")
    np.testing.assert_array_equal(found, decode_whole(saved(smooth, kind, icc_profile=None), resize="squash"))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_of_grey_or_of_inks_changes_nothing(mode: str, smooth: Image.Image):
    image = smooth.convert(mode)
    found = decode_whole(saved(image, "JPEG", icc_profile=b"a profile of gamma 1.8" * 30), resize="squash")
    np.testing.assert_array_equal(found, decode_whole(saved(image, "JPEG"), resize="squash"))
