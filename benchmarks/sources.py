"""The same photos in every way that they may come, by the commands that a user types: what differs is a fault.

    python benchmarks/sources.py PHOTOS [WAY ...] [--backbone efficientnet_lite0]

PHOTOS holds class folders, also below train and val. Five files that cannot be read are put among a copy of them, and
the copy is laid out as a folder, a CSV, a Parquet file with the bytes, a zip, a tar.gz, shards of WebDataset, a folder
of Parquet files as Hugging Face has them, and in buckets of S3 and Google Cloud Storage, whose servers are stood in for
on this machine (moto, tests/stand_in_gcs.py).

Of each: `extract`; again, killed by SIGKILL once half of the rows are there, and continued; again after all files have
got other names; then `verify`, a flipped bit and `repair`, `label`, `train-head`, `evaluate` and `predict` on the
source, `inspect`, `fine-tune`, `export`, and `verify` of the exported model by the images of the source.

Writes benchmarks/results/sources.json; ways that are not asked for stay there.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import typer
from common import RESULTS, versions, write_result

from onepass.extract import machine
from onepass.features import SPLITS, FeatureFile
from onepass.features.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "tests"))
WAYS: Any = importlib.import_module("ways")
SUPPORT: Any = importlib.import_module("support")


def main(
    photos: Path,
    chosen: Annotated[list[str] | None, typer.Argument(help="By default all but memory.", metavar="WAY")] = None,
    backbone: str = "efficientnet_lite0",
    quick: Annotated[
        bool, typer.Option("--quick", help="Neither fine-tune nor export, which take most of it.")
    ] = False,
) -> None:
    place = RESULTS / "sources.json"
    result: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
    with tempfile.TemporaryDirectory() as temporary, WAYS.bucket_servers():
        work = Path(temporary)
        plain = _with_bad_files(photos, work / "photos")
        renamed = _renamed(plain, work / "renamed" / "photos")
        wanted: dict[bytes, tuple[Any, ...]] = {}
        found: dict[str, Any] = {}
        for way in ["folder", *(one for one in chosen or WAYS.WAYS if one not in ("folder", "memory"))]:
            folder = work / way
            for name in ("first", "second"):
                (folder / name).mkdir(parents=True)
            first, second = (
                WAYS.lay_out(way, *pair) for pair in ((plain, folder / "first"), (renamed, folder / "second"))
            )
            try:
                found[way] = _Way(way, folder, backbone, wanted, quick).measured(first, second)
            except (SystemExit, KeyError, TypeError) as error:
                found[way] = {"failed": str(error)}
            print(way, json.dumps(found[way]), flush=True)
            facts = {
                "photos": photos.name,
                "backbone": backbone,
                "machine": machine(),
                "versions": versions("onepass", "openvino", "keras", "s3fs", "gcsfs", "moto", "pyarrow"),
            }
            known = result.get("ways", {})
            write_result(
                "sources", {**facts, "ways": {**known, **{one: known.get(one, {}) | found[one] for one in found}}}
            )


def _with_bad_files(photos: Path, to: Path) -> Path:
    shutil.copytree(photos, to)
    some = sorted(path for path in to.rglob("*.jpg"))
    kind, data = some[0].parent, some[0].read_bytes()
    bad = {"empty.jpg": b"", "cut.jpg": data[: len(data) // 2], "text.jpg": b"a text", "noise.png": os.urandom(5000)}
    for name, content in {**bad, "start.tif": b"II*\0"}.items():
        (kind / name).write_bytes(content)
    return to


def _renamed(photos: Path, to: Path) -> Path:
    shutil.copytree(photos, to)
    for path in sorted(path for path in to.rglob("*") if path.is_file()):
        path.rename(path.with_name(f"IMG {path.name}"))
    return to


class _Way:
    """The commands of one way, run in a folder of its own.

    Args:
        way: Its name.
        folder: Where its files go.
        backbone: As `extract` takes it.
        wanted: What the feature file of the folder holds; filled by the first way.
        quick: Neither fine-tune nor export.
    """

    def __init__(
        self, way: str, folder: Path, backbone: str, wanted: dict[bytes, tuple[Any, ...]], quick: bool
    ) -> None:
        self.way, self.folder, self.wanted, self.quick = way, folder, wanted, quick
        self.pass_options = ("--backbone", backbone, "--precision", "float32", "--batch-size", "16")
        self.seconds: dict[str, float] = {}

    def run(self, *command: str) -> str:
        """Standard output of a command that must end well."""
        began = time.perf_counter()
        done = subprocess.run(
            [SUPPORT.installed(command[0]), *command[1:]], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{self.way}: {' '.join(command)} ended with {done.returncode}\n{done.stderr}")
        name = command[1] if command[0] == "onepass" else command[0]
        self.seconds.setdefault(name, round(time.perf_counter() - began, 1))
        return done.stdout

    def extract(self, laid: Any, out: str) -> dict[str, Any]:
        asked = ("extract", *laid.data, *laid.flags, *self.pass_options, "--out", out, "--json")
        return dict(json.loads(self.run(*asked)))

    def measured(self, first: Any, second: Any) -> dict[str, Any]:
        done = self.extract(first, "f.h5")
        held = _held(self.folder / "f.h5")
        self.wanted.update({} if self.wanted else held)
        found: dict[str, Any] = {
            "images": done["images"],
            "classes": done["classes"],
            "skipped": done["skipped"],
            "entries_as_the_folder": sum(held.get(content) == entry for content, entry in self.wanted.items()),
            "entries": len(held),
            **self._killed(first),
        }
        found["computed_after_renaming"] = self.extract(second, "killed.h5")["computed"]
        found["as_the_folder_after_renaming"] = _held(self.folder / "killed.h5") == self.wanted
        found["verify"] = json.loads(self.run("onepass", "verify", "f.h5", "--json"))["verdict"]
        for column, byte in (("rows", 1000), ("labels", 40)):
            SUPPORT.flip_bit(self.folder / "f.h5", column, byte=byte)
        repaired = json.loads(self.run("onepass", "repair", "f.h5", "--json"))
        found["repaired"] = [repaired["damage"], repaired["computed"], _held(self.folder / "f.h5") == self.wanted]
        return {**found, **self._used(first), "seconds": self.seconds}

    def _killed(self, laid: Any) -> dict[str, Any]:
        """A run that is killed once half of the rows are there, and the same command again."""
        asked = ["extract", *laid.data, *laid.flags, *self.pass_options, "--out", "killed.h5"]
        asked[0] = SUPPORT.installed("extract")
        with subprocess.Popen(asked, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and _committed(self.folder / "killed.h5") < len(self.wanted) // 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        before = _committed(self.folder / "killed.h5")
        again = self.extract(laid, "killed.h5")
        same = _same_datasets(self.folder / "killed.h5", self.folder / "f.h5")
        return {"rows_when_killed": before, "computed_after_kill": again["computed"], "killed_equals_whole": same}

    def _used(self, laid: Any) -> dict[str, Any]:
        self.run("train-head", "f.h5", "--head", "logreg", "--out", "f.head")
        evaluated = json.loads(self.run("onepass", "evaluate", "f.head", "f.h5", "--json"))
        found: dict[str, Any] = {"accuracy_of_rows": _score(evaluated), "accuracy_of_images": []}
        for target in laid.data if self.way != "shards" else _val_shards(laid.data):
            scored = json.loads(self.run("onepass", "evaluate", "f.head", target, "--json"))
            found["accuracy_of_images"].append(_score(scored))
        naming = [
            part for name in ("images", "path") if name in laid.options for part in (f"--{name}", laid.options[name])
        ]
        predicted = json.loads(self.run("onepass", "predict", "f.head", *laid.data, *naming, "--json"))
        found["predicted"] = len(predicted["predictions"])
        found["mean_probability"] = round(float(np.mean([one["probability"] for one in predicted["predictions"]])), 6)
        inspected = json.loads(self.run("onepass", "inspect", "f.h5", "--json"))
        found["unreadable"], found["label_errors"] = len(inspected["unreadable"]), len(inspected["label_errors"] or [])
        if not self.quick:
            found |= self._models(laid)
        with FeatureFile(self.folder / "f.h5") as file:
            rows = [f"{path},{'odd' if i % 2 else 'even'}" for i, path in enumerate(file.paths)]
        (self.folder / "labels.csv").write_text("\n".join(["name,kind", *rows]), errors="surrogateescape")
        named = ("labels.csv", "--path", "name", "--label", "kind", "--json")
        found["labelled"] = json.loads(self.run("onepass", "label", "f.h5", *named))["images"]
        return found

    def _models(self, laid: Any) -> dict[str, Any]:
        """A fine-tuned and an exported model, made and proven by the images of the source."""
        found: dict[str, Any] = {}
        tune = ("--unfreeze", "2", "--epochs", "1", "--keep", "never", "--out", "t.keras", "--json")
        tuned = json.loads(self.run("fine-tune", "f.head", *tune))
        found["fine_tuned_on"] = tuned.get("n") or tuned.get("measured_on")
        self.run("onepass", "export", "f.head", "--to", "onnx", "--out", "e.onnx")
        where = [part for one in laid.data for part in ("--data", laid.options.get("images", one))]
        proven = json.loads(self.run("onepass", "verify", "e.onnx", *where, "--json"))
        return found | {"export": [proven["verdict"], proven["images"], proven["flips"]]}


def _val_shards(shards: Sequence[str]) -> list[str]:
    """The shards of the val part as one range."""
    some = [Path(shard) for shard in shards if Path(shard).name.startswith("val")]
    return [str(some[0].with_name(f"val-{{000..{len(some) - 1:03d}}}.tar"))]


def _score(scored: dict[str, Any]) -> list[Any]:
    return [scored["n"], round(scored["accuracy"], 4), scored["measured_on"]]


def _held(path: Path) -> dict[bytes, tuple[Any, ...]]:
    """Content -> class, split, row and reason of every entry of a feature file."""
    with FeatureFile(path) as file:
        table, committed = file.table, file.committed
        reasons = {image.path: image.reason for image in file.skipped}
        return {
            content.tobytes(): (
                table.class_names[table.labels[i]],
                SPLITS[table.splits[i]],
                file.rows[i].tobytes() if committed[i] else None,
                reasons.get(table.paths[i]),
            )
            for i, content in enumerate(table.content_hashes)
        }


def _committed(path: Path) -> int:
    try:
        with FeatureFile(path) as file:
            return int(file.committed.sum())
    except (UserError, OSError):
        return 0


def _same_datasets(one: Path, other: Path) -> bool:
    with h5py.File(one) as first, h5py.File(other) as second:
        return set(first) == set(second) and all(np.array_equal(first[name][()], second[name][()]) for name in first)


if __name__ == "__main__":
    typer.run(main)
