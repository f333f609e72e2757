"""How time and memory grow with the number of images, and how soon unchanged images are recognised.

    python benchmarks/scaling.py [--counts 1000,10000,100000] [--backbone NAME] [--image-size 32]
    python benchmarks/scaling.py --data PHOTOS --backbone resnet50 --weights FILE --counts 1000

Without --data the images are synthetic, all different, 32 x 32 pixels, so that what is measured is the
pass and the file, not the network. Each pass is a process of its own, start-up included; its peak memory
is what the kernel reports. Writes benchmarks/results/scaling-<backbone>.json.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import versions, write_result
from PIL import Image

from onepass.extract.data.source import scan_source
from onepass.extract.data.sources import open_source
from onepass.extract.machine import machine
from onepass.extract.pixels.image_bytes import read_bytes


def main(
    counts: Annotated[str, typer.Option(help="Numbers of images.")] = "1000,10000,100000",
    backbone: str = "efficientnet_lite0",
    weights: str = "imagenet",
    image_size: int = 32,
    data: Annotated[Path | None, typer.Option(help="Real photos, repeated with small changes if too few.")] = None,
) -> None:
    passes = []
    for count in map(int, counts.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder / "images", count, data)
            size = [] if data else ["--image-size", str(image_size)]
            command = ["images", "--backbone", backbone, "--weights", str(Path(weights).resolve()), *size]
            if weights == "imagenet":
                command = ["images", "--backbone", backbone, *size]
            first, again = measured(command, folder), measured(command, folder)
            assert (first["computed"], again["computed"], again["reused"]) == (count, 0, count)
            rows = next(folder.glob("*.h5")).stat().st_size
        passes.append({"images": count, "file_bytes": rows, "first": first, "unchanged": again})
        print(
            f"{count} images: {first['seconds']:.1f} s ({1e3 * first['pass_seconds'] / count:.2f} ms each), "
            f"{first['peak_bytes'] / 1e9:.2f} GB; unchanged: {again['seconds']:.2f} s",
            flush=True,
        )
    result = {
        "backbone": backbone,
        "image_size": None if data else image_size,
        "data": data.name if data else "synthetic",
        "machine": machine(),
        "versions": versions("onepass", "openvino", "pillow", "h5py", "numpy"),
        "passes": passes,
    }
    write_result(f"scaling-{backbone}" + (f"-{data.name}" if data else ""), result)


def measured(command: list[str], folder: Path) -> dict[str, Any]:
    """One `extract` as a process: seconds and peak memory of all of it, and what it says of itself."""
    extract = str(Path(sys.executable).parent / "extract")
    started = time.perf_counter()
    with open(folder / "said.json", "w") as said:
        process = subprocess.Popen([extract, *command, "--json"], cwd=folder, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"extract ended with {process.returncode}")
    record = json.loads((folder / "said.json").read_text())
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(seconds, 2),
        "pass_seconds": record["seconds"],
        "peak_bytes": usage.ru_maxrss * scale,
        "computed": record["computed"],
        "reused": record["reused"],
    }


def write_images(folder: Path, count: int, data: Path | None) -> None:
    """`count` different images in ten classes: noise, or photos of which a comment makes each one unique."""
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
    if data is None:
        rng = np.random.default_rng(0)
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{i % 10}" / f"{i}.png", compress_level=1)
        return
    scan = scan_source(open_source(data))
    photos = itertools.cycle(file for _, file in scan.images())
    for i in range(count):
        file = next(photos)
        # What follows the end of a JPEG or PNG is no part of the picture.
        (folder / f"class{i % 10}" / f"{i}{Path(str(file)).suffix}").write_bytes(read_bytes(file) + str(i).encode())


if __name__ == "__main__":
    typer.run(main)
