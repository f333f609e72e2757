"""Feature files of other tasks than classes, of images without labels and of weighted images."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.features import FeatureFile, ImageTable
from onepass.features.errors import FeatureFileError
from onepass.features.integrity import check_file
from onepass.features.tasks import strata_of_labels, strata_of_numbers
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, flip_bit, make_spec, make_table, plain

N = 20


def numbers() -> ImageTable:
    table = make_table(N)
    values = np.where(np.arange(N) == 3, np.nan, np.linspace(-2, 7, N))
    labels = np.where(np.isnan(values), -1, 0).astype(np.int32)
    return replace(table, class_names=("age",), labels=labels, task="number", targets=values[:, None])


def several() -> ImageTable:
    table, generator = make_table(N), np.random.default_rng(1)
    targets = (generator.random((N, 3)) < 0.4).astype(float)
    labels = np.zeros(N, np.int32)
    return replace(table, class_names=("blue", "red", "round"), labels=labels, task="labels", targets=targets)


def unlabelled() -> ImageTable:
    return replace(make_table(N), class_names=(), labels=np.full(N, -1, np.int32), task="none")


def some_labelled() -> ImageTable:
    table = make_table(N)
    return replace(table, labels=np.where(np.arange(N) % 3, table.labels, -1).astype(np.int32))


def weighted() -> ImageTable:
    return replace(make_table(N), weights=np.linspace(0.5, 2, N))


TABLES = {"number": numbers, "labels": several, "none": unlabelled, "some": some_labelled, "weights": weighted}


@pytest.fixture(params=TABLES)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ImageTable]:
    table, path = TABLES[request.param](), tmp_path / "f.h5"
    write_feature_file(path, make_spec(), table, {"data": "photos"}, GOLDEN)
    with RowWriter(path) as writer:
        writer.commit(plain(range(N)), np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32))
    return path, table


def test_a_table_comes_back_as_it_was_written(written: tuple[Path, ImageTable]):
    path, table = written
    with FeatureFile(path) as file:
        assert file.table.same_files(table)
        assert file.task == table.task
        assert file.table.label_values() == table.label_values()
        assert set(file.rows_of("train")) | set(file.rows_of("test")) == set(np.flatnonzero(table.labelled))
        assert file._repr_html_()
        assert str(file)


def test_it_is_of_version_4_and_classes_alone_stay_3(written: tuple[Path, ImageTable], tmp_path: Path):
    with h5py.File(written[0]) as file:
        assert file.attrs["format_version"] == 4
        assert file.attrs["task"].decode() == written[1].task
    write_feature_file(tmp_path / "g.h5", make_spec(), make_table(N), {"data": "photos"}, GOLDEN)
    with h5py.File(tmp_path / "g.h5") as file:
        assert file.attrs["format_version"] == 3
        assert "task" not in file.attrs


def test_another_task_in_the_header_is_damage(written: tuple[Path, ImageTable]):
    path, table = written
    with h5py.File(path, "r+") as file:
        other = "number" if table.task != "number" else "labels"
        file.attrs["task"] = np.bytes_(other.encode())
    with pytest.raises(FeatureFileError, match="do not match their checksum"):
        FeatureFile(path)


@pytest.mark.parametrize("name", ["targets", "weights", "labels"])
def test_a_flipped_bit_is_named_by_its_image(written: tuple[Path, ImageTable], name: str):
    path, table = written
    with h5py.File(path) as file:
        if name not in file:
            pytest.skip("not in this file")
        width = file[name][:1].nbytes
    flip_bit(path, name, byte=5 * width)
    found = check_file(path).damage
    assert [(one.part, one.image) for one in found] == [("entry", table.paths[5])]
    with FeatureFile(path) as file, pytest.raises(FeatureFileError, match="do not match their checksum"):
        file.table  # noqa: B018


def test_parts_keep_their_targets_and_weights(written: tuple[Path, ImageTable]):
    _, table = written
    kept = np.arange(N) % 4 == 1
    part = table.part(kept)
    assert part.label_values() == [value for value, keep in zip(table.label_values(), kept, strict=True) if keep]
    np.testing.assert_array_equal(part.weights, table.weights[kept])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"task": "colours"}, "its task is 'colours'"),
        ({"task": "none"}, "it has 2 names and 0 targets for the task none"),
        ({"task": "number"}, "it has 2 names and 0 targets for the task number"),
    ],
)
def test_parts_that_do_not_go_together_are_not_written(change: dict, complaint: str, tmp_path: Path):
    with pytest.raises(ValueError, match=complaint):
        write_feature_file(tmp_path / "f.h5", make_spec(), replace(make_table(4), **change), {}, GOLDEN)
    assert not list(tmp_path.iterdir())


def test_entries_that_make_no_sense_are_told():
    assert not numbers().out_of_range().any()
    assert replace(numbers(), targets=np.full((N, 1), np.inf)).out_of_range().sum() == N - 1
    assert replace(several(), targets=np.full((N, 3), 0.5)).out_of_range().all()
    assert replace(weighted(), weights=np.zeros(N)).out_of_range().all()
    assert replace(unlabelled(), labels=np.zeros(N, np.int32)).out_of_range().all()


def test_a_drawn_split_spreads_numbers_and_rare_labels_evenly(tmp_path: Path):
    n = 200
    table, generator = make_table(n), np.random.default_rng(2)
    rare = (np.arange(n) < 10).astype(float)
    targets = np.column_stack([generator.random(n) < 0.7, rare]).astype(float)
    for name, new in {
        "labels": replace(table, task="labels", targets=targets, labels=np.zeros(n, np.int32)),
        "number": replace(
            table, task="number", class_names=("x",), targets=np.arange(n)[:, None], labels=np.zeros(n, np.int32)
        ),
    }.items():
        path = tmp_path / f"{name}.h5"
        write_feature_file(path, make_spec(), new, {"data": "photos"}, GOLDEN)
        with RowWriter(path) as writer:
            writer.commit(plain(range(n)), generator.normal(size=(n, 6)).astype(np.float32))
        with FeatureFile(path) as file:
            _, test = file.split(test=0.2)
        counts = np.bincount(new.strata()[test], minlength=new.strata().max() + 1)
        np.testing.assert_array_equal(counts, (np.bincount(new.strata()) * 0.2 + 0.5).astype(int))


def test_strata():
    assert strata_of_labels(np.zeros((2, 0))).tolist() == [0, 0]
    assert strata_of_numbers(np.full(3, np.nan)).tolist() == [-1, -1, -1]
    assert len(set(strata_of_numbers(np.arange(100.0)).tolist())) == 10
    assert len(set(strata_of_numbers(np.ones(100)).tolist())) == 1
