"""The same images give the same rows, labels, splits and skipped files whichever way they come."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from nursery import Kill, Nursery, nursery
from onepass import label, repair, verify
from onepass.extract import Backbone
from onepass.extract.one_pass.run import run_extraction
from onepass.features import SPLITS, FeatureFile
from support import flip_bit, picture, run_program
from ways import WAYS, Laid, bucket_servers, lay_out, require

pytestmark = pytest.mark.filterwarnings("ignore:.* is compressed, so it is unpacked once a run")

LAYOUTS = {"drawn": [""], "parts": ["train/", "val/"]}
"""Where class folders lie: the test part is drawn, or folders say the parts."""


@pytest.fixture(autouse=True, scope="module")
def _servers() -> Iterator[None]:
    with bucket_servers():
        yield


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return request.param


def write_photos(folder: Path, layout: str, *, name: str = "{}", count: int = 9) -> Path:
    """Class folders of two classes with photos; five of the files are no images that can be read."""
    rng = np.random.default_rng(0)
    for part in LAYOUTS[layout]:
        for hue, kind in enumerate(("cats", "dogs")):
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                picture(rng, hue=hue).save(folder / part / kind / f"{name.format(number)}.png")
    picture(rng).save(folder / "whole.jpg")
    whole, first = (folder / "whole.jpg").read_bytes(), folder / LAYOUTS[layout][0]
    (folder / "whole.jpg").unlink()
    png = (first / "cats" / f"{name.format(0)}.png").read_bytes()
    bad = {"cats/empty.png": b"", "cats/cut.png": png[: len(png) // 2], "dogs/cut.jpg": whole[: len(whole) // 3]}
    for place, data in {**bad, "dogs/text.jpg": b"a text", "dogs/noise.tif": rng.bytes(500)}.items():
        kind, _, last = place.partition("/")
        stem, _, ending = last.partition(".")
        (first / kind / f"{name.format(stem)}.{ending}").write_bytes(data)
    return folder


def held(path: Path) -> dict[bytes, tuple]:
    """Content -> what a file holds of it: class, split, row, and why it has none."""
    with FeatureFile(path) as file:
        reasons = {image.path: image.reason for image in file.skipped}
        table, committed = file.table, file.committed
        return {
            content.tobytes(): (
                table.class_names[table.labels[i]],
                SPLITS[table.splits[i]],
                file.rows[i].tobytes() if committed[i] else None,
                reasons.get(table.paths[i]),
            )
            for i, content in enumerate(table.content_hashes)
        }


def extracted(laid: Laid, backbone: Backbone, out: Path):
    return run_extraction(list(laid.data), backbone, out=out, batch_size=4, **laid.options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_labels_splits_and_reasons_are_those_of_the_folder(
    way: str, layout: str, tmp_path: Path, tiny_backbone: Backbone
):
    photos = write_photos(tmp_path / "photos", layout)
    wanted = run_extraction(photos, tiny_backbone, out=tmp_path / "wanted.h5")
    laid = lay_out(way, photos, tmp_path)

    done = extracted(laid, tiny_backbone, tmp_path / "f.h5")

    assert held(done.path) == held(wanted.path)
    assert len(done.skipped) == 5
    assert (done.classes, done.images, done.computed) == (wanted.classes, wanted.images, wanted.computed)
    with FeatureFile(done.path) as file, FeatureFile(wanted.path) as reference:
        assert way in ("shards", "hf") or file.table.paths == reference.table.paths
        assert file.provenance["drawn_split"] == (layout == "drawn")


def test_again_and_under_other_names_nothing_is_computed(way: str, tmp_path: Path, tiny_backbone: Backbone):
    first = write_photos(tmp_path / "photos", "parts")
    laid = lay_out(way, first, tmp_path)
    done = extracted(laid, tiny_backbone, tmp_path / "f.h5")
    before = held(done.path), done.path.read_bytes()

    assert extracted(laid, tiny_backbone, tmp_path / "f.h5").computed == 0
    assert done.path.read_bytes() == before[1]

    shutil.rmtree(first)
    renamed = write_photos(tmp_path / "photos", "parts", name="IMG {}")
    again = extracted(lay_out(way, renamed, tmp_path), tiny_backbone, tmp_path / "f.h5")
    assert again.computed == 0
    assert held(done.path) == before[0]
    assert len(again.skipped) == 5


def test_an_interrupted_run_goes_on_where_it_was(way: str, tmp_path: Path, tiny_backbone: Backbone):
    laid = lay_out(way, write_photos(tmp_path / "photos", "drawn", count=20), tmp_path)
    whole = extracted(laid, tiny_backbone, tmp_path / "whole.h5")

    def stop(done: int, wanted: int) -> None:
        if done >= wanted // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_extraction(
            list(laid.data), tiny_backbone, out=tmp_path / "f.h5", batch_size=4, progress=stop, **laid.options
        )
    again = extracted(laid, tiny_backbone, tmp_path / "f.h5")
    assert 0 < again.computed < whole.computed
    assert equal_files(tmp_path / "f.h5", whole.path)


def equal_files(one: Path, other: Path) -> bool:
    """Whether all that two feature files hold is the same, but for when it was computed."""
    with h5py.File(one) as first, h5py.File(other) as second:
        assert set(first) == set(second)
        return all(np.array_equal(first[name][()], second[name][()]) for name in first)


def test_damaged_rows_and_entries_are_repaired_from_it(
    way: str, tmp_path: Path, tiny_backbone: Backbone, tiny_file: Path
):
    laid = lay_out(way, write_photos(tmp_path / "photos", "parts"), tmp_path)
    path = extracted(laid, tiny_backbone, tmp_path / "f.h5").path
    before = held(path)
    with FeatureFile(path) as file:
        rows, entry = file.stored("rows")[:1].nbytes, file.stored("labels")[:1].nbytes
        names = [name for name, image in zip(file.paths, file.committed, strict=True) if image]
        wanted = [f"{name},{'odd' if i % 2 else 'even'}" for i, name in enumerate(names)]
    flip_bit(path, "rows", byte=3 * rows)
    flip_bit(path, "labels", byte=5 * entry)
    assert verify(path, golden=False).verdict == "damaged"

    done = repair(path, weights=str(tiny_file))

    assert (done.computed, done.dropped, done.left) == (1, 0, ())
    assert verify(path, weights=str(tiny_file)).verdict == "whole"
    assert held(path) == before
    (tmp_path / "labels.csv").write_text("\n".join(["name,kind", *wanted]))
    found = label(path, tmp_path / "labels.csv", path="name", label="kind")
    assert (found.unknown, found.unlabelled) == ((), 5)
    assert {kind for kind, _, _, reason in held(path).values() if not reason} == {"even", "odd"}


@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("nursery")) as found:
        yield found


@pytest.mark.slow
def test_a_killed_command_run_again_gives_what_one_gives_that_was_not(
    way: str, tmp_path: Path, tiny_file: Path, born: Nursery
):
    if way == "memory":
        pytest.skip("what lies in the memory of one process is not there for another")
    shutil.copy(tiny_file, tmp_path / "tiny.keras")
    laid = lay_out(way, write_photos(tmp_path / "photos", "parts", count=20), tmp_path)
    command = " ".join(["extract", *laid.data, *laid.flags, "--backbone", "tiny.keras", "--batch-size", "4"])
    whole = born.run(f"{command} --out whole.h5", cwd=tmp_path)
    assert whole.code == 0, whole.output
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "f.h5").unlink(missing_ok=True)
        assert born.run(f"{command} --out f.h5", cwd=tmp_path, kill=Kill(change=int(whole.changes * share))).code == -9
        again = born.run(f"{command} --out f.h5", cwd=tmp_path)
        assert again.code == 0, again.output
        assert equal_files(tmp_path / "f.h5", tmp_path / "whole.h5")


def typed(*command: str, cwd: Path) -> str:
    done = run_program(*command, cwd=cwd)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def told(answers: str) -> list[tuple[str, float]]:
    """Class and probability of each image of a list of predictions, whatever the images are called."""
    found = [answer["top"][0] for answer in json.loads(answers)["predictions"]]
    return sorted((one["class"], round(one["probability"], 5)) for one in found)


@pytest.mark.slow
def test_every_command_that_reads_images_reads_them_there(way: str, tmp_path: Path, tiny_file: Path):
    shutil.copy(tiny_file, tmp_path / "tiny.keras")
    photos = write_photos(tmp_path / "photos", "parts", count=16)
    laid = lay_out(way, photos, tmp_path)
    extract = ("--backbone", "tiny.keras", "--precision", "float32", "--out", "f.h5")
    typed("extract", *laid.data, *laid.flags, *extract, cwd=tmp_path)
    typed("train-head", "f.h5", "--head", "ridge", "--out", "f.head", cwd=tmp_path)
    of_rows = json.loads(typed("onepass", "evaluate", "f.head", "f.h5", "--json", cwd=tmp_path))
    target = laid.data[0] if len(laid.data) == 1 else f"val-{{000..{len(laid.data) // 2 - 1:03d}}}.tar"
    for flags in ([], laid.flags):
        of_images = json.loads(typed("onepass", "evaluate", "f.head", target, *flags, "--json", cwd=tmp_path))
        assert of_images["n"] == of_rows["n"] == 32
        assert of_images["confusion"] == of_rows["confusion"]
    naming = [part for name in ("images", "path") if name in laid.options for part in (f"--{name}", laid.options[name])]
    answers = typed("onepass", "predict", "f.head", *laid.data, *naming, "--json", cwd=tmp_path)
    assert told(answers) == told(typed("onepass", "predict", "f.head", "photos", "--json", cwd=tmp_path))
    assert len(json.loads(answers)["skipped"]) >= 5
    found = json.loads(typed("onepass", "inspect", "f.h5", "--json", cwd=tmp_path))
    assert len(found["unreadable"]) == 5
    tune = ("--unfreeze", "2", "--epochs", "1", "--batch-size", "8", "--keep", "always", "--out", "t.keras")
    typed("fine-tune", "f.head", *tune, cwd=tmp_path)
    typed("onepass", "export", "f.head", "--to", "keras", "--out", "e.keras", cwd=tmp_path)
    where = [part for one in laid.data for part in ("--data", laid.options.get("images", one))]
    assert "it does what was certified" in typed("onepass", "verify", "e.keras", *where, cwd=tmp_path)
