import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.backbones.efficientnet_lite import lite_weights_file
from onepass.extract.backbones.torch_file import read_torch_file
from onepass.features.errors import WeightsError

HEADER = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return print, ("ran",)

    (tmp_path / "bomb.pth").write_bytes(HEADER + pickle.dumps(Bomb(), 2))
    message = r"^bomb.pth: names __builtin__.print; only tensors are read, nothing else is loaded or run.$"
    with pytest.raises(WeightsError, match=message):
        read_torch_file(tmp_path / "bomb.pth")


@pytest.mark.parametrize("keep", [10, 100, 5_000, 1_000_000, 18_826_000])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int):
    (tmp_path / "cut.pth").write_bytes(lite_weights_file("efficientnet_lite0").read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"^cut.pth"):
        read_torch_file(tmp_path / "cut.pth")


def test_a_tensor_that_reaches_outside_its_storage_is_refused():
    from onepass.extract.backbones.torch_file import _Tensor

    with pytest.raises(WeightsError, match="a tensor reaches outside its storage"):
        _Tensor(np.zeros(6, np.float32), 1, (2, 3), (3, 1))
    with pytest.raises(WeightsError, match="a tensor reaches outside its storage"):
        _Tensor(np.zeros(6, np.float32), 0, (2, 3), (-3, 1))


def test_strides_are_followed():
    from onepass.extract.backbones.torch_file import _Tensor

    transposed = _Tensor(np.arange(6, dtype=np.float32), 0, (3, 2), (1, 3)).array()
    np.testing.assert_array_equal(transposed, [[0, 3], [1, 4], [2, 5]])


class Storage:
    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class Rebuilt:
    """A tensor that repeats one number of a storage."""

    def __init__(self, storage: Storage, shape: tuple[int, ...]) -> None:
        self.arguments = storage, 0, shape, (0,) * len(shape)

    def __reduce__(self):
        return _rebuild, self.arguments


def _rebuild(*_: object) -> None: ...


def torch_file(path: Path, tensors: dict[str, Rebuilt], keys: list[str]) -> Path:
    """A file that names torch's functions, which need not be installed, and whose storages are empty."""

    class Pickler(pickle._Pickler):  # the one in Python, whose way of writing names can be changed
        def persistent_id(self, thing: object) -> object:
            return ("storage", Float, thing.key, "cpu", thing.count, None) if isinstance(thing, Storage) else None

        def save_global(self, obj: object, name: str | None = None) -> None:
            named = {_rebuild: b"ctorch._utils\n_rebuild_tensor_v2\n", Float: b"ctorch\nFloatStorage\n"}
            self.write(named[obj])

        dispatch = pickle._Pickler.dispatch | {type: save_global, type(_rebuild): save_global}

    class Float: ...

    with open(path, "wb") as file:
        file.write(HEADER)
        Pickler(file, 2).dump(tensors)
        pickle.dump(keys, file, 2)
        for _ in keys:
            file.write(struct.pack("<q", 1) + bytes(4))
    return path


def test_tensors_that_would_be_far_larger_than_the_file_are_refused(tmp_path: Path):
    path = torch_file(tmp_path / "x.pth", {"a": Rebuilt(Storage("0", 1), (10,))}, ["0"])
    np.testing.assert_array_equal(read_torch_file(path)["a"], np.zeros(10))
    torch_file(path, {"a": Rebuilt(Storage("0", 1), (10**6, 10**6))}, ["0"])
    with pytest.raises(WeightsError, match="^x.pth: holds tensors that together are larger than 20 times the file.$"):
        read_torch_file(path)
    many = {str(i): Rebuilt(Storage(str(i), 200), (1,)) for i in range(20)}
    with pytest.raises(WeightsError, match="^x.pth: holds storages that together are larger than the file.$"):
        read_torch_file(torch_file(path, many, [str(i) for i in range(20)]))


def test_a_memo_of_billions_of_places_is_refused(tmp_path: Path):
    (tmp_path / "x.pth").write_bytes(HEADER + b"\x80\x02}r" + struct.pack("<I", 2**31) + b".")
    with pytest.raises(WeightsError, match=f"^x.pth: names place {2**31} of a memo; {2**20} are read at most.$"):
        read_torch_file(tmp_path / "x.pth")


@pytest.mark.parametrize("data", [
    b"",
    b"PK\x03\x04 the zip format of newer PyTorch",
    HEADER + pickle.dumps(OrderedDict(), 2),
    HEADER + pickle.dumps([1, 2], 2) + pickle.dumps([], 2),
    HEADER + pickle.dumps({}, 2) + pickle.dumps(["7"], 2) + struct.pack("<q", 3),
])  # fmt: skip
def test_other_content_is_refused_in_one_line(tmp_path: Path, data: bytes):
    (tmp_path / "other.pth").write_bytes(data)
    with pytest.raises(WeightsError, match=r"^other.pth"):
        read_torch_file(tmp_path / "other.pth")
