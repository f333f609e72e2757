import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.extract import Backbone, repair, verify
from onepass.extract.one_pass.run import run_extraction
from onepass.extract.upkeep.repair import DROPPED
from onepass.features import FeatureFile
from onepass.features.errors import DataError, FeatureFileError
from onepass.features.writer import RowWriter
from support import MakeFolder, flip_bit, run_program


@pytest.fixture
def made(make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path) -> Path:
    """A feature file of 9 photos x 2 views, one of them no image."""
    data = make_folder({"cats": 5, "dogs": 4})
    (data / "cats" / "bad.jpg").write_text("text")
    return run_extraction(data, tiny_backbone, out=tmp_path / "f.h5", views=2).path


def everything(path: Path) -> dict[str, bytes]:
    with FeatureFile(path) as file:
        names = ("paths", "labels", "splits", "class_names", "committed", "checksums", "skip_reasons", "content_hashes")
        return {name: file.stored(name).tobytes() for name in names} | {"rows": file.rows[file.committed].tobytes()}


def test_a_whole_file_is_verified_and_left_alone(made: Path):
    before = made.read_bytes()
    found = verify(made)
    assert (found.verdict, found.not_checked) == ("whole", "")
    assert found.drift is not None
    assert found.drift.cosine == pytest.approx(1)
    assert str(repair(made)) == f"{made}: nothing to repair"
    assert made.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "byte"),
    [
        ("rows", 3 * 2 * 32 + 40),
        ("checksums", 9),
        ("committed", 4),
        ("labels", 8),
        ("splits", 2),
        ("groups", 3),
        ("paths", 30),
        ("content_hashes", 70),
        ("class_names", 1),
        ("entry_checksums", 5),
        ("skip_reasons", 5 * 120 + 3),
        ("skip_reasons", 2 * 120),
    ],
)
def test_repair_brings_every_kind_of_damage_back(made: Path, name: str, byte: int):
    before = everything(made)
    flip_bit(made, name, byte=byte)
    assert verify(made).verdict == "damaged"

    done = repair(made)

    assert done.damage == 1
    assert done.computed <= 1
    assert verify(made).verdict == "whole"
    assert everything(made) == before


def test_missing_rows_are_computed_and_only_they(made: Path):
    before = everything(made)
    with FeatureFile(made) as file:
        offset = file.extents["committed"].offset
    with open(made, "r+b") as raw:
        raw.seek(offset + 4)
        raw.write(b"\0\0\0")
    assert verify(made).verdict == "incomplete"
    done = repair(made)
    assert (done.missing, done.computed) == (2, 2)
    assert everything(made) == before


def test_images_that_moved_are_named_by_data(made: Path, tmp_path: Path):
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    flip_bit(made, "rows", byte=40)
    message = r"f.h5 are not in .*photos any more. Say where with data. Or drop what is damaged.$"
    with pytest.raises(DataError, match=message):
        repair(made)
    assert repair(made, data=tmp_path / "elsewhere").computed == 1
    assert verify(made).verdict == "whole"


def test_an_image_that_is_gone_keeps_what_it_has_and_is_listed(made: Path, tmp_path: Path):
    flip_bit(made, "rows", byte=40)
    flip_bit(made, "rows", byte=2 * 2 * 32 + 40)
    (tmp_path / "photos" / "cats" / "0.png").unlink()
    done = repair(made)
    assert done.computed == 1
    assert [(s.path, s.reason) for s in done.left] == [("cats/0.png", "no such file or directory")]
    assert verify(made).verdict == "incomplete"
    assert str(done).endswith("2 damaged, 0 missing; 1 images computed, 0 dropped, 1 still to do")
    assert FeatureFile(made).flags[0].tolist() == [True, False]


def test_a_disk_that_is_not_there_costs_no_row(made: Path, tmp_path: Path):
    flip_bit(made, "rows", byte=40)
    flipped = made.read_bytes()
    for path in (tmp_path / "photos").glob("*/*"):
        path.unlink()
    message = r"^none of the 1 images to compute is in .*photos, cats/0.png for one. Say with data where the images of"
    with pytest.raises(DataError, match=message):
        repair(made)
    assert made.read_bytes() == flipped


def test_a_damaged_label_is_mended_alone(made: Path, make_folder: MakeFolder, tmp_path: Path):
    """Images added since stay out, images deleted since stay in, and no split moves."""
    before = everything(made)
    make_folder({"cats": 8, "owls": 2}, seed=9)
    (tmp_path / "photos" / "dogs" / "3.png").unlink()
    flip_bit(made, "labels", byte=4 * 4)
    with FeatureFile(made) as file:
        assert file.unchecked_table().paths[4] == "cats/4.png"

    done = repair(made)

    assert (done.dropped, len(done.left)) == (0, 0)
    after = everything(made)
    assert {name: after[name] for name in ("labels", "paths", "splits")} == {
        name: before[name] for name in ("labels", "paths", "splits")
    }


def test_repair_refuses_the_images_of_another_file(made: Path, make_folder: MakeFolder):
    other = make_folder({"ants": 3, "bees": 3}, name="other", seed=7)
    flip_bit(made, "labels")
    before = made.read_bytes()
    with pytest.raises(DataError, match=r"^none of the images of .*f.h5 is in .*other. Say with data where they lie"):
        repair(made, data=other)
    assert made.read_bytes() == before


def test_a_damaged_row_is_taken_from_an_exact_copy(made: Path, tiny_backbone: Backbone, tmp_path: Path):
    shutil.copy(tmp_path / "photos" / "cats" / "1.png", tmp_path / "photos" / "dogs" / "copy.png")
    run_extraction(tmp_path / "photos", tiny_backbone, out=made)
    before = everything(made)
    flip_bit(made, "rows", byte=2 * 32 + 40)
    done = repair(made)
    assert (done.damage, done.computed) == (1, 0)
    assert everything(made) == before


def test_drop_gives_up_views_that_were_never_finished_and_keeps_plain_rows(made: Path):
    with FeatureFile(made) as file:
        plain, offset = file.rows[:, 0].copy(), file.extents["committed"].offset
    with open(made, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\1\0" * 3)
    assert verify(made).verdict == "incomplete"
    assert repair(made, drop=True).dropped == 0
    with FeatureFile(made) as file:
        assert (file.views, file.spec.views) == (1, "plain")
        np.testing.assert_array_equal(file.rows[file.committed, 0], plain[file.committed])
        assert file.committed.sum() == 9


@pytest.mark.parametrize(("name", "byte", "entries"), [("rows", 40, 10), ("labels", 0, 9), ("committed", 0, 10)])
def test_drop_needs_no_images(made: Path, tmp_path: Path, name: str, byte: int, entries: int):
    shutil.rmtree(tmp_path / "photos")
    flip_bit(made, name, byte=byte)

    done = repair(made, drop=True)

    assert done.computed == 0
    assert verify(made).verdict == "whole"
    with FeatureFile(made) as file:
        assert len(file) == entries
        assert int(file.committed.sum()) == 8
        assert "cats/0.png" not in [file.table.paths[i] for i in np.flatnonzero(file.committed)]
    if name != "labels":
        assert done.dropped == 1
        assert DROPPED in [image.reason for image in FeatureFile(made).skipped]


def test_one_image_without_all_views_costs_the_others_none(
    make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    done = run_extraction(make_folder({"cats": 15, "dogs": 15}), tiny_backbone, out=tmp_path / "g.h5", views=2)
    with RowWriter(done.path) as writer:
        writer.withdraw([(7, 1)])
    assert repair(done.path, drop=True).dropped == 1
    with FeatureFile(done.path) as file:
        assert file.views == 2
        assert np.flatnonzero(~file.committed).tolist() == [7]
    assert verify(done.path).verdict == "whole"


def test_class_names_are_told_by_most_images_of_the_class_or_not_at_all(made: Path, tmp_path: Path):
    before = everything(made)
    (tmp_path / "photos" / "dogs" / "0.png").rename(tmp_path / "photos" / "cats" / "was a dog.png")
    flip_bit(made, "class_names")
    assert repair(made).damage == 1
    assert everything(made) == before
    for path in (tmp_path / "photos" / "dogs").iterdir():
        path.rename(path.with_suffix(".moved.png"))
    flip_bit(made, "class_names", byte=4)
    message = (
        r"^the class names are damaged, and no image of '.ogs' is in .*photos to tell its name. Say with data where"
    )
    with pytest.raises(DataError, match=message):
        repair(made)


def test_class_names_cannot_be_dropped(made: Path):
    flip_bit(made, "class_names")
    with pytest.raises(
        FeatureFileError, match="the class names of .* are damaged; only the image folders can tell them"
    ):
        repair(made, drop=True)


def test_the_commands_have_exit_codes_for_scripts(made: Path, tmp_path: Path):
    def code(*command: str, **environment: str) -> int:
        return run_program("onepass", *command, cwd=tmp_path, **environment).returncode

    assert code("verify") == 0
    assert code("verify", "nothing.h5") == 1
    assert code("verify", "f.h5", "--weights", "gone.keras") == 1
    (tmp_path / "broken.keras").write_bytes(b"no network")
    assert code("verify", "f.h5", "--weights", "broken.keras", ONEPASS_CACHE=str(tmp_path / "none")) == 6
    flip_bit(made, "rows", byte=40)
    found = run_program("onepass", "verify", "--no-golden", "--json", cwd=tmp_path)
    assert found.returncode == 3
    assert json.loads(found.stdout)["damage"] == [{"part": "row", "image": "cats/0.png", "position": 0, "view": 1}]
    flip_bit(made, "golden_rows", byte=7)
    found = run_program("onepass", "verify", "--json", cwd=tmp_path)
    assert (found.returncode, json.loads(found.stdout)["damage"][0]["part"]) == (3, "header")
    flip_bit(made, "golden_rows", byte=7)
    mended = run_program("onepass", "repair", "--json", cwd=tmp_path)
    assert (mended.returncode, json.loads(mended.stdout)["computed"]) == (0, 1)
    with h5py.File(made, "r+") as file:
        file["committed"][3] = 0
    assert code("verify") == 4
    assert code("extract", "photos", "--out", "f.h5", "--backbone", "gone.keras") == 1
