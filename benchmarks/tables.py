"""How long a table of a million rows takes, and how much memory, until the pass could begin.

    python benchmarks/tables.py [--rows 1000000]

Names, labels and groups are synthetic, and so are the contents: the store lists the names and has no bytes. Measured
are reading the table, finding each name, and drawing the split, in a process of its own, without reading images.
Writes benchmarks/results/tables.json.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from common import versions, write_result

from onepass.extract.data.columns import SourceOptions
from onepass.extract.data.splits import draw_splits
from onepass.extract.data.stores import Stamp
from onepass.extract.data.table_source import table_source
from onepass.extract.machine import machine


@dataclass(frozen=True)
class Listed:
    """A store of synthetic names."""

    count: int
    origin: str = "nowhere"

    def names(self) -> Iterator[str]:
        return (name_of(i) for i in range(self.count))

    def file(self, name: str) -> Path:
        return Path(name)

    def stamp(self, name: str) -> Stamp:
        return Stamp(len(name), 0)


def name_of(i: int) -> str:
    return f"part{i % 100:02d}/image {i:07d}.jpg"


def write_table(path: Path, rows: int) -> None:
    with open(path, "w") as file:
        file.write("file,breed,patient,age\n")
        file.writelines(f"{name_of(i)},class{i % 120},p{i // 3},{i % 97}\n" for i in range(rows))


def measure(path: Path, rows: int) -> dict[str, float]:
    """Seconds and the highest memory of this process."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter()
    options = SourceOptions(path="file", label="breed", group="patient")
    source = table_source(path, options, lambda _: Listed(rows))
    read = time.perf_counter() - started
    contents = np.random.default_rng(0).integers(0, 256, (rows, 32), np.uint8)
    started = time.perf_counter()
    draw_splits(source.table.strata(), contents, source.table.groups, known=None, seed=0)
    drawn = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"read_seconds": read, "split_seconds": drawn, "peak_bytes": peak, "before_bytes": before}


def main(rows: int = 1_000_000, of: Path | None = None) -> None:
    if of:
        print(json.dumps(measure(of, rows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path, rows)
        command = [sys.executable, __file__, "--rows", str(rows), "--of", str(path)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result = {"machine": machine(), "versions": versions("onepass", "numpy"), "rows": rows, **found}
    print(json.dumps(result, indent=1))
    write_result("tables", result)


if __name__ == "__main__":
    typer.run(main)
