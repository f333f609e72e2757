"""What a safetensors file holds, as a hash: its tensors, not who wrote them and in which order."""

import hashlib
import json
import mmap
from pathlib import Path

from onepass.features.errors import WeightsError

_LARGEST_HEADER = 100 * 2**20
"""Bytes; what the format's own library allows."""


def safetensors_digest(path: Path) -> str:
    """SHA-256, hexadecimal, over the sorted tensors of a safetensors file: names, types, shapes and values.

    Raises:
        WeightsError: It is no such file, or cut off.
    """
    try:
        with open(path, "rb") as file:
            # Not closed here: where something is refused, its traceback still holds parts of the map.
            return _digest(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise WeightsError(
            f"{path} cannot be read as a safetensors file: {reason}. Fetch or save it again.", path=path
        ) from None


def _digest(data: memoryview) -> str:
    length = int.from_bytes(data[:8], "little")
    if length > min(_LARGEST_HEADER, len(data) - 8):  # also of fewer than 8 bytes
        raise ValueError("it is cut off or has another format")
    header = json.loads(bytes(data[8 : 8 + length]))
    values, whole = data[8 + length :], hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        tensor = header[name]
        start, end = tensor["data_offsets"]
        if not 0 <= start <= end <= len(values):
            raise ValueError(f"{name} lies outside of it")
        whole.update(json.dumps([name, tensor["dtype"], tensor["shape"], end - start]).encode())
        whole.update(values[start:end])
    return whole.hexdigest()
