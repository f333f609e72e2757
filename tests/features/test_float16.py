"""Rows stored as IEEE half precision: half the disk, the same file in every other respect."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import FeatureFileError, RowRangeError
from onepass.features.integrity import check_file
from onepass.features.layout import keeps_precision
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, flip_bit, make_spec, make_table, plain


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    """(40, 2, 6) float32 of many magnitudes."""
    return (rng.normal(size=(40, 2, 6)) * 10.0 ** rng.integers(-6, 4, (40, 2, 6))).astype(np.float32)


def write(path: Path, rows: np.ndarray, row_dtype: str | None, **options: object) -> Path:
    n, views, _ = rows.shape
    write_feature_file(path, make_spec(), make_table(n), {}, GOLDEN, views=views, row_dtype=row_dtype, **options)
    with RowWriter(path) as writer:
        writer.commit([(i, view) for i in range(n) for view in range(views)], rows.reshape(n * views, -1))
    return path


@pytest.fixture
def half(tmp_path: Path, rows: np.ndarray) -> Path:
    return write(tmp_path / "half.h5", rows, "float16")


def test_what_is_read_is_the_row_rounded_to_half_precision(half: Path, rows: np.ndarray):
    rounded = np.float32(np.float16(rows))
    with FeatureFile(half) as file:
        assert file.row_dtype == "float16"
        x, _ = file.read(np.array([7, 3]))
        views, _ = file.read_views(np.arange(40))
        np.testing.assert_array_equal(file.rows, np.float16(rows))
        assert (file.rows.dtype, file.load(np.arange(2)).dtype) == (np.float16, np.float16)
    np.testing.assert_array_equal(x, rounded[[7, 3], 0])
    np.testing.assert_array_equal(views, rounded)
    assert x.dtype == views.dtype == np.float32


def test_plain_h5py_reads_half_precision_and_checksums_are_over_the_stored_bytes(half: Path, rows: np.ndarray):
    with h5py.File(half) as file:
        assert file["rows"].dtype == np.dtype("<f2")
        np.testing.assert_array_equal(file["rows"][:], np.float16(rows))
        expected = [[zlib.crc32(view.astype("<f2").tobytes()) for view in image] for image in rows]
        np.testing.assert_array_equal(file["checksums"][:], expected)


def test_the_rows_take_half_the_disk(tmp_path: Path):
    rows = np.ones((40, 1, 600), np.float32)
    sizes = []
    for row_dtype in ("float32", "float16"):
        path = tmp_path / f"{row_dtype}.h5"
        write_feature_file(path, make_spec(width=600), make_table(40), {}, np.ones((1, 2, 600)), row_dtype=row_dtype)
        sizes.append(path.stat().st_size)
    assert sizes[0] - sizes[1] == rows.nbytes // 2


def test_float32_is_the_default_and_an_old_file_keeps_its_type(half: Path, rows: np.ndarray, tmp_path: Path):
    assert FeatureFile(write(tmp_path / "f.h5", rows, None)).row_dtype == "float32"
    before, _ = FeatureFile(half).read_views(np.arange(40))
    write_feature_file(half, make_spec(), make_table(40), {}, GOLDEN, views=2, old=FeatureFile(half))
    with FeatureFile(half) as file:
        assert file.row_dtype == "float16"
        np.testing.assert_array_equal(file.read_views(np.arange(40))[0], before)


def test_float32_rows_become_float16_without_being_computed(rows: np.ndarray, tmp_path: Path):
    path = write(tmp_path / "f.h5", rows, "float32")
    write_feature_file(
        path, make_spec(), make_table(40), {}, GOLDEN, views=2, row_dtype="float16", old=FeatureFile(path)
    )
    with FeatureFile(path) as file:
        assert file.row_dtype == "float16"
        np.testing.assert_array_equal(file.read_views(np.arange(40))[0], np.float32(np.float16(rows)))


def test_float16_rows_never_become_float32(half: Path, rows: np.ndarray, tmp_path: Path):
    write_feature_file(
        half, make_spec(), make_table(40), {}, GOLDEN, views=2, row_dtype="float32", old=FeatureFile(half)
    )
    assert not FeatureFile(half).flags.any()
    assert [keeps_precision(*pair) for pair in [("float32", "float16"), ("float16", "float16")]] == [True, True]
    assert not keeps_precision("float16", "float32")


def test_rows_of_both_types_are_put_together_in_a_float16_file(half: Path, rows: np.ndarray, tmp_path: Path):
    whole = write(tmp_path / "whole.h5", rows, "float32")
    with RowWriter(half) as writer:
        writer.withdraw([(i, view) for i in range(20) for view in range(2)])
        writer.copy_rows(FeatureFile(whole))
    np.testing.assert_array_equal(FeatureFile(half).read_views(np.arange(40))[0], np.float32(np.float16(rows)))


@pytest.mark.parametrize("value", [65505.0, -70000.0, 3e38])
def test_a_number_beyond_float16_is_refused_before_any_row_of_the_batch_is_stored(half: Path, value: float):
    before = half.read_bytes()
    large = np.zeros((2, 6), np.float32)
    large[1, 3] = value
    message = (
        rf"^the row of class1/bild 5 ü.jpg holds numbers of up to {abs(np.float32(value)):.6g}".replace("+", r"\+")
        + r"; float16 ends at 65504. Use row_dtype='float32'\.$"
    )
    with RowWriter(half) as writer, pytest.raises(RowRangeError, match=message):
        writer.commit(plain([4, 5]), large)
    assert half.read_bytes() == before


def test_the_largest_number_of_float16_is_stored(half: Path):
    with RowWriter(half) as writer:
        writer.commit(plain([0]), [np.full(6, -65504, np.float32)])
    assert FeatureFile(half).read(np.array([0]))[0].tolist() == [[-65504.0] * 6]


def test_a_file_that_cannot_be_rounded_stays_as_it_is(rows: np.ndarray, tmp_path: Path):
    rows[39, 1, 5] = 1e5
    path = write(tmp_path / "f.h5", rows, "float32")
    before = path.read_bytes()
    with pytest.raises(
        RowRangeError, match="holds numbers of up to 100000; float16 ends at 65504. Use row_dtype='float32'."
    ):
        write_feature_file(
            path, make_spec(), make_table(40), {}, GOLDEN, views=2, row_dtype="float16", old=FeatureFile(path)
        )
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_in_a_float16_row_is_found(half: Path):
    assert check_file(half).damage == []
    flip_bit(half, "rows", byte=(9 * 2 + 1) * 12 + 5)
    (found,) = check_file(half).damage
    assert (found.part, found.position, found.view) == ("row", 9, 1)
    with pytest.raises(FeatureFileError, match=r"is damaged: the row of class1/bild 9 ü\.jpg does not match its check"):
        FeatureFile(half).read_views(np.arange(40))


def test_pieces_hold_twice_as_many_rows(tmp_path: Path):
    pieces = []
    for row_dtype in ("float32", "float16"):
        path = tmp_path / f"{row_dtype}.h5"
        golden = np.ones((1, 1, 2**20), np.float32)
        write_feature_file(path, make_spec(width=2**20), make_table(40), {}, golden, row_dtype=row_dtype)
        with FeatureFile(path) as file:
            pieces.append([len(some) for some in file.batches(np.arange(40))])
    assert pieces == [[8] * 5, [16, 16, 8]]


def test_rows_of_another_type_are_refused(half: Path, tmp_path: Path):
    with h5py.File(half, "r+") as file:
        rows = file["rows"][:].astype("<f8")
        del file["rows"]
        file["rows"] = rows
    with pytest.raises(
        FeatureFileError, match=r"its rows are float64 \(40, 2, 6\); needed: float32 or float16, rank 3"
    ):
        FeatureFile(half)
