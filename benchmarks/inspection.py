"""What `inspect` finds of errors that were planted: wrong labels, and copies of training photos in the test part.

    python benchmarks/inspection.py DATA --backbone resnet50 --weights FILE --cache FOLDER

Per seed, 5 % of the photos are put into a wrong class folder, and re-encoded, resized, cropped ... copies of
training photos, five of each kind, into the test part; the folder is extracted (rows of photos that are
not new are reused) and inspected. Real data hold real errors, so what is found beside the planted is only called
false if nobody saw that it is not: near_duplicates_judged.json names pairs that show different objects, and
inspection_judged.json photos whose label is wrong. Prints tables and writes
benchmarks/results/inspection-<backbone>-<data>.json.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from near_duplicates import FLIP, JUDGED, KINDS, is_false, upright

from onepass.extract import Backbone, load_backbone, run_extraction
from onepass.extract.machine import machine
from onepass.features import SPLITS, FeatureFile, ImageTable
from onepass.heads.audit.inspect import inspect
from onepass.heads.audit.report import Inspection

WRONG = Path(__file__).parent / "inspection_judged.json"
COPIES_PER_KIND = 5


def main(
    data: Annotated[Path, typer.Argument(help="Class folders.")],
    cache: Annotated[Path, typer.Option(help="Folder for the feature file of DATA.")],
    backbone: str = "efficientnet_lite0",
    weights: str = "imagenet",
    flips: Annotated[float, typer.Option(help="Share of labels made wrong.")] = 0.05,
    seeds: int = 3,
) -> None:
    network = load_backbone(backbone, weights=weights)
    base = cache / f"{data.name}.{backbone}.h5"
    run_extraction(data, network, out=base)
    judged = json.loads(JUDGED.read_text()).get(data.name, {})
    wrong = set(json.loads(WRONG.read_text()).get(data.name, []))
    untouched = inspect(base)
    print(untouched)
    rounds = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(planted_round(data, base, network, Path(folder), judged, wrong, flips=flips, seed=seed))
        print(json.dumps({name: value for name, value in rounds[-1].items() if name != "other_labels"}), flush=True)
    others = sorted({path for found in rounds for path in found["other_labels"]})
    result = {
        "backbone": backbone,
        "data": data.name,
        "flips": flips,
        "machine": machine(),
        "versions": versions("onepass", "scikit-learn", "openvino", "pillow"),
        "untouched": summary(untouched, wrong),
        "mean": mean_of(rounds),
        "rounds": rounds,
        "not_planted_and_not_judged_wrong": [path for path in others if path not in wrong],
    }
    write_result(f"inspection-{backbone}-{data.name}", result)
    print(json.dumps(result["mean"], indent=1))


def planted_round(
    data: Path,
    base: Path,
    network: Backbone,
    folder: Path,
    judged: dict[str, list[list[str]]],
    wrong: set[str],
    *,
    flips: float,
    seed: int,
) -> dict[str, Any]:
    """Plants errors into a copy of the data and says what was found of them."""
    with FeatureFile(base) as file:
        table = file.table
        usable = np.flatnonzero(file.committed)
    generator = np.random.default_rng(seed)
    flipped = generator.choice(usable, round(flips * len(usable)), replace=False)
    labels = table.labels.copy()
    labels[flipped] += generator.integers(1, len(table.class_names), len(flipped)).astype(np.int32)
    labels %= len(table.class_names)
    sources = np.setdiff1d(usable[table.splits[usable] == SPLITS.index("train")], flipped)
    kinds = [kind for kind in KINDS if kind != FLIP]
    copied = generator.choice(sources, COPIES_PER_KIND * len(kinds), replace=False)
    copies = dict(zip(copied.tolist(), kinds * COPIES_PER_KIND, strict=True))
    origin = plant(data, table, labels, folder / "data", copies)
    run_extraction(folder / "data", network, out=folder / "planted.h5", base=[base])
    found = inspect(folder / "planted.h5")
    near = score_duplicates(found, origin, table, judged, len(copied))
    return {
        "seed": seed,
        "near_duplicates": near,
        "leaked": score_leaks(folder / "planted.h5", len(copied)),
        **score_labels(found, origin, table, set(flipped.tolist()), wrong),
        "outliers": len(found.outliers),
    }


def plant(data: Path, table: ImageTable, labels: np.ndarray, folder: Path, copies: dict[int, str]) -> dict[str, int]:
    """Links every photo under its label, writes copies of some into the test part; path -> position of the photo."""
    origin: dict[str, int] = {}
    for position, path in enumerate(table.paths):
        place = Path(SPLITS[table.splits[position]]) / table.class_names[labels[position]]
        link = folder / place / f"{position}{Path(path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((data / path).resolve())
        origin[link.relative_to(folder).as_posix()] = position
        if position in copies:
            copy = folder / "test" / table.class_names[labels[position]] / f"{position}-copy.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(KINDS[copies[position]](upright(data / path)))
            origin[copy.relative_to(folder).as_posix()] = position
    return origin


def score_duplicates(
    found: Inspection, origin: dict[str, int], table: ImageTable, judged: dict[str, list[list[str]]], planted: int
) -> dict[str, Any]:
    pairs = [(origin[pair.image.path], origin[pair.other.path]) for pair in found.near_duplicates]
    false = [a != b and is_false(table, [a, b], judged) for a, b in pairs]
    return {
        "recall": round(len({a for a, b in pairs if a == b}) / planted, 4),
        "precision": round(1 - sum(false) / max(len(pairs), 1), 4),
        "planted": planted,
        "found": len(pairs),
        "not_planted": sum(a != b for a, b in pairs),
        "false": sum(false),
    }


def score_leaks(path: Path, planted: int) -> dict[str, Any]:
    """What `FeatureFile.leaked` says of all that is not in the train part."""
    with FeatureFile(path) as file:
        trained = file.rows_of("train")
        scored = np.setdiff1d(np.flatnonzero(file.committed), trained)
        called = file.leaked(scored, trained)
        copies = np.array([file.table.paths[i].endswith("-copy.jpg") for i in scored])
    return {
        "recall": round(float((called & copies).sum() / planted), 4),
        "photos_called": int((called & ~copies).sum()),
        "photos": int((~copies).sum()),
    }


def score_labels(
    found: Inspection, origin: dict[str, int], table: ImageTable, flipped: set[int], wrong: set[str]
) -> dict[str, Any]:
    errors = {origin[error.image.path]: error.suggested for error in found.label_errors or []}
    hits = flipped & set(errors)
    others = sorted(table.paths[i] for i in set(errors) - flipped)
    real = [path for path in others if path in wrong]
    return {
        "labels": {
            "recall": round(len(hits) / len(flipped), 4),
            "precision": round((len(hits) + len(real)) / max(len(errors), 1), 4),
            "precision_if_all_others_were_right": round(len(hits) / max(len(errors), 1), 4),
            "planted": len(flipped),
            "found": len(errors),
            "really_wrong": len(real),
            "right_class_suggested": round(
                float(np.mean([errors[i] == table.class_names[table.labels[i]] for i in hits])), 4
            ),
        },
        "other_labels": others,
    }


def summary(found: Inspection, wrong: set[str]) -> dict[str, Any]:
    """What was found in the data as they are."""
    errors = [error.image.path for error in found.label_errors or []]
    return {
        "images": sum(sum(counts.values()) for counts in found.counts.values()),
        "near_duplicates": len(found.near_duplicates),
        "labels": len(errors),
        "labels_judged_wrong": sum(path in wrong for path in errors),
        "label_errors": [
            {"path": e.image.path, "suggested": e.suggested, "judged_wrong": e.image.path in wrong}
            for e in found.label_errors or []
        ],
        "outliers": [o.image.path for o in found.outliers],
    }


def mean_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of everything that is a number."""
    first = rounds[0]
    mean: dict[str, Any] = {}
    for name, value in first.items():
        if isinstance(value, dict):
            mean[name] = mean_of([found[name] for found in rounds])
        elif isinstance(value, (int, float)) and name != "seed":
            mean[name] = round(float(np.mean([found[name] for found in rounds])), 4)
    return mean


if __name__ == "__main__":
    typer.run(main)
