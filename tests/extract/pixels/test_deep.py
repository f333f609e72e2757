"""Images with 16 bits per value: what they become, what is told of them, and that the rule is part of the spec."""

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onepass.extract import LabelledPixels, load_backbone, load_backbone_for
from onepass.extract.one_pass.estimate import plan
from onepass.extract.one_pass.run import run_extraction
from onepass.extract.one_pass.transformer import BackboneFeatures
from onepass.extract.pixels.decode import decode, decode_image, decode_rule, decode_whole, depth_of
from onepass.extract.pixels.deep import describe_depth
from onepass.features import FeatureFile
from onepass.features.errors import DataError, OptionError, SpecMismatchError, UnreadableImageError
from onepass.heads import load_head, train_head
from onepass.heads.export.run import export_model
from onepass.heads.finetune.model_file import logits_of
from support import make_spec, write_rows

CHANNELS = {1: 0, 2: 4, 3: 2, 4: 6}
"""How many, and how PNG calls it."""


def png(values: np.ndarray, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of (h, w) or (h, w, c) 16-bit values, which Pillow cannot write in colours."""
    height, width, *rest = values.shape
    head = struct.pack(">2I5B", width, height, 16, CHANNELS[rest[0] if rest else 1], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff(values: np.ndarray, *, order: str = "<", packed: bool = False, bits: int = 16) -> bytes:
    """A TIFF of one strip of (h, w) or (h, w, 3) 16-bit values in either order of bytes."""
    height, width, *rest = values.shape
    channels, strip = rest[0] if rest else 1, values.astype(order + "u2").tobytes()
    strip = zlib.compress(strip) if packed else strip
    depths = struct.pack(order + "3H", bits, bits, bits)
    body = 8 + 2 + 9 * 12 + 4
    numbers = [width, height, bits, 8 if packed else 1, 2 if rest else 1, body + 6, channels, height, len(strip)]
    if rest:
        numbers[2] = body
    tags = zip((256, 257, 258, 259, 262, 273, 277, 278, 279), (4, 4, 3, 3, 3, 4, 3, 4, 4), numbers, strict=True)
    entries = b""
    for tag, kind, number in tags:
        count = 3 if rest and tag == 258 else 1
        short = kind == 3 and count == 1
        entries += struct.pack(order + "2HI", tag, kind, count)
        entries += struct.pack(order + ("2H" if short else "I"), *((number, 0) if short else (number,)))
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 9)
    return start + entries + bytes(4) + depths + strip


def values_of(rng: np.random.Generator, channels: int, top: int = 65535) -> np.ndarray:
    found = rng.integers(0, top + 1, (12, 9, channels))
    return found[..., 0] if channels == 1 else found


FILES: dict[str, Any] = {
    "png grey": (png, 1),
    "png colours": (png, 3),
    "tiff grey": (tiff, 1),
    "tiff grey, big-endian": (lambda v: tiff(v, order=">"), 1),
    "tiff grey, packed": (lambda v: tiff(v, packed=True), 1),
    "tiff grey, packed, big-endian": (lambda v: tiff(v, order=">", packed=True), 1),
    "tiff colours": (tiff, 3),
    "tiff colours, big-endian": (lambda v: tiff(v, order=">"), 3),
    "tiff colours, packed": (lambda v: tiff(v, packed=True), 3),
    "tiff colours, packed, big-endian": (lambda v: tiff(v, order=">", packed=True), 3),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("depth", [16, 15, 12, 8, 1])
def test_so_many_bits_are_in_use(name: str, depth: int, rng: np.random.Generator):
    make, channels = FILES[name]
    values = values_of(rng, channels, top=2**depth - 1)
    found = decode_whole(make(values), resize="squash", depth=depth)
    wanted = values >> 8 if depth == 16 else np.rint(values * (255 / (2**depth - 1)))
    np.testing.assert_array_equal(found, np.broadcast_to(wanted.reshape(12, 9, -1), found.shape))


@pytest.mark.parametrize("name", FILES)
def test_larger_values_are_white_and_the_largest_is_told(name: str):
    make, channels = FILES[name]
    values = np.full((12, 9) if channels == 1 else (12, 9, 3), 100)
    values[3, 3] = 5000
    found = decode(make(values), image_size=16, resize="crop", depth=12)
    assert found.highest == 5000
    assert decode_whole(make(values), resize="squash", depth=12)[3, 3].tolist() == [255, 255, 255]
    # Of colours Pillow gives the upper 8 bits alone, unless a depth is asked for.
    assert decode(make(values), image_size=16, resize="crop").highest in (5000, 5000 | 255)


def test_transparency_of_16_bits_is_laid_over_white(rng: np.random.Generator):
    values = values_of(rng, 4, top=4095)
    values[..., 3] = 0
    assert (decode_whole(png(values), resize="squash", depth=12) == 255).all()
    with pytest.raises(UnreadableImageError) as caught:
        decode_whole(png(values[..., 2:]), resize="squash", depth=12)
    assert str(caught.value) == "16 bits per value and transparency; convert it to 16-bit grey or colours first"


def test_a_deep_image_is_turned_once(rng: np.random.Generator):
    values = values_of(rng, 1, top=4095)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(values, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    for depth in (16, 12):
        plain = decode_whole(png(values), resize="squash", depth=depth)
        np.testing.assert_array_equal(decode_whole(turned, resize="squash", depth=depth), np.rot90(plain, 3))


def test_a_depth_changes_nothing_but_deep_images(rng: np.random.Generator):
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF"):
        file = io.BytesIO()
        image.save(file, kind)
        twice = [decode_image(file.getvalue(), image_size=16, resize="squash", depth=depth) for depth in (16, 12)]
        np.testing.assert_array_equal(*twice, err_msg=kind)
    assert decode(file.getvalue(), image_size=16, resize="squash").highest is None


def test_jpeg_2000_says_itself_how_many_bits_it_uses(rng: np.random.Generator):
    file = io.BytesIO()
    values = rng.integers(0, 65536, (16, 16), dtype=np.uint16)
    Image.fromarray(values).save(file, "JPEG2000")
    for depth in (16, 12):
        found = decode(file.getvalue(), image_size=16, resize="squash", depth=depth)
        np.testing.assert_array_equal(found.views[0][..., 0], values >> 8)
        assert found.highest is None


def test_the_rule_has_a_name_and_the_usual_one_is_what_it_was():
    assert decode_rule("squash") == make_spec().decode == "rgb-exif-white-hamming-2"
    assert decode_rule("crop", 12) == "rgb-exif-white-hamming-2-depth12"
    for depth in range(1, 17):
        assert depth_of(decode_rule("squash", depth)) == depth
    assert depth_of(decode_rule("keras")) == 16


@pytest.mark.parametrize(("highest", "depth", "lines"), [
    ([], 16, []),
    ([65535, 40000], 16, []),
    ([20000], 16, []),
    ([4000, 3000], 16, [
        ("2 of 2 images with 16 bits per value leave the upper bits empty and come out dark: their largest value is "
        "4000, of 65535. Extract again with depth 12 and another out")
    ]),
    ([65535, 300], 16, [
        ("1 of 2 images with 16 bits per value leave the upper bits empty and come out dark: their largest value is "
        "300, of 65535. If others come from another machine, extract them apart")
    ]),
    ([65535] * 20 + [300], 16, []),
    ([4095, 5000], 12, [
        "1 of 2 images with 16 bits per value hold values above 4095, the largest of depth 12; these became white"
    ]),
])  # fmt: skip
def test_what_is_told_of_deep_images(highest: list[int], depth: int, lines: list[str]):
    assert describe_depth(highest, depth) == lines


@pytest.fixture
def scans(tmp_path: Path, rng: np.random.Generator) -> Path:
    """12-bit values in 16-bit files, of two classes; beside each the same picture in 8 bits."""
    for label in ("ill", "well"):
        for folder in ("deep", "flat"):
            (tmp_path / folder / label).mkdir(parents=True)
        for i in range(4):
            values = values_of(rng, 1, top=4095)
            values[0, 0] = 4095
            (tmp_path / "deep" / label / f"{i}.png").write_bytes(png(values))
            flat = np.rint(values * (255 / 4095)).astype(np.uint8)
            Image.fromarray(flat).save(tmp_path / "flat" / label / f"{i}.png")
    return tmp_path


def rows_of(path: Path) -> np.ndarray:
    with FeatureFile(path) as file:
        return np.asarray(file.read(np.arange(len(file)))[0])


def test_the_depth_is_a_setting_of_the_pass_and_kept_in_the_spec(scans: Path, tiny_file: Path):
    def extract(name: str, out: str, **options: Any):
        return run_extraction(scans / name, str(tiny_file), out=scans / out, engine="openvino", **options)

    dark = extract("deep", "dark.h5")
    note = (
        "8 of 8 images with 16 bits per value leave the upper bits empty and come out dark: their largest value is "
        "4095, of 65535. Extract again with depth 12 and another out"
    )
    assert str(dark).splitlines()[-1] == note
    assert (dark.record()["deep"], dark.record()["depth"]) == (8, 16)
    assert f"of the images tried, {note}" in str(plan(scans / "deep", str(tiny_file), out=scans / "x.h5"))

    told, found = extract("deep", "told.h5", depth="12"), extract("deep", "found.h5", depth="data")
    extract("flat", "flat.h5")
    assert told.depth_notes == found.depth_notes == ()
    np.testing.assert_array_equal(rows_of(scans / "told.h5"), rows_of(scans / "flat.h5"))
    np.testing.assert_array_equal(rows_of(scans / "found.h5"), rows_of(scans / "flat.h5"))
    assert np.abs(rows_of(scans / "dark.h5") - rows_of(scans / "flat.h5")).max() > 0.1
    with FeatureFile(scans / "found.h5") as file:
        assert file.spec.decode == "rgb-exif-white-hamming-2-depth12"
        assert (LabelledPixels(file).read(np.arange(2)) > 200).any()
    with pytest.raises(SpecMismatchError) as caught:
        extract("deep", "dark.h5", depth=12)
    assert str(caught.value).splitlines()[-2].split() == [
        "decode", "rgb-exif-white-hamming-2", "rgb-exif-white-hamming-2-depth12",
    ]  # fmt: skip
    with pytest.raises(DataError) as missing:
        extract("flat", "y.h5", depth="data")
    assert str(missing.value) == (
        "none of the images has 16 bits per value, so there is no depth to find. Leave depth out."
    )
    backbone = load_backbone_for(file.spec, source=load_backbone(str(tiny_file)).source, needed_by="x")
    image = (scans / "deep" / "ill" / "0.png").read_bytes()
    np.testing.assert_array_equal(backbone.pixels(image), decode_image(image, image_size=32, resize="squash", depth=12))


@pytest.mark.parametrize("depth", [0, 17, "deep", 12.5, True, -1, "012"])
def test_a_depth_that_there_is_not_is_refused_before_the_folder_is_looked_at(depth: object):
    with pytest.raises(OptionError) as caught:
        run_extraction("nowhere", depth=depth)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"depth is {depth!r}; needed: 1 to 16 bits, or data to extract with what the images use."
    )


@pytest.mark.parametrize("depth", [12, "data"])
def test_a_depth_does_not_go_with_keras(depth: object):
    with pytest.raises(OptionError) as caught:
        run_extraction("nowhere", depth=depth, resize="keras")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "resize='keras' gives what Keras makes of 16-bit values; leave depth out, or choose another resize."
    )


def test_a_model_that_decodes_by_tensorflow_is_refused_another_depth(tmp_path: Path, rng: np.random.Generator):
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 6)) + 3 * y[:, None]
    path = write_rows(
        tmp_path / "x.h5", x, y, (np.arange(40) > 29).astype(np.uint8) * 2, decode=decode_rule("crop", 12)
    )
    head = load_head(train_head(path, out=tmp_path / "x.head").head.path)
    inputs: Any = SimpleNamespace(graph=None)
    with FeatureFile(path) as file, pytest.raises(OptionError) as caught:
        export_model(head, file, inputs, to="savedmodel", takes_bytes=True, out=tmp_path / "m")
    assert str(caught.value) == (
        f"{tmp_path / 'x.head'} is for images of 12 bits, and TensorFlow decodes 16-bit files by their upper 8 bits; "
        "leave takes_bytes out, and decode with read_image."
    )


def test_a_fine_tuned_model_and_a_pipeline_keep_the_depth(monkeypatch: pytest.MonkeyPatch, tiny_file: Path):
    spec = dataclasses.asdict(make_spec(decode=decode_rule("crop", 12), image_size=32))
    monkeypatch.setattr("onepass.heads.finetune.model_file.read_facts", lambda _: {"spec": spec, "logits": "logits"})
    assert logits_of(Path("x.keras"))["depth"] == 12
    fitted = BackboneFeatures(str(tiny_file), depth=12).fit([])
    assert fitted._ready.spec.decode == "rgb-exif-white-hamming-2-depth12"
