"""Whether views help where images are few: heads trained on 1, 4 and 8 views of the same images.

    python benchmarks/views.py DATA --backbone mobilenetv2 --weights FILE --cache FOLDER

The test images are fixed; per seed 20 training images of each class are drawn from a pool. Every figure is
the paired difference, seed by seed, to the same head on the plain images of the same draw, with a 95 % t
interval over the seeds. It speaks of the draw of training images, not of the draw of test images. Rows are
kept in FOLDER. Prints a table and writes benchmarks/results/views-<backbone>-<data>.json.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from PIL import Image, ImageOps
from scipy.stats import t

from onepass.extract import Backbone, load_backbone
from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.machine import machine
from onepass.extract.pixels.views import Augmentation, view_pixels
from onepass.heads.training import make_head

RECIPES = ("classic", "flip,crop=0.7")
HEADS = ("logreg", "svm", "mlp")
TRAIN_VIEWS, TEST_VIEWS = (1, 4, 8), 4


def main(
    data: Annotated[Path, typer.Argument(help="Class folders.")],
    cache: Annotated[Path, typer.Option(help="Folder for rows, so that a second run computes none.")],
    backbone: str = "mobilenetv2",
    weights: str = "imagenet",
    per_class: int = 20,
    pool: Annotated[int, typer.Option(help="Images of each class that the draws come from.")] = 60,
    test: Annotated[int, typer.Option(help="Test images of each class, at most.")] = 60,
    seeds: int = 5,
) -> None:
    network = load_backbone(backbone, weights=weights)
    parts = chosen_images(data, pool, test)
    labels = {part: np.array([label for _, label in files]) for part, files in parts.items()}
    accuracies: dict[tuple[str, str, int, int], list[float]] = {}
    for recipe in RECIPES:
        views = {"train": max(TRAIN_VIEWS), "test": TEST_VIEWS}
        rows = {
            part: cached_rows(cache, network, [path for path, _ in files], recipe, views[part])
            for part, files in parts.items()
        }
        for seed in range(seeds):
            drawn = draw(labels["train"], per_class, seed)
            for kind, train in ((kind, train) for kind in HEADS for train in TRAIN_VIEWS):
                head = make_head(kind, seed=seed).fit(rows["train"][drawn, :train], labels["train"][drawn])
                for predict in (1, TEST_VIEWS):
                    hits = head.predict(rows["test"][:, :predict]) == labels["test"]
                    accuracies.setdefault((recipe, kind, train, predict), []).append(float(hits.mean()))
            print(f"{recipe}, seed {seed} done", flush=True)
    figures = list(compared(accuracies))
    result = {
        "backbone": backbone,
        "data": data.name,
        "classes": int(labels["train"].max()) + 1,
        "images_per_class": per_class,
        "pool": len(labels["train"]),
        "test_images": len(labels["test"]),
        "seeds": seeds,
        "machine": machine(),
        "versions": versions("onepass", "keras", "openvino", "pillow", "scikit-learn"),
        "figures": figures,
    }
    write_result(f"views-{backbone}-{data.name}", result)
    for f in figures:
        low, high = f["interval"]
        print(
            f"{f['recipe']:<14} {f['head']:<7} {f['train_views']} trained, {f['predict_views']} averaged: "
            f"{f['accuracy']:.3f}  {f['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        )


def chosen_images(data: Path, pool: int, test: int) -> dict[str, list[tuple[Path, int]]]:
    """Files with labels, in the order of their content hashes, which is as good as random and never changes."""
    table = scan_source(open_source(data)).table
    held_out = 2 if (table.splits == 2).any() else 1
    parts: dict[str, list[tuple[Path, int]]] = {}
    for part, split, most in (("train", 0, pool), ("test", held_out, test)):
        parts[part] = []
        for label in range(len(table.class_names)):
            members = np.flatnonzero((table.splits == split) & (table.labels == label) & table.content_hashes.any(1))
            ordered = sorted(members.tolist(), key=lambda i: table.content_hashes[i].tobytes())
            parts[part] += [(data / table.paths[i], label) for i in ordered[:most]]
    return parts


def draw(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Positions of `per_class` images of each class."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([generator.choice(m, min(per_class, len(m)), replace=False) for m in members])


def cached_rows(cache: Path, backbone: Backbone, files: list[Path], recipe: str, views: int) -> np.ndarray:
    """(n, views, d) float32 rows, the plain view first, computed once."""
    names = "\n".join(f"{file.parent.name}/{file.name}" for file in files)
    asked = f"{backbone.spec.to_json()}{recipe}{views}{names}"
    path = cache / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.npy"
    if path.exists():
        return np.asarray(np.load(path))
    augmentation = Augmentation.parse(recipe)
    print(f"{recipe}: {len(files)} images x {views} views", flush=True)
    rows = np.stack([backbone.rows(np.stack(list(pixels(file, augmentation, views)))) for file in files])
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, rows)
    return rows


def pixels(file: Path, augmentation: Augmentation, views: int) -> Iterator[np.ndarray]:
    """Views 0 to `views` - 1 of an image file, 224 px."""
    content = hashlib.sha256(file.read_bytes()).digest()
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    yield np.asarray(squash(image, 224))
    for view in range(1, views):
        yield view_pixels(
            image, augmentation=augmentation, content=content, view=view, image_size=224, to_square=squash
        )


def squash(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def compared(accuracies: dict[tuple[str, str, int, int], list[float]]) -> Iterator[dict[str, Any]]:
    """Each setting against the same head on plain images alone."""
    for (recipe, kind, train, predict), found in accuracies.items():
        difference = np.array(found) - accuracies[recipe, kind, 1, 1]
        half = t.ppf(0.975, len(found) - 1) * difference.std(ddof=1) / np.sqrt(len(found))
        mean = float(difference.mean())
        yield {
            "recipe": recipe,
            "head": kind,
            "train_views": train,
            "predict_views": predict,
            "accuracy": round(float(np.mean(found)), 4),
            "difference": round(mean, 4),
            "interval": [round(mean - half, 4), round(mean + half, 4)],
            "accuracies": [round(value, 4) for value in found],
        }


if __name__ == "__main__":
    typer.run(main)
