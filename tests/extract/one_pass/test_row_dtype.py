"""float16 rows from the pass to the report: what is stored, reused, converted and computed again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import Backbone, plan, repair, verify
from onepass.extract.one_pass.report import Extraction
from onepass.extract.one_pass.run import run_extraction
from onepass.features import FeatureFile
from onepass.features.errors import OptionError, RowRangeError
from support import MakeFolder, flip_bit, run_program


def run(data: Path, backbone: Backbone, out: Path, **options: object) -> Extraction:
    return run_extraction(data, backbone, out=out, **options)


def read_all(path: Path) -> np.ndarray:
    with FeatureFile(path) as file:
        return file.read_views(np.flatnonzero(file.committed))[0]


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    return make_folder({"cats": 5, "dogs": 4})


def test_rows_are_the_float32_ones_rounded(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    whole = read_all(run(data, tiny_backbone, tmp_path / "a.h5", views=2).path)
    done = run(data, tiny_backbone, tmp_path / "b.h5", views=2, row_dtype="float16")
    assert (done.row_dtype, done.record()["row_dtype"], done.computed) == ("float16", "float16", 9)
    np.testing.assert_array_equal(read_all(done.path), np.float32(np.float16(whole)))
    assert FeatureFile(tmp_path / "a.h5").spec == FeatureFile(done.path).spec


def test_a_rerun_keeps_the_type_of_the_file(
    data: Path, make_folder: MakeFolder, tiny_backbone: Backbone, tmp_path: Path
):
    run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="float16")
    make_folder({"owls": 2}, seed=5)
    again = run(data, tiny_backbone, tmp_path / "f.h5")
    assert (again.row_dtype, again.computed, again.reused) == ("float16", 2, 9)
    before = again.path.read_bytes()
    assert run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="float16").computed == 0
    assert again.path.read_bytes() == before


def test_float32_becomes_float16_without_computing_and_float16_float32_only_by_computing(
    data: Path, tiny_backbone: Backbone, tmp_path: Path
):
    whole = read_all(run(data, tiny_backbone, tmp_path / "f.h5").path)
    smaller = run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="float16")
    assert (smaller.computed, smaller.reused, smaller.row_dtype) == (0, 9, "float16")
    np.testing.assert_array_equal(read_all(smaller.path), np.float32(np.float16(whole)))
    larger = run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="float32")
    assert (larger.computed, larger.reused, larger.row_dtype) == (9, 0, "float32")
    np.testing.assert_array_equal(read_all(larger.path), whole)


@pytest.mark.parametrize(("base", "new", "computed"), [
    ("float32", "float16", 0), ("float16", "float16", 0), ("float32", "float32", 0), ("float16", "float32", 9),
])  # fmt: skip
def test_rows_of_another_file_are_reused_unless_they_have_lost_precision(
    data: Path, tiny_backbone: Backbone, tmp_path: Path, base: str, new: str, computed: int
):
    run(data, tiny_backbone, tmp_path / "base.h5", row_dtype=base)
    estimate = plan(data, tiny_backbone, out=tmp_path / "f.h5", base=[tmp_path / "base.h5"], row_dtype=new)
    done = run(data, tiny_backbone, tmp_path / "f.h5", base=[tmp_path / "base.h5"], row_dtype=new)
    assert (estimate.to_compute, done.computed, done.row_dtype) == (computed, computed, new)


def test_exact_copies_are_computed_once(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    shutil.copy(data / "cats" / "0.png", data / "dogs" / "copy.png")
    done = run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="float16")
    assert (done.images, done.computed) == (10, 9)


def test_a_plan_knows_the_size_of_either(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    sizes = {}
    for row_dtype in ("float32", "float16"):
        options = {"out": tmp_path / f"{row_dtype}.h5", "views": 3, "row_dtype": row_dtype}
        estimate = plan(data, tiny_backbone, **options)
        done = run_extraction(data, tiny_backbone, **options)
        assert estimate.disk == pytest.approx(done.path.stat().st_size, abs=12_000)  # HDF5's own structures
        sizes[row_dtype] = estimate.disk
    assert sizes["float32"] - sizes["float16"] == 9 * 3 * 8 * 2
    kept = plan(data, tiny_backbone, out=tmp_path / "float16.h5")
    assert (kept.disk, kept.to_compute) == (sizes["float16"], 0)


def test_a_float16_file_is_verified_and_mended(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    path = run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="float16", views=2).path
    before = read_all(path)
    assert verify(path).verdict == "whole"
    flip_bit(path, "rows", byte=3 * 2 * 16 + 20)
    flip_bit(path, "labels", byte=4 * 6)
    assert verify(path).verdict == "damaged"
    done = repair(path)
    assert (done.damage, done.computed) == (2, 1)
    assert verify(path).verdict == "whole"
    assert FeatureFile(path).row_dtype == "float16"
    np.testing.assert_array_equal(read_all(path), before)
    flip_bit(path, "labels", byte=4 * 6)
    assert repair(path, drop=True).dropped == 1
    assert FeatureFile(path).row_dtype == "float16"
    np.testing.assert_array_equal(read_all(path), np.delete(before, 6, axis=0))


class Large:
    """A backbone whose rows do not fit into float16."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)

    def stream(self, *arguments: object, **options: object):
        for key, rows in self._backbone.stream(*arguments, **options):
            yield key, rows * np.float32(1e9)


def test_rows_beyond_float16_are_refused_by_name(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    message = (
        r"^the row of (cats|dogs)/\d.png holds numbers of up to .*; float16 ends at 65504. Use row_dtype='float32'\.$"
    )
    with pytest.raises(RowRangeError, match=message):
        run(data, Large(tiny_backbone), tmp_path / "f.h5", row_dtype="float16")
    assert not FeatureFile(tmp_path / "f.h5").flags.any()
    run(data, Large(tiny_backbone), tmp_path / "f.h5", row_dtype="float32")
    before = (tmp_path / "f.h5").read_bytes()
    with pytest.raises(RowRangeError, match=message):
        run(data, Large(tiny_backbone), tmp_path / "f.h5", row_dtype="float16")
    assert (tmp_path / "f.h5").read_bytes() == before


def test_another_type_is_refused(data: Path, tiny_backbone: Backbone, tmp_path: Path):
    with pytest.raises(OptionError, match=r"^row_dtype is 'bfloat16'; needed: float32 or float16\.$"):
        run(data, tiny_backbone, tmp_path / "f.h5", row_dtype="bfloat16")


def test_the_commands_know_the_type(data: Path, tiny_file: Path, tmp_path: Path):
    command = ("extract", "photos", "--backbone", str(tiny_file), "--row-dtype", "float16", "--json")
    done = run_program(*command, cwd=tmp_path)
    assert json.loads(done.stdout)["row_dtype"] == "float16", done.stderr
    assert json.loads(run_program("onepass", "info", "--json", cwd=tmp_path).stdout)["row_dtype"] == "float16"
    assert "(8 wide), stored as float16\n" in run_program("onepass", "info", cwd=tmp_path).stdout
