"""Runs every row of the table in docs/recipes.md once to its end, in one folder, on a few photos.

    python benchmarks/recipe_rows.py DATA --weights resnet50=FILE --weights mobilenet_0.25=FILE --images 40

The commands are those of the page; what is added to them to keep this short (image size, weights, fewer epochs of
fine-tuning) stands in the result. A network without a weights file gets random weights, and the result says so: its
figures tell that the recipe runs, and nothing of the network. Writes benchmarks/results/recipes-<data>.json, from which
the page has its last column: python benchmarks/recipe_rows.py --fill benchmarks/results/recipes-<data>.json
"""

import contextlib
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from common import versions, write_result

from onepass.extract.backbones.catalogue import find_entry
from onepass.extract.frameworks import plain_keras
from onepass.extract.machine import machine

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
PROGRAMS = "extract|train-head|compare-heads|fine-tune|onepass|python"
ROW = re.compile(rf"^\| (.+?) \| `((?:{PROGRAMS}) .+?)` \| (.+?) \|$", re.MULTILINE)


def main(
    data: Annotated[Path | None, typer.Argument(help="Folder with train and validation below.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="network=file, may be given again.")] = None,
    images: Annotated[int, typer.Option(help="Most of a class in train; a third of it in validation.")] = 40,
    image_size: int = 96,
    epochs: Annotated[int, typer.Option(help="Of a stage of fine-tuning whose command has no --epochs.")] = 1,
    work: Annotated[Path | None, typer.Option(help="Folder to work in, and to go on in after an interruption.")] = None,
    fill: Annotated[Path | None, typer.Option(help="Only put these results into the page.")] = None,
) -> None:
    if fill:
        fill_page(json.loads(fill.read_text())["rows"])
        return
    assert data, "DATA is missing"
    files = {name: str(Path(file).resolve()) for name, file in (entry.split("=", 1) for entry in weights or [])}
    with tempfile.TemporaryDirectory() if work is None else contextlib.nullcontext(work) as name:
        folder = Path(name)
        count, so_far = few_images(data, folder / "photos", images), folder / "rows.json"
        rows = json.loads(so_far.read_text()) if so_far.exists() else []
        for recipe, command, _ in ROW.findall(PAGE.read_text())[len(rows) :]:
            rows.append(run(folder, recipe, command, files, image_size, epochs))
            so_far.write_text(json.dumps(rows))
            print(rows[-1]["came_to"], "|", command, flush=True)
        made = sorted(path.name for path in folder.iterdir() if path.is_file() and path != so_far)
    result = {
        "data": data.name,
        "images": count,
        "image_size": image_size,
        "epochs_of_fine_tuning": epochs,
        "machine": machine(),
        "versions": versions("onepass", "keras", "tensorflow", "openvino"),
        "rows": rows,
        "files": made,
    }
    write_result(f"recipes-{data.name}", result)


def few_images(data: Path, target: Path, most: int) -> dict[str, int]:
    """Links the first photos of each class; how many lie in each part."""
    counts = {}
    for part, share in (("train", most), ("validation", most // 3)):
        for source in sorted(path for path in (data / part).iterdir() if path.is_dir()):
            place = target / part / source.name
            place.mkdir(parents=True, exist_ok=True)
            for image in sorted(source.iterdir())[:share]:
                (place / image.name).unlink(missing_ok=True)
                (place / image.name).symlink_to(image.resolve())
        counts[part] = sum(1 for path in (target / part).rglob("*") if path.is_file() or path.is_symlink())
    return counts


def run(folder: Path, recipe: str, command: str, files: dict[str, str], image_size: int, epochs: int) -> dict[str, Any]:
    """One row: the command as it stands in the page, what was added, seconds, and what it came to."""
    words, of_weights = shlex.split(command), ""
    if words[0] == "extract":
        network = words[words.index("--backbone") + 1]
        of_weights = "pretrained" if network in files else "random"
        words += ["--image-size", str(image_size), "--weights", files.get(network) or random_weights(network, folder)]
    if words[0] == "fine-tune":
        words = [re.sub(r"x\d+(?=,|$)", f"x{epochs}", word) if ":1e-" in word else word for word in words]
        if not {"--stages", "--epochs"} & set(words):
            words += ["--epochs", str(epochs)]
    if words[0] not in ("python", "onepass"):
        words.append("--json")
    began = time.perf_counter()
    program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).parent / words[0])]
    done = subprocess.run([*program, *words[1:]], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    seconds = round(time.perf_counter() - began, 1)
    found = json.loads(done.stdout) if "--json" in words else {}
    return {
        "recipe": recipe,
        "command": command,
        "as_run": shlex.join(Path(word).name if word.startswith("/") else word for word in words),
        "seconds": seconds,
        "came_to": " ".join(came_to(words[0], found, done.stdout, of_weights).split()),
    }


def came_to(program: str, found: dict[str, Any], printed: str, of_weights: str) -> str:
    """What stands in the page."""
    if program == "extract":
        return f"{found['computed_rows']} rows, {of_weights} weights"
    if program == "train-head":
        return f"{found['split']} {scored(found['accuracy'], found['interval'])}"
    if program == "compare-heads":
        heads = sorted(found["heads"], key=lambda head: -head["score"])
        return ", ".join(f"{head['name'].partition('/')[0]} {head['score']:.3f}" for head in heads)
    if program == "fine-tune":
        before, after = (scored(*found[when]) for when in ("before", "after"))
        return f"{found['measured_on']} {before} before, {after} after"
    return "loaded" if program == "python" else printed.strip().splitlines()[-1]


def scored(accuracy: float, interval: list[float]) -> str:
    return f"{accuracy:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def random_weights(network: str, folder: Path) -> str:
    """A file of random weights, always the same for the same versions."""
    path = folder / f"{network}.weights.h5"
    if not path.exists():
        entry = find_entry(network)
        with plain_keras() as keras:
            keras.utils.set_random_seed(0)
            make = getattr(keras.applications, entry.factory)
            make(include_top=False, weights=None, input_shape=(224, 224, 3)).save_weights(path)
    return str(path)


def fill_page(rows: list[dict[str, Any]]) -> None:
    """Puts what each command came to into the last column."""
    told = {row["command"]: row["came_to"] for row in rows}
    PAGE.write_text(ROW.sub(lambda row: f"| {row[1]} | `{row[2]}` | {told[row[2]]} |", PAGE.read_text()))


if __name__ == "__main__":
    typer.run(main)
