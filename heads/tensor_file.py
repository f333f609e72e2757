"""Arrays and facts in one safetensors file, guarded by a SHA-256 over both."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from onepass.features.tables import Record

_FACTS, _DIGEST = "onepass", "sha256"


@dataclass(frozen=True, eq=False)
class TensorFile:
    """What such a file holds.

    Attributes:
        facts: As JSON gave them; None if the file is of somebody else.
        arrays: By name.
        guarded: Whether the file has a checksum, which then holds; files of onepass 0.1 have none.
    """

    facts: Record | None
    arrays: dict[str, np.ndarray]
    guarded: bool


def tensor_bytes(facts: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of such a file, the same for the same facts and arrays."""
    text, stored = json.dumps(facts), {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return _in_order(save(stored, {_FACTS: text, _DIGEST: _digest(text, stored)}))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the entries of its header sorted, which come in another order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_tensors(path: Path) -> TensorFile:
    """Reads such a file, checked as a whole before any of it is believed.

    Raises:
        OSError, SafetensorError: It is not there, or no safetensors file.
        ValueError, TypeError: It is damaged.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    text, digest = metadata.get(_FACTS), metadata.get(_DIGEST)
    if text is None and digest is None:
        return TensorFile(None, arrays, guarded=False)
    if text is None or metadata.keys() - {_FACTS, _DIGEST}:
        raise ValueError(f"its metadata are {', '.join(sorted(metadata))}")
    if digest is not None and digest != _digest(text, arrays):
        raise ValueError("its bytes do not match their checksum")
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise TypeError(f"its facts are a {type(facts).__name__}")
    return TensorFile(facts, arrays, guarded=digest is not None)


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256, hexadecimal, of facts and of the name, type, shape and bytes of each array."""
    digest = hashlib.sha256(json.dumps(text).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{json.dumps(name)} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
