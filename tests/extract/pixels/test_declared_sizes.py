"""Images that declare far more than they hold: a reason, before memory is taken for what they declare."""

import io
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from onepass.extract.pixels.decode import decode
from onepass.features.errors import UnreadableImageError

PIXELS = "more than 178 million pixels (decompression bomb?)"
CHUNK = "damaged: Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK"


def png(side: int, kind: bytes = b"", content: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    extra = chunk(kind, content) if kind else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def saved(kind: str) -> bytearray:
    file = io.BytesIO()
    Image.new("P" if kind == "GIF" else "RGB", (10, 10)).save(file, kind)
    return bytearray(file.getvalue())


def bmp(side: int) -> bytes:
    data = saved("BMP")
    data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


def gif(*, frame: bool) -> bytes:
    data = saved("GIF")
    at = data.index(b"\x2c") + 5 if frame else 6
    data[at : at + 4] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def tiff(side: int) -> bytes:
    data = saved("TIFF")
    (start,) = struct.unpack("<I", data[4:8])
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


ZEROS = zlib.compress(bytes(2**26), 9)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(60_000), PIXELS),
        (png(100, b"iCCP", b"x\0\0" + ZEROS), CHUNK),
        (png(100, b"zTXt", b"x\0\0" + ZEROS), CHUNK),
        (png(100, b"iTXt", b"x\0\1\0\0\0" + ZEROS), CHUNK),
        (bmp(60_000), PIXELS),
        (gif(frame=False), PIXELS),
        (gif(frame=True), PIXELS),
        (tiff(60_000), PIXELS),
    ],
    ids=["png", "png-profile", "png-text", "png-long-text", "bmp", "gif", "gif-frame", "tiff"],
)
def test_an_image_that_declares_far_more_than_it_holds_is_a_reason(data: bytes, reason: str):
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableImageError) as refused:
            decode(data, image_size=64, resize="squash")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(refused.value) == reason
    assert peak < 8 * 2**20
