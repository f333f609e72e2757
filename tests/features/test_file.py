import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, OptionError, RowRangeError
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, flip_bit, make_spec, make_table, plain, started


def test_what_was_committed_is_what_plain_h5py_reads(feature_file: Path):
    table = make_table(40)
    noise = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    rows = (noise + 2 * table.labels[:, None]).astype(np.float32)

    with h5py.File(feature_file) as file:
        np.testing.assert_array_equal(file["rows"][:, 0], rows)
        assert file["committed"][:].all()
        assert [p.decode() for p in file["paths"][:]] == list(table.paths)
        np.testing.assert_array_equal(file["labels"][:], table.labels)
        np.testing.assert_array_equal(file["checksums"][:], [[zlib.crc32(row)] for row in rows])
        assert file.attrs["format_version"] == 3


def test_read_gives_rows_and_labels_of_the_positions_asked_for(open_file: FeatureFile):
    x, y = open_file.read(np.array([7, 2]))

    np.testing.assert_array_equal(x, open_file.rows[[7, 2], 0])
    np.testing.assert_array_equal(y, [1, 0])
    assert x.dtype == np.float32
    assert y.dtype == np.int64


def test_the_file_says_what_it_is(open_file: FeatureFile):
    assert str(open_file) == "40 images x 1 view, 6 wide, 2 classes, resnet50 imagenet"
    assert len(open_file) == 40
    assert open_file.class_names == ("class0", "class1")


def test_rows_stay_readable_after_the_file_was_closed(feature_file: Path):
    with FeatureFile(feature_file) as file:
        x, _ = file.read(file.rows_of("test"))
        kept = x.copy()
    np.testing.assert_array_equal(x, kept)


def test_splits_are_read_by_name(open_file: FeatureFile):
    np.testing.assert_array_equal(open_file.rows_of("test"), np.arange(4, 40, 5))
    assert len(open_file.rows_of("val")) == 0
    with pytest.raises(OptionError, match=r"^unknown split 'dev'; there are train, val, test\.$"):
        open_file.rows_of("dev")


def test_a_file_half_written_opens_and_shows_only_what_is_committed(tmp_path: Path):
    path = tmp_path / "half.h5"
    write_feature_file(path, make_spec(), make_table(10), {}, GOLDEN)
    with RowWriter(path) as writer:
        writer.commit(plain([3, 5]), np.ones((2, 6), np.float32))
        writer.skip(4, "empty file")

        file = FeatureFile(path)

        np.testing.assert_array_equal(np.flatnonzero(file.committed), [3, 5])
        assert [(s.path, s.reason) for s in file.skipped] == [("class0/bild 4 ü.jpg", "empty file")]
        with pytest.raises(FeatureFileError, match="holds no row for class0/bild 0 ü.jpg. Run the same extract"):
            file.read(np.array([3, 0]))


def test_a_skip_is_taken_back_and_long_reasons_are_cut_between_letters(tmp_path: Path):
    path = tmp_path / "skips.h5"
    write_feature_file(path, make_spec(), make_table(4), {}, GOLDEN)
    with RowWriter(path) as writer:
        writer.skip(0, "ü" * 100)
        writer.skip(1, "empty file")
        writer.clear_skip(1)
    assert [s.reason for s in FeatureFile(path).skipped] == ["ü" * 60]


def test_a_flipped_bit_in_a_row_is_found_and_the_image_named(feature_file: Path):
    flip_bit(feature_file, "rows", byte=7 * 24 + 5)
    file = FeatureFile(feature_file)

    with pytest.raises(FeatureFileError, match=r"is damaged: the row of class1/bild 7 ü\.jpg does not match"):
        file.read(np.arange(40))
    np.testing.assert_array_equal(np.flatnonzero(file.damaged(np.arange(40))), [7])


@pytest.mark.parametrize("table", ["labels", "splits", "paths", "content_hashes", "class_names", "file_sizes"])
def test_a_flipped_bit_in_a_table_is_found(feature_file: Path, table: str):
    flip_bit(feature_file, table, byte=3)
    with pytest.raises(FeatureFileError, match="damaged: its image tables do not match their checksum"):
        _ = FeatureFile(feature_file).table


def test_a_missing_file_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(FeatureFileError, match=r"there is no feature file .*none.h5. Make one with: extract DATA$"):
        FeatureFile(tmp_path / "none.h5")


def test_a_folder_is_no_feature_file(tmp_path: Path):
    with pytest.raises(FeatureFileError, match="needed: a feature file|is a folder"):
        FeatureFile(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all", b"\x89HDF\r\n\x1a\n" + b"\0" * 50])
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "other.h5"
    path.write_bytes(content)
    with pytest.raises(FeatureFileError, match="cannot be read as a feature file") as caught:
        FeatureFile(path)
    assert "\n" not in str(caught.value)


def test_another_hdf5_file_is_refused(tmp_path: Path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(FeatureFileError, match=r"is HDF5 but no feature file \(its format attribute is None\)"):
        FeatureFile(tmp_path / "weights.h5")


def test_a_newer_format_is_refused_by_number(feature_file: Path):
    with h5py.File(feature_file, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(
        FeatureFileError, match="has format version 99; this onepass reads versions 3 and 4. Use the onepass"
    ):
        FeatureFile(feature_file)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(feature_file: Path, keep: float):
    data = feature_file.read_bytes()
    feature_file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FeatureFileError, match="damaged|truncated"):
        FeatureFile(feature_file)


def test_a_missing_dataset_is_refused(feature_file: Path):
    with h5py.File(feature_file, "r+") as file:
        del file["checksums"]
    with pytest.raises(FeatureFileError, match="no dataset checksums"):
        FeatureFile(feature_file)


def test_links_to_other_files_are_not_followed(feature_file: Path, tmp_path: Path):
    with h5py.File(feature_file, "r+") as file:
        del file["labels"]
        file["labels"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "labels")
    with pytest.raises(FeatureFileError, match="no dataset labels"):
        FeatureFile(feature_file)


def test_a_new_table_takes_over_rows_by_content_and_leaves_damaged_ones(feature_file: Path):
    old = FeatureFile(feature_file)
    kept = np.array(old.rows[:, 0])
    flip_bit(feature_file, "rows", byte=3 * 24)
    table = make_table(40)
    order = np.arange(40)[::-1]
    renamed = type(table)(
        table.class_names,
        tuple(f"renamed/{i}.jpg" for i in range(40)),
        table.labels[order],
        table.splits[order],
        table.content_hashes[order],
        table.file_sizes[order],
        table.file_mtimes[order],
    )

    write_feature_file(feature_file, make_spec(), renamed, {}, GOLDEN, old=FeatureFile(feature_file))

    new = FeatureFile(feature_file)
    np.testing.assert_array_equal(np.flatnonzero(~new.committed), [36])
    others = np.delete(np.arange(40), 36)
    np.testing.assert_array_equal(new.rows[others, 0], kept[::-1][others])


def test_the_fingerprint_changes_with_a_row_and_with_a_label(feature_file: Path, tmp_path: Path):
    before = FeatureFile(feature_file).fingerprint()
    assert FeatureFile(feature_file).fingerprint() == before
    with RowWriter(feature_file) as writer:
        writer.commit(plain([0]), np.zeros((1, 6), np.float32))
    assert FeatureFile(feature_file).fingerprint() != before


def test_an_unwritable_place_ends_in_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureFileError, match=r"^cannot write .*Everything committed before is kept"):
        write_feature_file(tmp_path / "file" / "x.h5", make_spec(), make_table(4), {}, GOLDEN)


def test_a_full_disk_is_told_and_what_was_committed_stays(feature_file: Path, monkeypatch: pytest.MonkeyPatch):
    before = FeatureFile(feature_file).fingerprint()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with RowWriter(feature_file) as writer:
        monkeypatch.setattr("onepass.features.writer.os.pwrite", full)
        with pytest.raises(FeatureFileError, match="No space left on device. Everything committed before is kept"):
            writer.commit(plain([0]), np.zeros((1, 6), np.float32))
    assert FeatureFile(feature_file).fingerprint() == before


def test_rows_reach_the_disk_before_their_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "order.h5"
    write_feature_file(path, make_spec(), make_table(4), {}, GOLDEN)
    events: list[str] = []
    with RowWriter(path) as writer:
        put = writer._put
        monkeypatch.setattr(writer, "_put", lambda name, *rest: (events.append(name), put(name, *rest)))
        monkeypatch.setattr("onepass.features.writer.os.fsync", lambda _: events.append("sync"))
        writer.commit(plain([1, 2]), np.ones((2, 6), np.float32))
    assert events == ["rows", "checksums", "rows", "checksums", "sync", "committed", "committed", "sync"]


def test_flags_reach_the_disk_before_the_file_takes_the_place_of_the_old_one(
    feature_file: Path, monkeypatch: pytest.MonkeyPatch
):
    events: list[str] = []
    for module, name in ((os, "fsync"), (os, "pwrite"), (Path, "replace")):
        real = getattr(module, name)

        def noted(*arguments, real=real, name=name):
            events.append(name)
            return real(*arguments)

        monkeypatch.setattr(module, name, noted)
    write_feature_file(feature_file, make_spec(), make_table(40), {}, GOLDEN, old=FeatureFile(feature_file))
    assert events[events.index("replace") - 1] == "fsync"
    assert "pwrite" not in events[events.index("replace") :]


def test_rows_come_from_any_intact_copy(tmp_path: Path, rng: np.random.Generator):
    """Two entries of one content, the later one damaged, and a third that lacks the row."""
    table = make_table(4)
    table.content_hashes[[1, 2]] = table.content_hashes[0]
    path, rows = tmp_path / "copies.h5", rng.normal(size=(4, 6)).astype(np.float32)
    rows[1] = rows[0]
    write_feature_file(path, make_spec(), table, {}, GOLDEN)
    with RowWriter(path) as writer:
        writer.commit(plain([0, 1, 3]), rows[[0, 1, 3]])
    flip_bit(path, "rows", byte=1 * 24)

    write_feature_file(path, make_spec(), table, {}, GOLDEN, old=FeatureFile(path))

    x, _ = FeatureFile(path).read(np.arange(4))
    np.testing.assert_array_equal(x, rows[[0, 0, 0, 3]])


def test_a_row_that_comes_later_takes_the_record_of_a_skip_back(tmp_path: Path):
    path = tmp_path / "later.h5"
    write_feature_file(path, make_spec(), make_table(2), {}, GOLDEN)
    with RowWriter(path) as writer:
        writer.skip(0, "empty file")
        writer.commit(plain([0]), np.ones((1, 6), np.float32))
    file = FeatureFile(path)
    assert file.skipped == []
    assert file.skip_records().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"seed": "x"}, "seed in its provenance is 'x'; needed: a whole number"),
        ({"folders": "abc"}, "folders in its provenance is 'abc'; needed: a list of paths"),
        ({"environments": [1]}, r"environments in its provenance is '\[1\]'; needed: a list of objects"),
    ],
)
def test_a_provenance_that_means_nothing_is_refused(tmp_path: Path, provenance: dict, message: str):
    write_feature_file(tmp_path / "f.h5", make_spec(), make_table(4), provenance, GOLDEN)
    with pytest.raises(FeatureFileError, match=message):
        FeatureFile(tmp_path / "f.h5")


def test_labels_without_a_class_are_damage(tmp_path: Path):
    table = make_table(4)
    table.labels[2] = 99
    write_feature_file(tmp_path / "f.h5", make_spec(), table, {}, GOLDEN)
    with pytest.raises(FeatureFileError, match="its image tables name classes or splits that do not exist"):
        _ = FeatureFile(tmp_path / "f.h5").table


def test_paths_that_are_not_utf8_survive(tmp_path: Path):
    table = make_table(2)
    odd = b"class0/\xff\xfe.jpg".decode("utf-8", "surrogateescape")
    table = type(table)(table.class_names, (odd, "b"), *list(vars(table).values())[2:])
    write_feature_file(tmp_path / "odd.h5", make_spec(), table, {}, GOLDEN)
    assert FeatureFile(tmp_path / "odd.h5").table.paths == (odd, "b")


def test_a_second_writer_is_refused_by_pid_and_host_and_a_dead_one_is_not_in_the_way(tmp_path: Path):
    import socket

    from onepass.features.errors import LockedError
    from onepass.features.lock import writer_lock

    path = tmp_path / "x.h5"
    hold = f"from onepass.features.lock import writer_lock as w; import pathlib as p; c=w(p.Path({str(path)!r})); "
    hold += "c.__enter__(); print('held', flush=True); input()"
    with started("python", "-c", hold, cwd=tmp_path, stdin=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        expected = f"x.h5 is being written by process {other.pid} on {socket.gethostname()}. Wait until"
        with pytest.raises(LockedError, match=expected), writer_lock(path):
            pass
    with writer_lock(path):
        assert (tmp_path / ".x.h5.lock").exists()
    assert not (tmp_path / ".x.h5.lock").exists()


def test_an_open_file_outlives_its_replacement(feature_file: Path):
    with FeatureFile(feature_file) as file:
        expected, _ = FeatureFile(feature_file).read(np.arange(40))
        write_feature_file(feature_file, make_spec(), make_table(50, 5), {}, GOLDEN, old=FeatureFile(feature_file))
        np.testing.assert_array_equal(file.read(np.arange(40))[0], expected)
        assert len(file.table.class_names) == 2


def test_a_file_that_cannot_be_written_whole_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise RuntimeError("Can't decrement id ref count (file write failed)")

    monkeypatch.setattr("onepass.features.layout._allocate", full)
    with pytest.raises(FeatureFileError, match=r"^cannot write .*file write failed.*free disk space or choose another"):
        write_feature_file(tmp_path / "f.h5", make_spec(), make_table(4), {}, GOLDEN)
    assert list(tmp_path.iterdir()) == []


def test_attributes_lie_under_hdf5s_own_checksums_however_long_they_are(tmp_path: Path):
    """Texts of variable length lie in a heap without checksums, where one flipped bit can hang HDF5."""
    provenance = {"data": "photos ü", "folders": ["x" * 200_000]}
    write_feature_file(tmp_path / "f.h5", make_spec(), make_table(4), provenance, GOLDEN)
    with h5py.File(tmp_path / "f.h5") as file:
        kinds = {name: file.attrs.get_id(name).dtype.kind for name in file.attrs}
    assert kinds.pop("format_version") == "i"
    assert set(kinds.values()) == {"S"}
    assert FeatureFile(tmp_path / "f.h5").provenance == provenance


def test_a_file_of_the_version_before_is_refused(feature_file: Path):
    with h5py.File(feature_file, "r+") as file:
        file.attrs["format"] = "onepass-features"  # of variable length, as it was
        file.attrs["format_version"] = 2
    message = (
        r"has format version 2; this onepass reads versions 3 and 4. Use the onepass that wrote it. Or delete it, or "
        r"choose another file with out, and extract again\.$"
    )
    with pytest.raises(FeatureFileError, match=message):
        FeatureFile(feature_file)


def test_a_file_shows_its_images_by_name(feature_file: Path):
    with FeatureFile(feature_file) as file:
        assert file.labels.tolist() == [i % 2 for i in range(40)]
        assert (file.paths[0], file.splits[:5]) == ("class0/bild 0 ü.jpg", ("train",) * 4 + ("test",))
        assert "<th>class</th><th>train</th><th>val</th><th>test</th>" in file._repr_html_()
        assert "<td>class1</td><td>16</td><td>0</td><td>4</td>" in file._repr_html_()


def test_a_file_becomes_a_data_frame(feature_file: Path):
    pytest.importorskip("pandas")
    with FeatureFile(feature_file) as file:
        frame = file.to_pandas()
    assert list(frame.columns) == ["path", "label", "split", "group", "weight", "committed"]
    assert frame.shape == (40, 6)
    assert (frame.groupby("split").size().to_dict(), frame.label[1]) == ({"test": 8, "train": 32}, "class1")


def test_without_pandas_there_is_no_data_frame(feature_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with FeatureFile(feature_file) as file, pytest.raises(OptionError) as caught:
        file.to_pandas()
    assert str(caught.value) == "to_pandas needs pandas, which is not installed. Run: pip install pandas."


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_rows_are_not_written_into_a_file_that_is_no_longer_there(feature_file: Path, how: str):
    message = (
        f"{feature_file} was replaced or deleted while this run wrote into it, so its rows are in no file now. Let one "
        "program at a time write there, and run the same command again.$"
    )
    writer = RowWriter(feature_file)
    writer.commit([(0, 0)], np.ones((1, 6), np.float32))
    copy = feature_file.with_name("copy.h5")
    shutil.copy(feature_file, copy)
    copy.replace(feature_file) if how == "replaced" else feature_file.unlink()
    with pytest.raises(FeatureFileError, match=message):
        writer.commit([(1, 0)], np.ones((1, 6), np.float32))
    with pytest.raises(FeatureFileError, match=message), writer:
        pass


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(feature_file: Path, number: float):
    row = np.full(6, 1, np.float32)
    row[3] = number
    with RowWriter(feature_file) as writer, pytest.raises(RowRangeError) as caught:
        writer.commit([(7, 0)], [row])
    assert str(caught.value) == (
        "the row of class1/bild 7 ü.jpg holds numbers that are not finite, and no head can use it. Compute it with "
        "precision='float32', or look at the weights of the backbone."
    )
