"""Reads tensors from a PyTorch file of the old pickle format, without torch and without running it."""

import math
import os
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onepass.features.errors import WeightsError
from onepass.features.limits import RATIO

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LARGEST_MEMO = 2**20
_DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a state dict by name.

    A pickle may name any function to call while it is read. This reader knows two names, the
    ordered dictionary and the tensor constructor, and refuses the file at any other.

    Args:
        path: A `.pth` file as `torch.save` wrote it before version 1.6.

    Returns:
        name -> array, in the file's order.

    Raises:
        WeightsError: The file is of another format, names anything but tensors, or is cut short.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from None
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError,
            AttributeError, MemoryError, OverflowError) as error:  # fmt: skip
        raise WeightsError(f"{path.name} cannot be read as PyTorch weights: {error}.") from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    storages: dict[str, np.ndarray] = {}
    if _unpickled(file, storages) != _MAGIC or _unpickled(file, storages) != _PROTOCOL:
        raise WeightsError("not a PyTorch file of the old format (protocol 1001).")
    if not _unpickled(file, storages).get("little_endian"):
        raise WeightsError("written on a big-endian machine, which is not read here.")
    tensors, keys = _unpickled(file, storages), _unpickled(file, storages)
    if not isinstance(tensors, dict):
        raise WeightsError(f"holds a {type(tensors).__name__}; needed: a dictionary of tensors.")
    found = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, _Tensor)}
    size = os.fstat(file.fileno()).st_size
    if sum(one.nbytes for one in storages.values()) > size:
        raise WeightsError("holds storages that together are larger than the file.")
    if sum(one.nbytes for one in found.values()) > RATIO * size:  # several may share a storage, or repeat its numbers
        raise WeightsError(f"holds tensors that together are larger than {RATIO} times the file.")
    for key in keys:
        _fill(file, storages[key])
    return {name: tensor.array() for name, tensor in found.items()}


def _unpickled(file: BinaryIO, storages: dict[str, np.ndarray]) -> Any:
    """The next pickle of the file, looked through before: a place in its memo takes memory as soon as it is named."""
    start = file.tell()
    for code, value, _ in pickletools.genops(file):
        if "PUT" in code.name and isinstance(value, int) and value > _LARGEST_MEMO:
            raise WeightsError(f"names place {value} of a memo; {_LARGEST_MEMO} are read at most.")
    file.seek(start)
    return _Tensors(file, storages).load()


def _fill(file: BinaryIO, storage: np.ndarray) -> None:
    count = int.from_bytes(file.read(8), "little")
    if count != storage.size:
        raise WeightsError(f"a storage holds {count} numbers; its tensors need {storage.size}.")
    if file.readinto(storage.data) != storage.nbytes:  # type: ignore[attr-defined]
        raise WeightsError("the file ends in the middle of a tensor.")


class _Tensor:
    """A strided window on a storage; the storage is filled after all windows are known."""

    def __init__(self, storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> None:
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if offset < 0 or any(s < 0 for s in strides) or any(n < 1 for n in shape) or last >= storage.size:
            raise WeightsError("a tensor reaches outside its storage.")
        self._storage, self._offset, self._shape = storage, offset, shape
        self._strides = tuple(s * storage.itemsize for s in strides)

    @property
    def nbytes(self) -> int:
        return int(math.prod(self._shape)) * self._storage.itemsize

    def array(self) -> np.ndarray:
        window = np.lib.stride_tricks.as_strided(self._storage[self._offset :], self._shape, self._strides)
        return np.ascontiguousarray(window)


class _Tensors(pickle.Unpickler):
    """An unpickler that can build dictionaries, numbers, strings and tensors, and nothing else."""

    def __init__(self, file: BinaryIO, storages: dict[str, np.ndarray]) -> None:
        super().__init__(file)
        self._storages = storages
        self._file_size = os.fstat(file.fileno()).st_size

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise WeightsError(f"names {module}.{name}; only tensors are read, nothing else is loaded or run.")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage_type, key, _device, count, view = pid
        dtype: np.dtype[Any] = _DTYPES[storage_type]
        if kind != "storage" or view is not None or not 0 <= count * dtype.itemsize <= self._file_size:
            raise WeightsError("holds a storage of an unknown kind or larger than the file.")
        if key not in self._storages:
            self._storages[key] = np.empty(count, dtype)
        return self._storages[key]
