import json
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.features import seal
from onepass.features.errors import CertificateError
from onepass.heads.export.certificate import Certificate
from test_fuzz import certificate


def test_neither_order_nor_spacing_of_facts_counts():
    facts = {"b": [1.5, None], "a": {"z": "ü", "y": (1, 2)}}
    read_back = json.loads(json.dumps(seal.sealed(facts), indent=3, sort_keys=True))
    assert seal.unsealed(read_back) == ({"a": {"z": "ü", "y": [1, 2]}, "b": [1.5, None]}, True)
    assert seal.unsealed({"a": 1}) == ({"a": 1}, False)
    with pytest.raises(ValueError, match="^what it says does not match its checksum$"):
        seal.unsealed(read_back | {"b": [1.25, None]})


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", b"1234" * 1000)
        file.comment = seal.PLACE


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(1000)
    with open(path, "ab") as end:
        end.write(seal.PLACE)


@pytest.mark.parametrize("write", [archive, hdf5])
def test_a_sealed_file_is_read_as_before_and_tells_every_change(write, tmp_path: Path):
    path = tmp_path / "x"
    write(path)
    seal.seal_file(path)
    if write is archive:
        with zipfile.ZipFile(path) as file:
            assert file.read("a") == b"1234" * 1000
    else:
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["a"][:], np.arange(1000))
    assert seal.is_sealed(path)
    assert seal.matches_seal(path)
    whole = path.read_bytes()
    for at in (0, len(whole) // 2, len(whole) - len(seal.PLACE) - 1, len(whole) - 9):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not seal.matches_seal(path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 500, b"\nonepass-sha256 " + b"0" * 64])
def test_a_file_that_was_never_sealed_is_taken_as_it_is(content: bytes, tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(content)
    assert not seal.is_sealed(path)
    assert seal.matches_seal(path)


def test_a_certificate_that_was_changed_is_refused(tmp_path: Path):
    path = tmp_path / "x.certificate.json"
    certificate().write(path)
    assert Certificate.read(path) == certificate()
    path.write_text(path.read_text().replace('"accuracy": 0.9,', '"accuracy": 0.91,'))
    message = (
        f"{path} is no certificate of this onepass (ValueError: what it says does not match its checksum). Export the "
        "model again."
    )
    with pytest.raises(CertificateError, match=f"^{re.escape(message)}$"):
        Certificate.read(path)


@pytest.mark.parametrize("change", [
    {"accuracy": 1.2},
    {"interval": [0.9, 0.1]},
    {"before": -1.0},
    {"flips": 13},
    {"max_flips": -1},
    {"largest": -0.1},
    {"class_names": ["ant", "ant", "fly"]},
    {"class_names": ["", "bee", "fly"]},
    {"expected": [[0.5, 0.2, 0.1]] * 12},
    {"expected": [[1.5, -0.5, 0.0]] * 12},
    {"latency": [{"batch": 0, "milliseconds": 1.0, "runs": 3}]},
    {"image_size": 5000},
])  # fmt: skip
def test_a_certificate_that_makes_no_sense_is_refused(change: dict, tmp_path: Path):
    path = tmp_path / "x.certificate.json"
    path.write_text(json.dumps(seal.sealed(certificate().record() | change)))
    with pytest.raises(CertificateError, match=r"is no certificate of this onepass \(.*\). Export the model again.$"):
        Certificate.read(path)
