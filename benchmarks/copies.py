"""How many planted copies are found, by rows, by thumbnails and by either; what is called falsely; time and memory.

    python benchmarks/copies.py DATA... --backbone resnet50 --weights FILE [--cache FOLDER] [--sheet FILE]
    python benchmarks/copies.py --scale 10000 --scale 100000

Of some photos of each DATA (class folders) a copy of each of ten kinds is made, and all copies of one kind are put
beside all photos, as they would lie in a feature file. Found are copies that come into the group of their original.
Of the pairs that are called among the photos themselves, near_duplicates_judged.json names those that somebody looked
at and saw different objects in, or the same one; --sheet draws those that nobody has judged. --scale measures the
search alone on made-up rows, 2,048 wide, and thumbnails, in a process of its own. Writes
benchmarks/results/copies-<backbone>.json and copies-scale.json.
"""

import hashlib
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from near_duplicates import JUDGED, draw, jpeg, upright
from PIL import Image, ImageEnhance, ImageOps

from onepass.extract import Backbone, load_backbone
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.machine import machine
from onepass.extract.pixels.image_bytes import read_bytes
from onepass.features import ImageTable
from onepass.features.copies import Pairs, copy_groups, near_duplicates, threshold_for


def main(
    data: Annotated[list[Path] | None, typer.Argument(help="Folders of class folders.")] = None,
    backbone: str = "efficientnet_lite0",
    weights: str = "imagenet",
    photos: Annotated[int, typer.Option(help="Photos of each folder that are copied.")] = 40,
    cache: Annotated[Path | None, typer.Option(help="Folder for rows, so that a second run computes none.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw pairs to judge to <sheet>-<data>.png.")] = None,
    scale: Annotated[list[int] | None, typer.Option(help="Numbers of images to time the search with.")] = None,
    only: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    if only:
        print(json.dumps(search_cost(only)))
    if scale:
        command = [sys.executable, __file__, "--only"]
        costs = [json.loads(subprocess.check_output([*command, str(images)])) for images in scale]
        write_result("copies-scale", {"machine": machine(), "versions": versions("onepass", "numpy"), "search": costs})
        print(*costs, sep="\n")
    if data:
        planted(data, load_backbone(backbone, weights=weights), photos, cache, sheet)


def planted(data: list[Path], network: Backbone, photos: int, cache: Path | None, sheet: Path | None) -> None:
    """Measures planted copies and real pairs of some folders."""
    judged = json.loads(JUDGED.read_text())
    figures: dict[str, Any] = {}
    for folder in data:
        table, rows, thumbnails, sample, copies = cached(cache, network, folder, photos)
        pairs = near_duplicates(rows, thumbnails, threshold=threshold_for(network.spec), contents=table.content_hashes)
        verdicts = [verdict(table, pair, judged.get(folder.name, {})) for pair in pairs.positions.tolist()]
        figures[folder.name] = {
            "images": len(table),
            "copied": len(sample),
            "found": {kind: found(network, rows, thumbnails, sample, *made) for kind, made in copies.items()},
            "real_pairs": {
                way: {word: int(sum(v == word for v in np.array(verdicts)[mask])) for word in ("same", "different", "")}
                for way, mask in (("rows", pairs.by_rows), ("thumbnails", ~pairs.by_rows))
            },
        }
        print(folder.name, json.dumps(figures[folder.name], indent=1))
        if sheet:
            open_ones = np.array([not v for v in verdicts], bool)
            left = Pairs(pairs.positions[open_ones], pairs.cosines[open_ones], pairs.by_rows[open_ones])
            draw(folder, table, left, sheet.with_name(f"{sheet.stem}-{folder.name}.png"))
            print(*[[table.paths[i] for i in pair] for pair in left.positions[::-1]], sep="\n")
    kinds = {kind: {way: sum(f["found"][kind][way] for f in figures.values()) for way in WAYS} for kind in KINDS}
    real = {
        way: {word: sum(f["real_pairs"][way][word] for f in figures.values()) for word in ("same", "different", "")}
        for way in ("rows", "thumbnails")
    }
    result = {
        "backbone": network.spec.backbone,
        "spec": json.loads(network.spec.to_json()),
        "machine": machine(),
        "versions": versions("onepass", "openvino", "pillow", "numpy"),
        "copied": sum(f["copied"] for f in figures.values()),
        "found": kinds,
        "real_pairs": real,
        "data": figures,
    }
    write_result(f"copies-{network.spec.backbone}", result)
    print(json.dumps({"found": kinds, "real_pairs": real}, indent=1))


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def cropped(image: Image.Image, share: float) -> Image.Image:
    """A share off along both axes, half at each side."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


def brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.15)


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 50": lambda image: jpeg(image, 50),
    "half size": lambda image: jpeg(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)),
    "grey": lambda image: jpeg(image.convert("L")),
    "quarter turn": lambda image: jpeg(image.transpose(Image.Transpose.ROTATE_90)),
    "mirror": lambda image: jpeg(ImageOps.mirror(image)),
    "crop 5 %": lambda image: jpeg(cropped(image, 0.05)),
    "crop 15 %": lambda image: jpeg(cropped(image, 0.15)),
    "brighter 15 %": lambda image: jpeg(brighter(image)),
    "PNG": png,
    "mirror, crop 5 %, brighter": lambda image: jpeg(brighter(cropped(ImageOps.mirror(image), 0.05))),
}
WAYS = ("rows", "thumbnails", "either")


def cached(
    cache: Path | None, network: Backbone, folder: Path, photos: int
) -> tuple[ImageTable, np.ndarray, np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The readable images of a folder: table, rows, thumbnails; which are copied; rows and thumbnails of copies."""
    table = scan_source(open_source(folder)).table
    asked = f"{network.spec.to_json()}{list(KINDS)}{table.content_hashes.tobytes().hex()}{photos} 1"
    path = (cache or Path()) / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.npz"
    if not (cache and path.exists()):
        print(f"{folder.name}: {len(table)} images and {len(KINDS)} copies of {photos} of them", flush=True)
        files = [read_bytes(folder / path) for path in table.paths]
        rows, thumbnails = described(network, files)
        order = sorted(range(len(table)), key=lambda i: table.content_hashes[i].tobytes())
        sample = np.array([i for i in order if thumbnails[i].any()][:photos])
        originals = [upright(folder / table.paths[i]) for i in sample]
        copies = {kind: described(network, [make(image) for image in originals]) for kind, make in KINDS.items()}
        arrays = {f"{kind} {i}": part for kind, parts in copies.items() for i, part in enumerate(parts)}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, rows=rows, thumbnails=thumbnails, sample=sample, **arrays)  # type: ignore[arg-type]
    stored = np.load(path)
    made = {kind: (stored[f"{kind} 0"], stored[f"{kind} 1"]) for kind in KINDS}
    return table, stored["rows"], stored["thumbnails"], stored["sample"], made


def described(network: Backbone, files: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) rows and (n, 24, 24) thumbnails of the bytes of image files; zeros where one cannot be read."""
    rows, thumbnails = np.zeros((len(files), network.spec.width), np.float32), np.zeros((len(files), 24, 24), np.uint8)
    stream = network.stream(
        enumerate(files), on_skip=lambda _, reason: print(f"skipped: {reason}"), on_thumbnail=thumbnails.__setitem__
    )
    for position, row in stream:
        rows[position] = row[0]
    return rows, thumbnails


def found(
    network: Backbone,
    rows: np.ndarray,
    thumbnails: np.ndarray,
    sample: np.ndarray,
    copied_rows: np.ndarray,
    copied_thumbnails: np.ndarray,
) -> dict[str, int]:
    """How many copies come into the group of their original, by each way alone and by both together."""
    all_rows = np.concatenate([rows, copied_rows])
    all_thumbnails = np.concatenate([thumbnails, copied_thumbnails])
    nothing, threshold = np.zeros_like(all_thumbnails), threshold_for(network.spec)
    noise = np.random.default_rng(0).normal(size=all_rows.shape)
    groups = {
        "rows": copy_groups(lambda: [all_rows], nothing, threshold=threshold),
        "thumbnails": copy_groups(lambda: [noise], all_thumbnails, threshold=threshold),
        "either": copy_groups(lambda: [all_rows], all_thumbnails, threshold=threshold),
    }
    return {way: int((group[sample] == group[len(rows) :]).sum()) for way, group in groups.items()}


def verdict(table: ImageTable, pair: list[int], judged: dict[str, list[list[str]]]) -> str:
    """same or different, as somebody saw it; "" if nobody has looked."""
    names = sorted(table.paths[i] for i in pair)
    return next((word for word in ("different", "same") if names in judged.get(word, [])), "")


def search_cost(images: int) -> dict[str, Any]:
    """Seconds and peak memory of one search among made-up rows, a tenth of them copies."""
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(images, 2048)).astype(np.float16), 0)
    coarse = rng.integers(0, 256, (images, 6, 6)).astype(np.uint8)
    thumbnails = np.stack(
        [np.asarray(Image.fromarray(one).resize((24, 24), Image.Resampling.BICUBIC)) for one in coarse]
    )
    for i in range(images // 10):
        rows[-1 - i] = rows[i] * np.float16(1.1) if i % 2 else rows[-1 - i]
        thumbnails[-1 - i] = thumbnails[-1 - i] if i % 2 else np.rot90(thumbnails[i])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def pieces() -> Any:
        return (rows[start : start + 4096].astype(np.float32) for start in range(0, images, 4096))

    started = time.perf_counter()
    groups = copy_groups(pieces, thumbnails, threshold=0.64)
    seconds = time.perf_counter() - started
    return {
        "images": images,
        "planted": images // 10,
        "found": images - len(np.unique(groups)),
        "seconds": round(seconds, 1),
        "bytes_beyond_the_rows": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
    }


if __name__ == "__main__":
    typer.run(main)
