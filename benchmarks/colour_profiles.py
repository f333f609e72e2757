"""How far rows move when a colour profile is ignored: photos in Display P3 and Adobe RGB against the same in sRGB.

    python benchmarks/colour_profiles.py PHOTOS --count 100

Each photo is converted to the wide-gamut space by Little CMS. "ignored" takes the values as they stand in the file, as
onepass does; "converted" turns them back into sRGB first; "JPEG 85" is the photo re-encoded, for scale.
"""

import io
import struct
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageCms

from onepass.extract import find_images, load_backbone

_SRGB_CURVE = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.linspace(0, 1, 1024)]
_ADOBE_CURVE = [v**2.19921875 for v in np.linspace(0, 1, 1024)]
SPACES = {
    "Display P3": ([(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)], _SRGB_CURVE),
    "Adobe RGB": (
        [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)],
        _ADOBE_CURVE,
    ),
}
"""Name -> XYZ of red, green and blue under D50, and the curve from values to light."""


def profile(space: str) -> bytes:
    """An ICC profile, version 2, of three colours and one curve."""
    colours, light = SPACES[space]
    curve = (
        b"curv" + bytes(4) + struct.pack(">I", len(light)) + np.round(np.array(light) * 65535).astype(">u2").tobytes()
    )
    described = b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide" + bytes(80)
    tags = {b"desc": described, b"cprt": b"text" + bytes(8), b"wtpt": _xyz((0.9642, 1, 0.8249))}
    tags |= {name + b"XYZ": _xyz(colour) for name, colour in zip((b"r", b"g", b"b"), colours, strict=True)}
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = (
        struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntrRGB XYZ " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    )
    head += b"acsp" + bytes(28) + _xyz((0.9642, 1, 0.8249))[8:] + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def main(photos: list[Path], count: Annotated[int, typer.Option(help="Photos, drawn from all.")] = 100) -> None:
    """Prints the cosines to the rows of the photos as they are, and what converting costs."""
    files = sorted(find_images(photos))
    chosen = np.random.default_rng(0).choice(len(files), min(count, len(files)), replace=False)
    images = [Image.open(files[i]).convert("RGB") for i in chosen]
    backbone = load_backbone()
    side = backbone.spec.image_size

    def rows(images: list[Image.Image]) -> np.ndarray:
        small = [np.asarray(image.resize((side, side), Image.Resampling.HAMMING)) for image in images]
        found = backbone.rows(np.stack(small))
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    def tell(name: str, found: np.ndarray) -> None:
        cosines, nearest = (found * plain).sum(axis=1), (found @ plain.T).argmax(axis=1)
        own = int((nearest == np.arange(len(found))).sum())
        print(f"{name:24} cosine {cosines.mean():.4f}, lowest {cosines.min():.4f}; nearest is the same photo: {own}")

    plain = rows(images)
    tell("JPEG 85", rows([_encoded(image) for image in images]))
    srgb = ImageCms.createProfile("sRGB")
    for space in SPACES:
        wide = ImageCms.ImageCmsProfile(io.BytesIO(profile(space)))
        there = ImageCms.buildTransform(srgb, wide, "RGB", "RGB")
        back = ImageCms.buildTransform(wide, srgb, "RGB", "RGB")
        changed = [_through(image, there) for image in images]
        tell(f"{space} ignored", rows(changed))
        started = time.perf_counter()
        converted = [_through(image, back) for image in changed]
        pixels, seconds = sum(image.width * image.height for image in images), time.perf_counter() - started
        tell(f"{space} converted", rows(converted))
        print(f"{'':24} converting takes {1e9 * seconds / pixels:.0f} ms per million pixels")


def _through(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    made = ImageCms.applyTransform(image, transform)
    assert made is not None  # which it is only in place
    return made


def _encoded(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return Image.open(file)


if __name__ == "__main__":
    typer.run(main)
