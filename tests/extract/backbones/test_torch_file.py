import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from onepass.extract.backbones.efficientnet_lite import bundled_file
from onepass.extract.backbones.torch_file import read_torch_file
from onepass.features.errors import WeightsError

HEADER = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def test_the_bundled_weights_are_those_of_efficientnet_lite0():
    tensors = read_torch_file(bundled_file())
    trained = {name: a for name, a in tensors.items() if "running" not in name and "num_batches" not in name}
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].shape == (1000, 1280)
    # 4.65 million parameters are published for Lite0.
    assert sum(a.size for a in trained.values()) == 4_652_008
    assert all(np.isfinite(a).all() for a in tensors.values())


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
    (tmp_path / "cut.pth").write_bytes(bundled_file().read_bytes()[:keep])
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
