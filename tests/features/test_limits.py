import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from onepass.features.limits import FLOOR, RATIO, read_member, require_bounded, told
from support import run_process

BLOCK = 2**25


def zeros(count: int) -> tuple[bytes, int]:
    """A deflate stream of so many zeros, put together of equal pieces, and their CRC-32."""
    assert count % BLOCK == 0
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = press.compress(bytes(BLOCK)) + press.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(count // BLOCK):
        crc = zlib.crc32(bytes(BLOCK), crc)
    return piece * (count // BLOCK) + press.flush(), crc


def zip_bomb(path: Path, count: int, *names: str) -> Path:
    """An archive of files of `count` zeros, a thousandth of that on disk."""
    data, crc = zeros(count)
    body, entries = b"", b""
    for name in names:
        facts = struct.pack("<HHHHHIIIHH", 20, 0, zipfile.ZIP_DEFLATED, 0, 33, crc, len(data), count, len(name), 0)
        entries += b"PK\1\2\x14\0" + facts + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\3\4" + facts + name.encode() + data
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(entries), len(body), 0)
    path.write_bytes(body + entries + b"PK\5\6" + end)
    return path


def too_much(path: Path, declared: float) -> str:
    size = path.stat().st_size
    limit = told(max(FLOOR, RATIO * size))
    return f"^its {told(size)} declare {told(declared)}; {limit} are read of such a file at most$"


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_unread(tmp_path: Path):
    path = zip_bomb(tmp_path / "x.zip", 4 * BLOCK, "config.json", "onepass.json")
    with zipfile.ZipFile(path) as archive, archive.open("config.json") as file:
        assert (len(archive.infolist()), file.read(9)) == (2, bytes(9))
    for read in (require_bounded, lambda path: read_member(path, "onepass.json")):
        with pytest.raises(ValueError, match=too_much(path, 8 * BLOCK)):
            read(path)


def test_an_archive_of_very_many_files_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(10_001):
            archive.writestr(str(i), b"")
    with pytest.raises(ValueError, match="^it is an archive of 10001 files; 10000 are read at most$"):
        require_bounded(tmp_path / "x.zip")


def never_written(file: h5py.File) -> int:
    file.create_dataset("a", (10**6, 10**6), "f4")
    return 4 * 10**12


def pressed(file: h5py.File) -> int:
    file.create_dataset("group/a", (10**5, 10**5), "f8", chunks=(1000, 1000), compression="gzip")
    return 8 * 10**10


def long_chunks(file: h5py.File) -> int:
    file.create_dataset("a", (1,), "f8", chunks=(2**24,), maxshape=(None,), compression="gzip")
    return 8 * 2**24


def in_sum(file: h5py.File) -> int:
    for i in range(30):
        file.create_dataset(f"a{i}", (10**6,), "u1")
    return 30 * 10**6


@pytest.mark.parametrize("write", [never_written, pressed, long_chunks, in_sum])
def test_an_hdf5_file_that_declares_far_more_than_it_holds_is_refused(
    write: Callable[[h5py.File], int], tmp_path: Path
):
    path, packed = tmp_path / "x.h5", tmp_path / "x.keras"
    with h5py.File(path, "w") as file:
        declared = write(file)
    with pytest.raises(ValueError, match=too_much(path, declared)):
        require_bounded(path)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.write(path, "model.weights.h5")
        with pytest.raises(ValueError, match=too_much(packed, declared)):
            require_bounded(packed)


def test_many_texts_that_are_one_place_in_the_file_are_refused(tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["x" * 100] * 3000
    path = tmp_path / "x.h5"
    with pytest.raises(ValueError, match=too_much(path, 3000 * path.stat().st_size)):
        require_bounded(tmp_path / "x.h5")


def outside(file: h5py.File) -> None:
    file["a"] = h5py.ExternalLink("other.h5", "/a")


def raw(file: h5py.File) -> None:
    file.create_dataset("a", (8,), "u1", external=[("other.bin", 0, 8)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "a", (8,))
    file.create_virtual_dataset("a", layout)


@pytest.mark.parametrize("write", [outside, raw, virtual])
def test_parts_in_other_files_are_refused(write: Callable[[h5py.File], None], tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write(file)
    with pytest.raises(ValueError, match="^its /?a lies in another file$"):
        require_bounded(tmp_path / "x.h5")


def test_weights_as_they_are_kept_are_let_through(tmp_path: Path, rng: np.random.Generator):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv", "dense"]
        file["conv/kernel"] = rng.normal(size=(100, 300))
        file.create_dataset("dense/kernel", data=rng.normal(size=(300, 1000)), compression="gzip")
        file["again"] = file["conv"]  # a second way to the same place, and a way back to the start
        file["conv/root"] = file["/"]
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "model.weights.h5")
        archive.writestr("config.json", "{}")
    (tmp_path / "x.txt").write_text("neither")
    for one in (path, tmp_path / "x.keras", tmp_path / "x.txt"):
        require_bounded(one)


SCRIPT = """
import resource, sys
from pathlib import Path
from onepass.extract.backbones.keras_file import load_keras_file
from onepass.features.header import is_feature_file
from onepass.features.errors import UserError
from onepass.heads.finetune.model_file import load_model, read_facts, tuned_model
from onepass.heads.saved_head import is_head, load_head

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
for read in (load_keras_file, load_model, read_facts, tuned_model, load_head):
    try:
        read(Path(sys.argv[1]))
    except UserError as error:
        print(error)
is_feature_file(Path(sys.argv[1])), is_head(Path(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory in kB")
def test_a_bomb_with_the_ending_of_a_model_takes_no_memory(tmp_path: Path):
    bomb = zip_bomb(tmp_path / "bomb.keras", 32 * BLOCK, "config.json", "model.weights.h5", "onepass.json")
    done = run_process("python", "-c", SCRIPT, str(bomb), cwd=tmp_path, PYTHONPATH=os.pathsep.join(sys.path))
    assert done.returncode == 0, done.stderr
    *messages, megabytes = done.stdout.splitlines()
    declared = too_much(bomb, 3 * 32 * BLOCK).strip("^$")
    needed = "Needed: a .keras file of built-in layers, without Lambda."
    assert messages == [
        f"{bomb} cannot be loaded as a Keras model: {declared} {needed}",
        f"{bomb} cannot be loaded: {declared}",
        f"{bomb} is no model that fine-tune or export wrote.",
        f"{bomb} is no model that fine-tune or export wrote.",
        messages[-1],
    ], done.stderr
    assert "bomb.keras cannot be read as a head file: " in messages[-1]
    assert int(megabytes) < 60
