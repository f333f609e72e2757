"""How long `explain` takes for 100 photos, with and without pictures, beside `predict` on the same photos.

    python benchmarks/explaining.py HEAD... PHOTOS --rounds 3

The heads' backbones are converted already; everything runs in one process, so that imports do not count. The
medians of the rounds are kept, in seconds, and the largest distance between a score and what heat and intercept add up
to, beside the head's own score of the row. Writes benchmarks/results/explaining.json.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result

from onepass import explain, load_head, predict
from onepass.extract.data.watch import find_images
from onepass.extract.machine import machine


def main(
    paths: Annotated[list[Path], typer.Argument(help="Head files, then a folder of photos.")],
    images: Annotated[int, typer.Option(help="Photos to explain.")] = 100,
    rounds: Annotated[int, typer.Option(help="Of each measurement, in turn.")] = 3,
) -> None:
    *heads, photos = paths
    files = list(find_images([photos]))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, images).astype(int)]
    result = {
        "photos": photos.name,
        "images": len(chosen),
        "rounds": rounds,
        "machine": machine(),
        "versions": versions("onepass", "openvino", "numpy", "pillow"),
        "heads": [measured(head, chosen, rounds) for head in heads],
    }
    write_result("explaining", result)
    print(json.dumps(result["heads"], indent=1))


def measured(head: Path, files: list[Path], rounds: int) -> dict[str, Any]:
    """Seconds of each way, and how exact the sums are."""
    saved = load_head(head)
    found = explain(head, files)  # which also makes everything warm
    scores = saved.network.scores(saved.backbone.rows_of([Path(one.path) for one in found]))
    own = [scores[i, saved.class_names.index(one.class_name)] for i, one in enumerate(found)]
    seconds: dict[str, list[float]] = {"predict": [], "explain": [], "explain_with_pictures": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            seconds["predict"].append(timed(lambda: predict(head, files)))
            seconds["explain"].append(timed(lambda: explain(head, files)))
            out = f"{place}/x"
            seconds["explain_with_pictures"].append(timed(lambda: explain(head, files, out=out)))  # noqa: B023 (called at once)
    return {
        "backbone": saved.spec.backbone,
        "precision": saved.spec.precision,
        "head": saved.kind,
        "method": found.method,
        "passes": found.passes,
        **{name: round(statistics.median(some), 2) for name, some in seconds.items()},
        "largest_distance": float(np.abs(np.array(own) - [one.logit for one in found]).max()),
        "all_seconds": {name: [round(one, 2) for one in some] for name, some in seconds.items()},
    }


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
