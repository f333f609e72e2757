"""SIGKILL at seeded moments: the same command again gives what an uninterrupted run gives, with nothing left over.

`make torture` kills each command a hundred times: ONEPASS_TORTURE=100.
"""

import csv
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nursery import Ended, Kill, Nursery, nursery
from onepass.features import FeatureFile
from onepass.features.integrity import check_file
from onepass.heads.export.certificate import Certificate, hashes_of
from onepass.heads.saved_head import load_head
from support import write_folder

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("ONEPASS_TORTURE", "4"))
CLASSES = ("cats", "dogs")


@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("nursery")) as found:
        yield found


@pytest.fixture(scope="module")
def ready(born: Nursery, tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    """A folder with photos, backbone, feature file and head, as a user has it."""
    folder = tmp_path_factory.mktemp("ready")
    write_folder(folder / "photos", dict.fromkeys(CLASSES, 16))
    shutil.copy(tiny_file, folder / "tiny.keras")
    lines = [f"{name}/{i}.png,{'even' if i % 2 else 'odd'}" for name in CLASSES for i in range(16)]
    (folder / "labels.csv").write_text("\n".join(["file,kind", *lines]))
    for command in ("extract photos --backbone tiny.keras", "train-head photos.tiny.h5 --head ridge --out r.head"):
        done = born.run(command, cwd=folder)
        assert done.code == 0, done.output
    return folder


def everything(folder: Path) -> set[str]:
    """All files and folders, the hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@dataclass
class Killer:
    """Draws when to kill, from what an uninterrupted run takes."""

    whole: Ended
    generator: random.Random

    def draw(self) -> Kill:
        if self.generator.random() < 0.3:
            return Kill(seconds=self.generator.uniform(0, self.whole.seconds))
        return Kill(change=self.generator.randint(1, self.whole.changes))


def campaign(
    born: Nursery, ready: Path, tmp_path: Path, command: str, observed: Callable[[Path], Any], *, times: int = TIMES
) -> None:
    """Kills a command at many moments, once or several times in a row, and compares what the next run gives."""
    whole = Path(shutil.copytree(ready, tmp_path / "whole"))
    done = born.run(command, cwd=whole)
    assert done.code == 0, done.output
    assert done.changes
    expected, files = observed(whole), everything(whole)
    killer, kills = Killer(done, random.Random(command)), 0
    while kills < times:
        work = Path(shutil.copytree(ready, tmp_path / "again"))  # a path of the same length, which is part of a head
        while True:
            kills += born.run(command, cwd=work, kill=killer.draw()).code == -9
            if kills and killer.generator.random() < 0.6:
                break
        again = born.run(command, cwd=work)
        # Killed between its last rename and its end, it had done everything.
        complete = again.code == 2 and "exists and is not overwritten" in again.output
        assert again.code == 0 or complete, again.output
        same(observed(work), expected)
        assert everything(work) == files
        shutil.rmtree(work)


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected


def test_train_head(born: Nursery, ready: Path, tmp_path: Path):
    def head(work: Path) -> Any:
        found = load_head(work / "new.head")
        network = found.network.arrays()
        return [sorted(network), [network[name] for name in sorted(network)], found.class_names, str(found.evaluation)]

    campaign(born, ready, tmp_path, "train-head photos.tiny.h5 --out new.head", head)


def test_compare_heads(born: Nursery, ready: Path, tmp_path: Path):
    def table(work: Path) -> Any:
        with open(work / "c.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        measured = ("fit_seconds", "predict_microseconds")
        saved = load_head(work / "b.head").network.arrays()
        return [
            [[{name: row[name] for name in row if name not in measured} for row in rows]],
            [saved[name] for name in sorted(saved)],
        ]

    # With the cheapest given, because which head is cheapest is measured.
    command = "compare-heads photos.tiny.h5 --heads ridge --cv 4x3 --csv c.csv --save-best --out b.head"
    campaign(born, ready, tmp_path, command, table)


def test_report(born: Nursery, ready: Path, tmp_path: Path):
    def page(work: Path) -> bytes:
        return (work / "r.html").read_bytes()

    campaign(born, ready, tmp_path, "onepass report photos.tiny.h5 --out r.html", page)


def test_choose(born: Nursery, ready: Path, tmp_path: Path):
    """In folders of its own: names of kept results depend on where the photos lie."""
    command = "onepass choose photos --try tiny.keras,other.keras --head ridge"

    def tried(work: Path) -> Any:
        found = {}
        for path in sorted((work / "photos.trials").glob("*.h5")):
            with FeatureFile(path) as file:
                order = np.argsort([row.tobytes() for row in file.table.content_hashes])
                found[path.name] = file.read(order)[0]
        others = {name for name in everything(work) if ".cells/" not in name}
        return [sorted(found), list(found.values()), sorted(others)]

    whole = Path(shutil.copytree(ready, tmp_path / "whole"))
    shutil.copy(ready / "tiny.keras", whole / "other.keras")
    fresh = Path(shutil.copytree(whole, tmp_path / "fresh"))
    done = born.run(command, cwd=whole)
    assert done.code == 0, done.output
    killer, kills = Killer(done, random.Random(command)), 0
    while kills < TIMES:
        work = Path(shutil.copytree(fresh, tmp_path / "again"))
        kills += born.run(command, cwd=work, kill=killer.draw()).code == -9
        again = born.run(command, cwd=work)
        assert again.code == 0, again.output
        assert "could not be tried" not in again.output
        same(tried(work), tried(whole))
        shutil.rmtree(work)


def test_label(born: Nursery, ready: Path, tmp_path: Path):
    def labels(work: Path) -> Any:
        with FeatureFile(work / "photos.tiny.h5") as file:
            table = [file.table.paths, file.table.label_values(), file.table.splits.tolist(), file.copies.tolist()]
            return [table, np.array(file.rows)]

    campaign(born, ready, tmp_path, "onepass label photos.tiny.h5 labels.csv --path file --label kind", labels)


def test_predict_to_a_file(born: Nursery, ready: Path, tmp_path: Path):
    for kind in ("csv", "json", "jsonl"):
        (tmp_path / kind).mkdir()
        command = f"onepass predict r.head photos --out p.{kind}"
        campaign(
            born,
            ready,
            tmp_path / kind,
            command,
            lambda work, kind=kind: (work / f"p.{kind}").read_text(),
            times=-(-TIMES // 3),
        )


def test_explain(born: Nursery, ready: Path, tmp_path: Path):
    def pictures(work: Path) -> Any:
        return [(path.name, path.read_bytes()) for path in sorted((work / "why").iterdir())]

    campaign(born, ready, tmp_path, "onepass explain r.head photos --out why", pictures, times=-(-TIMES // 3))


def test_show(born: Nursery, ready: Path, tmp_path: Path):
    command = "onepass show photos --image-size 32 --count 6 --out s.png"
    campaign(born, ready, tmp_path, command, lambda work: (work / "s.png").read_bytes(), times=-(-TIMES // 3))


def test_share(born: Nursery, ready: Path, tmp_path: Path):
    def shared(work: Path) -> Any:
        return [(work / "s" / name).read_text() for name in ("metadata.tsv", "projector_config.pbtxt", "tensors.tsv")]

    command = "onepass share r.head --to projector --out s"
    campaign(born, ready, tmp_path, command, shared, times=-(-TIMES // 3))


@pytest.mark.parametrize("to", ["keras", "savedmodel", "openvino"])
def test_export(to: str, born: Nursery, ready: Path, tmp_path: Path):
    name = {"keras": "m.keras", "savedmodel": "m", "openvino": "m.xml"}[to]

    def model(work: Path) -> Any:
        certificate = Certificate.read(work / f"{name}.certificate.json")
        assert hashes_of(work / name) == certificate.files
        assert (work / f"{name}.md").read_text().endswith("\n")
        return [certificate.labels, certificate.flips, certificate.accuracy, np.array(certificate.expected)]

    command = f"onepass export r.head --to {to} --out {name}"
    campaign(born, ready, tmp_path, command, model, times=-(-TIMES // 3))


def test_fine_tune(born: Nursery, ready: Path, tmp_path: Path):
    def model(work: Path) -> Any:
        import zipfile

        with zipfile.ZipFile(work / "t.keras") as archive:
            archive.extract("model.weights.h5", work.parent)
        weights: list[np.ndarray] = []
        with h5py.File(work.parent / "model.weights.h5") as file:
            file.visititems(lambda _, one: weights.append(one[()]) if isinstance(one, h5py.Dataset) else None)
        with open(work / "t.history.csv", newline="") as file:
            epochs = [[float(row["val_loss"]), float(row["val_accuracy"])] for row in csv.DictReader(file)]
        return [weights, np.array(epochs)]

    command = "fine-tune r.head --unfreeze 3 --epochs 3 --lr 1e-3 --patience 9 --keep always --out t.keras"
    campaign(born, ready, tmp_path, command, model)


def test_extract_while_the_folder_changes(born: Nursery, ready: Path, tmp_path: Path):
    """Between the kills images are added, removed, renamed, relabelled and edited."""
    work, command = tmp_path / "work", "extract photos --backbone tiny.keras --batch-size 3 --out f.h5"
    pool = write_folder(tmp_path / "pool" / "photos", dict.fromkeys(CLASSES, 40), seed=9).parent
    shutil.copy(ready / "tiny.keras", pool)
    whole = born.run(command, cwd=pool)
    assert whole.code == 0, whole.output
    rows = rows_of(pool / "f.h5", pool / "photos")[1]
    images = sorted((pool / "photos").glob("*/*.png"))
    killer, kills = Killer(whole, random.Random(3)), 0
    work.mkdir()
    shutil.copy(ready / "tiny.keras", work)
    for name in CLASSES:
        (work / "photos" / name).mkdir(parents=True)
    for _ in range(30):
        change(work / "photos", images, killer.generator, ("add",))
    while kills < TIMES:
        for _ in range(killer.generator.randrange(6)):
            change(work / "photos", images, killer.generator)
        kills += born.run(command, cwd=work, kill=killer.draw()).code == -9
        if killer.generator.random() < 0.5:
            continue
        again = born.run(command, cwd=work)
        assert again.code == 0, again.output
        assert check_file(work / "f.h5").damage == []
        labels, found = rows_of(work / "f.h5", work / "photos")
        there = sorted((work / "photos").glob("*/*.png"))
        assert labels == {str(path.relative_to(work / "photos")): path.parent.name for path in there}
        for content, row in found.items():
            np.testing.assert_array_equal(row, rows[content])
        assert {path.read_bytes() for path in there} == found.keys()
        assert [path.name for path in sorted(work.iterdir())] == ["f.h5", "photos", "tiny.keras"]
        if killer.generator.random() < 0.3:
            (work / "f.h5").unlink()


def rows_of(file: Path, photos: Path) -> tuple[dict[str, str], dict[bytes, np.ndarray]]:
    """Path -> class, and content of the image -> row."""
    with FeatureFile(file) as found:
        assert found.committed.all()
        table = found.table
        labels = {path: table.class_names[label] for path, label in zip(table.paths, table.labels, strict=True)}
        return labels, {(photos / path).read_bytes(): np.array(found.rows[i, 0]) for i, path in enumerate(table.paths)}


def change(photos: Path, images: list[Path], generator: random.Random, kinds: tuple[str, ...] = ()) -> None:
    """Adds, removes, renames, relabels or edits an image; a class keeps a dozen at least."""
    there = sorted(photos.glob("*/*.png"))
    kind = generator.choice(kinds or ("add", "remove", "rename", "relabel", "edit"))
    new = photos / generator.choice(CLASSES) / f"{generator.random()}.png"
    if kind == "add":
        shutil.copy(generator.choice(images), new)
        return
    old = generator.choice(there)
    if kind == "edit":
        shutil.copy(generator.choice(images), old)
    elif kind == "rename":
        old.rename(old.with_name(new.name))
    elif len(list(old.parent.iterdir())) > 12:
        old.rename(new) if kind == "relabel" else old.unlink()
