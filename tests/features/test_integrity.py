from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.features import FeatureFile
from onepass.features.errors import DamagedHeaderError, FeatureFileError
from onepass.features.integrity import check_file
from onepass.features.layout import encoded, optional
from onepass.features.writer import RowWriter, write_feature_file
from support import GOLDEN, flip_bit, make_spec, make_table


@pytest.fixture
def mixed_file(tmp_path: Path, rng: np.random.Generator) -> Path:
    """10 images x 2 views: 0 to 6 committed, 7 skipped, 8 pending, 9 with its plain view alone."""
    path = tmp_path / "mixed.h5"
    write_feature_file(path, make_spec(), make_table(10), {"data": "photos"}, GOLDEN, views=2)
    with RowWriter(path) as writer:
        writer.commit([(i, v) for i in range(7) for v in range(2)], rng.normal(size=(14, 6)).astype(np.float32))
        writer.commit([(9, 0)], np.ones((1, 6), np.float32))
        writer.skip(7, "empty file")
        for position in (0, 1, 2, 3, 4, 5, 6, 9):
            writer.put_thumbnail(position, rng.integers(0, 256, (24, 24), np.uint8))
        with FeatureFile(path) as file:
            writer.put_copies(file.copies)
    return path


def test_a_file_as_it_was_written_has_no_damage_and_right_counts(mixed_file: Path):
    found = check_file(mixed_file)

    assert found.damage == []
    assert (found.images, found.views, found.committed, found.pending, found.skipped) == (10, 2, 7, 2, 1)


@pytest.mark.parametrize(
    ("name", "byte", "part", "position", "view"),
    [
        ("rows", (3 * 2 + 1) * 24 + 5, "row", 3, 1),
        ("checksums", (4 * 2 + 0) * 4 + 1, "row", 4, 0),
        ("labels", 2 * 4, "entry", 2, None),
        ("splits", 5, "entry", 5, None),
        ("groups", 3, "entry", 3, None),
        ("content_hashes", 6 * 32 + 9, "entry", 6, None),
        ("file_sizes", 8 * 8, "entry", 8, None),
        ("file_mtimes", 9 * 8 + 3, "entry", 9, None),
        ("entry_checksums", 1 * 4, "entry", 1, None),
        ("thumbnails", 3 * 576 + 5, "thumbnail", 3, None),
        ("thumbnail_checksums", 9 * 4, "thumbnail", 9, None),
        ("skip_reasons", 7 * 120 + 2, "skip record", 7, None),
        ("skip_reasons", 3 * 120, "skip record", 3, None),
        ("class_names", 0, "class names", -1, None),
        ("committed", 2, "committed flag", 1, 0),
    ],
)
def test_a_flipped_bit_is_found_and_its_image_named(mixed_file: Path, name, byte, part, position, view):
    flip_bit(mixed_file, name, byte=byte)

    (found,) = check_file(mixed_file).damage

    assert (found.part, found.position, found.view) == (part, position, view)
    assert found.image == ("" if position < 0 else make_table(10).paths[position])


def test_a_flipped_bit_in_a_path_names_the_image_by_its_number(mixed_file: Path):
    width = FeatureFile(mixed_file).stored("paths").dtype.itemsize
    flip_bit(mixed_file, "paths", byte=4 * width)

    (found,) = check_file(mixed_file).damage

    assert (found.part, found.position, found.image) == ("entry", 4, "glass0/bild 4 ü.jpg")


def test_golden_rows_and_header_are_guarded_as_well(mixed_file: Path):
    flip_bit(mixed_file, "golden_rows", byte=3)
    message = "its spec, provenance or golden rows do not match their checksum, so nobody can say what its rows are."
    with pytest.raises(DamagedHeaderError, match=f"is damaged: {message} Or delete it, or choose another file with"):
        FeatureFile(mixed_file)
    assert [found.part for found in check_file(mixed_file).damage] == ["header"]


def test_every_damage_is_told_beside_another(mixed_file: Path):
    flip_bit(mixed_file, "class_names")
    flip_bit(mixed_file, "labels", byte=2 * 4 + 1)
    flip_bit(mixed_file, "rows", byte=5)
    assert [found.part for found in check_file(mixed_file).damage] == ["entry", "class names", "row"]


def test_no_flipped_bit_anywhere_goes_unnoticed(mixed_file: Path, rng: np.random.Generator):
    """Any bit of the file: damage is reported, or the file cannot be opened, or nothing that it says changes."""
    original = mixed_file.read_bytes()
    before = said_by(mixed_file)
    unnoticed = []
    for byte in rng.choice(len(original), 1500, replace=False).tolist():
        data = bytearray(original)
        data[byte] ^= 1 << int(rng.integers(8))
        mixed_file.write_bytes(data)
        try:
            found = check_file(mixed_file)
        except FeatureFileError:
            continue
        if not found.damage and found.pending == 2 and said_by(mixed_file) != before:
            unnoticed.append(byte)
    assert unnoticed == []


def said_by(path: Path) -> dict[str, object]:
    """What a reader believes: attributes, tables, thumbnails that match, copies, and the rows that are committed."""
    with FeatureFile(path) as found:
        said: dict[str, object] = {"thumbnails": found.thumbnails.tobytes(), "copies": found.copies.tobytes()}
    with h5py.File(path) as file:
        said |= {name: file[name][:].tobytes() for name in encoded() if name != "rows" and not optional(name)}
        said["rows"] = file["rows"][:][file["committed"][:] == 1].tobytes()
        # Of a pending row, neither the bytes nor their checksum mean anything.
        said["checksums"] = file["checksums"][:][file["committed"][:] == 1].tobytes()
        return said | {name: str(value) for name, value in file.attrs.items()}
