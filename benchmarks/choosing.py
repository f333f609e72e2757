"""Does the backbone that a sample chooses hold when all images are compared?

    python benchmarks/choosing.py DATA... --candidates efficientnet_lite0,resnet50=resnet50.weights.h5

`choose_backbone` tries the candidates on 600 images; then every candidate is extracted whole, and the same head is
compared on all images outside the test part (5 folds x 2) and scored on the test part, which the choice never saw.
"lost" is what the choice costs: the best candidate's accuracy less that of the one taken. Then other samples of the
same size are drawn from the whole files, to see how often the choice is the same and what it loses. Writes
benchmarks/results/choosing-<data>.json.
"""

import json
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass import choose_backbone, compare_heads, run_extraction
from onepass.extract.machine import machine
from onepass.features import SPLITS, FeatureFile
from onepass.features.sampling import stratified_sample
from onepass.features.writer import RowWriter, write_feature_file
from onepass.heads.compare.choice import BackboneChoice, cheapest

CV = "5x2"


def main(
    data: Annotated[list[Path], typer.Argument(help="Image folders.")],
    candidates: Annotated[str, typer.Option(help="As for onepass choose --try.")],
    sample: Annotated[int, typer.Option(help="Images tried.")] = 600,
    precision: Annotated[str, typer.Option(help="Of the backbones.")] = "auto",
    draws: Annotated[int, typer.Option(help="Other samples.")] = 5,
) -> None:
    for folder in data:
        place = folder.resolve()
        with tempfile.TemporaryDirectory() as work, chdir(work):
            started = time.perf_counter()
            found = choose_backbone(place, candidates, sample=sample, precision=precision)
            seconds = time.perf_counter() - started
            files = {one.name: extracted(place, one.name, found, precision) for one in found.tried}
            whole, test = (scores(files, cv=cv) for cv in (CV, None))
            seconds_for_all = {one.name: one.seconds for one in found.tried}
            result = {
                "data": place.name,
                "machine": machine(),
                "versions": versions("onepass", "openvino", "keras", "numpy", "scikit-learn"),
                "precision": precision,
                "seconds": round(seconds, 1),
                "answer": found.answer(),
                "failed": found.failed,
                "backbones": [
                    {
                        "name": one.name,
                        "sample": round(one.score, 4),
                        "sample_interval": [round(end, 4) for end in one.interval],
                        "tied_on_sample": one.tied,
                        "all": round(whole["scores"][one.name], 4),
                        "tied_on_all": one.name in whole["ties"],
                        "test": round(test["scores"][one.name], 4),
                        "images_per_second": round(one.images_per_second, 1),
                        "memory_mb": round(one.memory / 1e6),
                    }
                    for one in found.tried
                ],
                "sample_size": found.comparison.images,
                "images": found.images,
                "taken": found.taken.name,
                "best_on_all": whole["best"],
                "taken_on_all": taken(whole, seconds_for_all),
                "lost_on_all": lost(whole["scores"], found.taken.name),
                "lost_on_test": lost(test["scores"], found.taken.name),
                "other_samples": [
                    drawn(files, sample, seed, seconds_for_all, whole["scores"]) for seed in range(1, draws + 1)
                ],
            }
        write_result(f"choosing-{place.name}", result)
        print(json.dumps(result, indent=1))


def extracted(data: Path, name: str, found: BackboneChoice, precision: str) -> Path:
    """The feature file of all images, from the rows of the sample on."""
    (one,) = (one for one in found.tried if one.name == name)
    done = run_extraction(data, name, weights=one.weights, precision=precision, base=[one.features])
    return done.path


def scores(files: dict[str, Path], *, cv: str | None) -> dict[str, Any]:
    """Accuracy of the head on each backbone, the best, and those that cannot be told apart from it."""
    found = compare_heads(list(files.values()), heads="logreg", cv=cv)
    names = {score.name: name for score in found.scores for name, path in files.items() if score.features == str(path)}
    return {
        "scores": {names[score.name]: score.score for score in found.scores},
        "best": names[found.test.best],
        "ties": [names[name] for name in found.test.ties],
    }


def taken(found: dict[str, Any], seconds: dict[str, float]) -> str:
    """What `choose_backbone` would take."""
    return cheapest([(name, found["scores"][name], seconds[name]) for name in found["ties"]])


def lost(accuracies: dict[str, float], taken: str) -> float:
    return round(max(accuracies.values()) - accuracies[taken], 4)


def drawn(
    files: dict[str, Path], size: int, seed: int, seconds: dict[str, float], accuracies: dict[str, float]
) -> dict[str, Any]:
    """What another sample would take, and what that loses on all images."""
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: part(path, Path(folder), size, seed) for name, path in files.items()}
        found = scores(parts, cv=CV)
    name = taken(found, seconds)
    return {"taken": name, "ties": found["ties"], "lost_on_all": lost(accuracies, name)}


def part(path: Path, folder: Path, size: int, seed: int) -> Path:
    """The feature file of a sample of the images outside the test part."""
    with FeatureFile(path) as file:
        table = file.table
        usable = np.flatnonzero((table.splits != SPLITS.index("test")) & file.committed)
        kept = np.zeros(len(table), bool)
        kept[usable[stratified_sample(table.content_hashes[usable], table.labels[usable], size, seed=seed)]] = True
        out = folder / path.name
        write_feature_file(out, file.spec, table.part(kept), {}, file.golden_rows)
        with RowWriter(out) as writer:
            writer.copy_rows(file)
            writer.copy_thumbnails(file)
    return out


if __name__ == "__main__":
    typer.run(main)
