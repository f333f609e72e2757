"""From which cosine on two images are near duplicates: known duplicates against the nearest different photos.

    python benchmarks/near_duplicates.py DATA... --backbone mobilenetv2 --weights FILE [--cache FOLDER]

Of some photos of each DATA (class folders) known duplicates are made, one kind at a time, and put beside
all of its photos, as they would lie in a feature file. Three statistics are compared by how many of these
copies are more alike than any two photos of different classes: the cosine of plain rows, of rows less
their mean, and of whitened rows, which is what `onepass.features.copies` takes.

Real data hold real near duplicates, so pairs of one class are only called false by somebody who looked:
--sheet FILE draws the pairs above --lowest, and near_duplicates_judged.json names, by data set, those that show
different objects. Chosen is the lowest threshold from which on at least 95 % of the pairs called are right. Prints
tables and writes benchmarks/results/near-duplicates-<backbone>.json.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from onepass.extract import Backbone, load_backbone
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.machine import machine
from onepass.features import ImageTable
from onepass.features.copies import Pairs, near_duplicates, whitened

JUDGED = Path(__file__).parent / "near_duplicates_judged.json"
FLIP = "flip"
PRECISION = 0.95
"""Share of the pairs called that must be right."""


def main(
    data: Annotated[list[Path], typer.Argument(help="Folders of class folders.")],
    backbone: str = "efficientnet_lite0",
    weights: str = "imagenet",
    photos: Annotated[int, typer.Option(help="Photos of each folder that are copied.")] = 200,
    lowest: Annotated[float, typer.Option(help="Lowest threshold looked at.")] = 0.5,
    cache: Annotated[Path | None, typer.Option(help="Folder for rows, so that a second run computes none.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw the pairs of each DATA to <sheet>-<data>.png.")] = None,
) -> None:
    network = load_backbone(backbone, weights=weights)
    judged = json.loads(JUDGED.read_text())
    figures: dict[str, Any] = {}
    for folder in data:
        table = scan_source(open_source(folder)).table
        rows, copies, sample = cached_rows(cache, network, folder, table, photos)
        nothing = np.zeros((len(rows), 24, 24), np.uint8)  # thumbnails are measured by copies.py
        pairs = near_duplicates(rows, nothing, threshold=lowest, contents=table.content_hashes)
        false = [is_false(table, pair, judged.get(folder.name, {})) for pair in pairs.positions.tolist()]
        cosines = {name: copy_cosines(make, rows, sample, copies) for name, make in STATISTICS.items()}
        figures[folder.name] = {
            "images": len(table),
            "copied": len(sample),
            "statistics": {name: separation(make, rows, table, cosines[name]) for name, make in STATISTICS.items()},
            "thresholds": list(thresholds(cosines["whitened"], pairs, np.array(false, bool), len(table), lowest)),
            "false_pairs": listed(table, pairs, false),
        }
        print_figures(folder.name, figures[folder.name])
        if sheet:
            draw(folder, table, pairs, sheet.with_name(f"{sheet.stem}-{folder.name}.png"))
    pooled = list(over_all_data(list(figures.values())))
    lowest_good = lowest_precise(pooled)
    print(f"over all data, the lowest threshold from which on {PRECISION} of the pairs are right: {lowest_good}")
    result = {
        "backbone": backbone,
        "spec": json.loads(network.spec.to_json()),
        "machine": machine(),
        "versions": versions("onepass", "openvino", "pillow", "numpy"),
        "chosen": lowest_good,
        "all_data": pooled,
        "data": figures,
    }
    write_result(f"near-duplicates-{backbone}", result)


def lowest_precise(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The line of the lowest threshold from which on enough of the pairs called are right."""
    wrong = [i for i, line in enumerate(lines) if line["pairs_false"] > (1 - PRECISION) * line["pairs_called"]]
    return next(iter(lines[max(wrong, default=-1) + 1 :]), None)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def half(image: Image.Image) -> bytes:
    return jpeg(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS))


def cropped(image: Image.Image) -> bytes:
    """5 % off along both axes, half at each side."""
    x, y = round(image.width * 0.025), round(image.height * 0.025)
    return jpeg(image.crop((x, y, image.width - x, image.height - y)))


def lettered(image: Image.Image) -> bytes:
    image = image.copy()
    place = (image.width * 0.03, image.height * 0.93)
    ImageDraw.Draw(image).text(place, "(c) 2019 example.org", fill="white", font_size=max(8, image.height / 22))
    return jpeg(image)


def framed(image: Image.Image) -> bytes:
    return jpeg(ImageOps.expand(image, max(1, round(min(image.size) * 0.02)), "black"))


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 50": lambda image: jpeg(image, 50),
    "JPEG 30": lambda image: jpeg(image, 30),
    "half size": half,
    "crop 5 %": cropped,
    "brighter 10 %": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
    "darker 10 %": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.9)),
    "text": lettered,
    "border 2 %": framed,
    FLIP: lambda image: jpeg(ImageOps.mirror(image)),
}


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": unit,
    "centred": lambda rows: unit(rows - rows.mean(axis=0)),
    "whitened": whitened,
}


def cached_rows(
    cache: Path | None, network: Backbone, folder: Path, table: ImageTable, photos: int
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Rows of all images, (n, d); of `photos` of them as each kind of copy, (k, d); and which these are, (k,)."""
    order = sorted(range(len(table)), key=lambda i: table.content_hashes[i].tobytes())
    sample = np.array([i for i in order if table.content_hashes[i].any()][:photos])
    asked = f"{network.spec.to_json()}{list(KINDS)}{table.content_hashes.tobytes().hex()}{photos}"
    path = (cache or Path()) / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.npz"
    if cache and path.exists():
        stored = np.load(path)
        return stored["rows"], {kind: stored[kind] for kind in KINDS}, sample
    print(f"{folder.name}: rows of {len(table)} images and {len(KINDS)} copies of {len(sample)} of them", flush=True)
    rows = np.zeros((len(table), network.spec.width), np.float32)
    files = enumerate(folder / path for path in table.paths)
    for position, row in network.stream(files, on_skip=lambda _, reason: print(f"skipped: {reason}")):
        rows[position] = row[0]
    originals = [upright(folder / table.paths[i]) for i in sample]
    copies = {
        kind: network.rows(np.stack([network.pixels(make(image)) for image in originals]))
        for kind, make in KINDS.items()
    }
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, rows=rows, **copies)  # type: ignore[arg-type]
    return rows, copies, sample


def upright(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def copy_cosines(
    make: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, sample: np.ndarray, copies: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Cosine of each copied photo and its copy, by kind, with all copies of the kind among the data."""
    cosines = {}
    for kind, some in copies.items():
        directions = make(np.concatenate([rows, some]))
        cosines[kind] = (directions[sample] * directions[len(rows) :]).sum(axis=1)
    return cosines


def is_false(table: ImageTable, pair: list[int], judged: dict[str, list[list[str]]]) -> bool:
    """True if somebody saw different objects, or if the classes differ and nobody saw the same one."""
    names = sorted(table.paths[i] for i in pair)
    if names in judged.get("different", []):
        return True
    return bool(table.labels[pair[0]] != table.labels[pair[1]]) and names not in judged.get("same", [])


def separation(
    make: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, table: ImageTable, cosines: dict[str, np.ndarray]
) -> dict[str, Any]:
    """How far copies and different photos lie apart."""
    directions, contents = make(rows), table.content_hashes
    nearest, other_class = np.full(len(rows), -1.0), np.full(len(rows), -1.0)
    for i, direction in enumerate(directions):
        found = directions @ direction
        found[(contents == contents[i]).all(axis=1)] = -1
        nearest[i] = found.max()
        other_class[i] = found[table.labels != table.labels[i]].max()
    every = np.concatenate([values for kind, values in cosines.items() if kind != FLIP])
    return {
        "nearest_photo": {f"q{q}": round(float(np.quantile(nearest, q / 100)), 3) for q in (50, 99)},
        "nearest_of_another_class": round(float(other_class.max()), 3),
        "copies_above_it": round(float((every > other_class.max()).mean()), 4),
        "copies": {
            kind: {f"q{q}": round(float(np.quantile(values, q / 100)), 3) for q in (1, 5, 10, 50)}
            for kind, values in cosines.items()
        },
    }


def thresholds(
    cosines: dict[str, np.ndarray], pairs: Pairs, false: np.ndarray, images: int, lowest: float
) -> Iterator[dict[str, Any]]:
    """What each threshold keeps and calls."""
    for threshold in np.arange(lowest, 0.901, 0.01).round(2).tolist():
        kept = {kind: float((values >= threshold).mean()) for kind, values in cosines.items()}
        flip = kept.pop(FLIP)
        called = pairs.cosines >= threshold
        yield {
            "threshold": threshold,
            "kept": round(float(np.mean(list(kept.values()))), 4),
            "kept_of_worst_kind": round(min(kept.values()), 4),
            "worst_kind": min(kept, key=kept.__getitem__),
            "kept_flips": round(flip, 4),
            "pairs_called": int(called.sum()),
            "pairs_false": int((called & false).sum()),
            "images_falsely_called": round(len(np.unique(pairs.positions[called & false])) / images, 5),
        }


def over_all_data(figures: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same with all data sets together: shares of all images and of all copies."""
    images, copied = [f["images"] for f in figures], [f["copied"] for f in figures]
    for lines in zip(*(f["thresholds"] for f in figures), strict=True):
        yield {
            "threshold": lines[0]["threshold"],
            "kept": round(float(np.average([line["kept"] for line in lines], weights=copied)), 4),
            "kept_flips": round(float(np.average([line["kept_flips"] for line in lines], weights=copied)), 4),
            "pairs_called": sum(line["pairs_called"] for line in lines),
            "pairs_false": sum(line["pairs_false"] for line in lines),
            "images_falsely_called": round(
                float(np.average([line["images_falsely_called"] for line in lines], weights=images)), 5
            ),
        }


def listed(table: ImageTable, pairs: Pairs, false: list[bool]) -> list[dict[str, Any]]:
    return [
        {"paths": [table.paths[i] for i in pair], "cosine": round(float(cosine), 3)}
        for pair, cosine, wrong in zip(pairs.positions, pairs.cosines, false, strict=True)
        if wrong
    ]


def draw(folder: Path, table: ImageTable, pairs: Pairs, path: Path, *, side: int = 130, columns: int = 6) -> None:
    """The pairs side by side, the least alike first, for somebody to look at."""
    lines = -(-len(pairs.positions) // columns)
    canvas = Image.new("RGB", (columns * (2 * side + 10), max(1, lines) * (side + 16)), "white")
    for number, (pair, cosine) in enumerate(zip(pairs.positions[::-1], pairs.cosines[::-1], strict=True)):
        x, y = number % columns * (2 * side + 10), number // columns * (side + 16)
        for place, i in enumerate(pair):
            canvas.paste(upright(folder / table.paths[i]).resize((side, side)), (x + place * side, y))
        names = " ".join(Path(table.paths[i]).name for i in pair)
        ImageDraw.Draw(canvas).text((x, y + side + 1), f"{cosine:.3f} {names}", fill="black", font_size=11)
    canvas.save(path)
    print(f"{len(pairs.positions)} pairs drawn to {path}")


def print_figures(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: {figures['images']} images, copies of {figures['copied']}")
    for statistic, found in figures["statistics"].items():
        print(
            f"  {statistic:<9} nearest of another class {found['nearest_of_another_class']:.3f}, "
            f"copies above it {found['copies_above_it']:.3f}"
        )
    for line in figures["thresholds"][::5]:
        print(
            f"  from {line['threshold']:.2f}: keeps {line['kept']:.3f}, {line['worst_kind']} "
            f"{line['kept_of_worst_kind']:.3f}, flips {line['kept_flips']:.3f}; calls {line['pairs_called']} pairs of "
            f"photos, {line['pairs_false']} falsely, {1000 * line['images_falsely_called']:.1f} of 1,000 images"
        )


if __name__ == "__main__":
    typer.run(main)
