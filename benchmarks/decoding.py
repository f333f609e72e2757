"""From the bytes of JPEG files to pixels: Pillow as used here, Pillow otherwise, other libraries.

    python benchmarks/decoding.py DATA [--image-size 224] [--rounds 5] [--images 300]

Every contestant decodes and resizes the same files, squashed to a square, taking turns, with one thread
and with two. simplejpeg, opencv-python-headless and pyvips take part if they are installed. The pixel
difference is to a decoding at full size followed by Pillow's antialiased bicubic filter. Prints medians
and writes benchmarks/results/decoding-<data>.json.
"""

import importlib
import io
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import ratios, versions, write_result
from PIL import ExifTags, Image

from onepass.extract.machine import machine
from onepass.extract.pixels.decode import decode_image

Decode = Callable[[bytes, int], np.ndarray]

OURS = "onepass"
REFERENCE = "Pillow, full size, bicubic"
FILTERS = Image.Resampling


def main(
    data: Annotated[Path, typer.Argument(help="Folder with JPEG files, at any depth.")],
    image_size: int = 224,
    rounds: int = 5,
    images: Annotated[int, typer.Option(help="At most so many, evenly chosen; 0 takes all.")] = 0,
) -> None:
    files = chosen(plain_jpegs(data), images)
    contestants: dict[str, Decode] = {OURS: ours, **pillow_variants()}
    packages = ["onepass", "pillow"]
    for package, module, variants in (
        ("simplejpeg", "simplejpeg", simplejpeg_variants),
        ("opencv-python-headless", "cv2", opencv_variants),
        ("pyvips", "pyvips", pyvips_variants),
    ):
        try:
            contestants |= variants()
            packages.append(package)
        except ImportError:
            print(f"{module} is not installed; left out")
    seconds = measured(contestants, files, image_size, rounds)
    result = {
        "data": data.name,
        "images": len(files),
        "image_size": image_size,
        "machine": machine(),
        "versions": versions(*packages),
        "images_per_second": {
            threads: {name: [round(len(files) / s, 1) for s in taken] for name, taken in by_name.items()}
            for threads, by_name in seconds.items()
        },
        "times_onepass": {
            threads: {name: ratios(by_name[OURS], taken) for name, taken in by_name.items()}
            for threads, by_name in seconds.items()
        },
        "pixel_difference": differences(contestants, files, image_size),
    }
    write_result(f"decoding-{data.name}", result)
    print_table(result)


def plain_jpegs(data: Path) -> list[bytes]:
    """All upright RGB JPEGs below a folder: what every contestant must make the same of."""
    found = []
    for path in sorted(data.rglob("*.jp*g")):
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if (
                image.format == "JPEG"
                and image.mode == "RGB"
                and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            ):
                found.append(content)
    return found


def chosen(files: list[bytes], most: int) -> list[bytes]:
    return files[:: max(1, -(-len(files) // most))] if most else files


def measured(
    contestants: dict[str, Decode], files: list[bytes], image_size: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds per round, by number of threads and contestant."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for threads in (1, 2):
        by_name = {name: [0.0] * rounds for name in contestants}
        seconds[f"{threads} thread{'s' * (threads > 1)}"] = by_name
        with ThreadPoolExecutor(threads) as pool:
            for number in range(rounds):
                # Turns of a fraction of a second, so that all contestants meet the same machine.
                for start in range(0, len(files), 25):
                    turn = files[start : start + 25]
                    for name, decode in contestants.items():
                        started = time.perf_counter()
                        list(pool.map(decode, turn, [image_size] * len(turn)))
                        by_name[name][number] += time.perf_counter() - started
    return seconds


def differences(contestants: dict[str, Decode], files: Iterable[bytes], image_size: int) -> dict[str, dict[str, float]]:
    """Mean over all pixels of the absolute difference to the reference, and the largest one, of 255."""
    sums, largest, count = dict.fromkeys(contestants, 0.0), dict.fromkeys(contestants, 0), 0
    for content in files:
        count += 1
        reference = contestants[REFERENCE](content, image_size).astype(np.int16)
        for name, decode in contestants.items():
            difference = np.abs(decode(content, image_size) - reference)
            sums[name] += float(difference.mean())
            largest[name] = max(largest[name], int(difference.max()))
    return {name: {"mean": round(sums[name] / count, 3), "max": largest[name]} for name in contestants}


def print_table(result: dict[str, Any]) -> None:
    for name, difference in result["pixel_difference"].items():
        cells = []
        for threads, by_name in result["images_per_second"].items():
            ratio = result["times_onepass"][threads][name]
            rate = f"{statistics.median(by_name[name]):6.0f}/s {ratio['median']:5.2f} times"
            cells.append(f"{threads}: {rate} ({ratio['min']:.2f} to {ratio['max']:.2f})")
        print(f"{name:<38} {'  '.join(cells)}  off by {difference['mean']:.2f}, at most {difference['max']}")


def ours(content: bytes, size: int) -> np.ndarray:
    return decode_image(content, image_size=size, resize="squash")


def pillow(draft: int, resample: FILTERS, *, gap: float | None = None, box: bool = False) -> Decode:
    """Pillow with one setting.

    Args:
        draft: JPEGs are decoded at a fraction while both sides stay this many times the target; 0: never.
        resample: Filter of the resize.
        gap: Pillow's `reducing_gap`: whole-number averaging first, down to this many times the target.
        box: Averaging by a whole number first, as far as it goes.
    """

    def decode(content: bytes, size: int) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if draft:
                image.draft(None, (draft * size, draft * size))
            small: Image.Image = image
            if box:
                small = image.reduce((max(1, image.width // size), max(1, image.height // size)))
            return np.asarray(small.resize((size, size), resample, reducing_gap=gap))

    return decode


def pillow_variants() -> dict[str, Decode]:
    return {
        REFERENCE: pillow(0, FILTERS.BICUBIC),
        "Pillow, draft 2x, bicubic": pillow(2, FILTERS.BICUBIC),
        "Pillow, draft 2x, hamming": pillow(2, FILTERS.HAMMING),
        "Pillow, draft 2x, bilinear": pillow(2, FILTERS.BILINEAR),
        "Pillow, draft 2x, box": pillow(2, FILTERS.BOX),
        "Pillow, draft 2x, gap 1.5, bicubic": pillow(2, FILTERS.BICUBIC, gap=1.5),
        "Pillow, draft 2x, reduce, bicubic": pillow(2, FILTERS.BICUBIC, box=True),
        "Pillow, draft 1x, bicubic": pillow(1, FILTERS.BICUBIC),
        "Pillow, draft 1x, bilinear": pillow(1, FILTERS.BILINEAR),
    }


def simplejpeg_variants() -> dict[str, Decode]:
    """libjpeg-turbo without Pillow around it, decoding at a fraction as here; the resize is another's."""
    simplejpeg = importlib.import_module("simplejpeg")

    def decoded(content: bytes, size: int) -> Any:
        # 1/2, 1/4 and 1/8, as in Pillow: a factor that leaves less than twice the target is not taken.
        return simplejpeg.decode_jpeg(content, min_height=2 * size, min_width=2 * size)

    def by_pillow(content: bytes, size: int) -> np.ndarray:
        return np.asarray(Image.fromarray(decoded(content, size)).resize((size, size), FILTERS.BICUBIC))

    found: dict[str, Decode] = {"simplejpeg 2x, Pillow bicubic": by_pillow}
    try:
        cv2 = importlib.import_module("cv2")
        found["simplejpeg 2x, OpenCV area"] = lambda content, size: cv2.resize(
            decoded(content, size), (size, size), interpolation=cv2.INTER_AREA
        )
    except ImportError:
        pass
    return found


def opencv_variants() -> dict[str, Decode]:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)  # the threads are ours
    scaled = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    scaled[8] = cv2.IMREAD_REDUCED_COLOR_8

    def opencv(interpolation: int) -> Decode:
        def decode(content: bytes, size: int) -> np.ndarray:
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                least = min(image.size) // (2 * size)
            factor = max(n for n in scaled if n <= max(least, 1))
            flags = scaled[factor] | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            return np.asarray(
                cv2.cvtColor(cv2.resize(pixels, (size, size), interpolation=interpolation), cv2.COLOR_BGR2RGB)
            )

        return decode

    return {"OpenCV 2x, area": opencv(cv2.INTER_AREA), "OpenCV 2x, linear": opencv(cv2.INTER_LINEAR)}


def pyvips_variants() -> dict[str, Decode]:
    os.environ.setdefault("VIPS_CONCURRENCY", "1")  # the threads are ours; read at import
    pyvips = importlib.import_module("pyvips")

    def decode(content: bytes, size: int) -> np.ndarray:
        image = pyvips.Image.thumbnail_buffer(content, size, height=size, size="force", no_rotate=True)
        return np.asarray(image.numpy())

    return {"pyvips thumbnail": decode}


if __name__ == "__main__":
    typer.run(main)
