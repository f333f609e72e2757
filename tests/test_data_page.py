"""docs/data.md: every example runs, in its order, and prints what it shows."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from packing import pack_shards
from stand_in_gcs import GoogleStandIn
from support import run_program, write_folder
from ways import NEEDED, WAYS, bucket_servers

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", TEXT, re.MULTILINE)


def test_every_example_prints_what_it_shows(tmp_path: Path, tiny_file: Path):
    for package in ("pyarrow", *NEEDED["s3"], *NEEDED["gs"]):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with bucket_servers() as google:
        run_page(tmp_path, tiny_file, google)


def run_page(tmp_path: Path, tiny_file: Path, google: GoogleStandIn) -> None:
    import boto3
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos = write_folder(tmp_path / "photos", {"cats": 6, "dogs": 6})
    (tmp_path / "tiny.keras").write_bytes(tiny_file.read_bytes())
    names = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.png"))
    numbers = [int(name[5]) for name in names]
    owners = ["anna" if i < 3 else "berta" for i in numbers]
    parts = ["train" if i < 3 else "test" for i in numbers]
    rows = [(n[:-4], n[:4], owner, part) for n, owner, part in zip(names, owners, parts, strict=True)]
    tags = [("indoors;young" if i < 2 else "indoors" if i < 3 else "") for i in numbers]
    for name, header, lines in (
        ("breeds.csv", ("id", "breed", "owner", "part"), rows),
        ("tags.csv", ("file", "tags"), zip(names, tags, strict=True)),
        ("ages.csv", ("file", "age"), [(n, i + 0.5) for n, i in zip(names, numbers, strict=True)]),
        ("fixes.csv", ("kind", "path", "class"), [("label", "cats/3.png", "dogs"), ("outlier", "dogs/1.png", "dogs")]),
    ):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])
    boxes = [(name, category, [4 * category, 3, 20, 15]) for name in names[::2] for category in (0, 1)]
    coco = {
        "images": [{"id": name, "file_name": name} for name in names],
        "categories": [{"id": 0, "name": "animal"}, {"id": 1, "name": "ball"}],
        "annotations": [{"image_id": name, "category_id": category, "bbox": box} for name, category, box in boxes],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    for kind in ("zip", "gztar"):
        shutil.make_archive(str(tmp_path / "photos"), kind, tmp_path, "photos")
    pack_shards(photos, tmp_path)
    for name in names:
        boto3.client("s3").upload_file(str(photos / name), "bucket", f"photos/{name}")
        google.objects[f"bucket/photos/{name}"] = (photos / name).read_bytes()
    cells = [{"bytes": (photos / name).read_bytes(), "path": name} for name in names]
    pq.write_table(pa.table({"image": cells, "breed": [name[:4] for name in names]}), tmp_path / "photos.parquet")

    assert len(COMMANDS) > 6
    for command, shown in COMMANDS:
        if command == "head -n 3 breeds.csv":
            assert (tmp_path / "breeds.csv").read_text().startswith(shown)
            continue
        done = run_program(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(shown), (command, done.stdout)


def test_what_the_page_says_of_nine_ways_stands_in_the_results():
    results = Path(__file__).parents[1] / "benchmarks" / "results" / "sources.json"
    ways = json.loads(results.read_text())["ways"]
    assert sorted(ways) == sorted(set(WAYS) - {"memory"})
    assert len(ways) == 9
    for found in ways.values():
        assert found["entries_as_the_folder"] == found["entries"] == 403
        assert (found["skipped"], found["computed_after_renaming"]) == (5, 0)
        assert found["killed_equals_whole"]
        assert found["as_the_folder_after_renaming"]
