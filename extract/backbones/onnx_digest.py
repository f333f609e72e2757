"""What an ONNX file computes, as a hash: its weights and its graph, not who wrote it, when, and with which comments."""

import hashlib
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from onepass.features.errors import BackboneError

# Numbers of fields, from onnx.proto3 (https://github.com/onnx/onnx). The format is frozen: numbers are never reused.
_IR_VERSION, _GRAPH, _OPSETS, _FUNCTIONS = 1, 7, 8, 25  # of a model
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15  # of a graph
_NODE_KEPT = (1, 2, 4, 5, 7)  # of a node: input, output, op_type, attribute, domain; not its name and comments
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14  # of a tensor
_TYPED = (4, 5, 6, 7, 10, 11)  # of a tensor: its values, if they are not raw

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def onnx_digest(path: Path) -> str:
    """SHA-256, hexadecimal, over the sorted weights of an ONNX file and its graph; weights in other files count.

    Raises:
        BackboneError: It is no ONNX file, is cut off, or a file of its weights is missing.
    """
    try:
        with open(path, "rb") as file:
            # Not closed here: where something is refused, its traceback still holds parts of the map.
            return _digest(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), path.parent)
    except (OSError, ValueError, IndexError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = "it is cut off" if isinstance(error, IndexError) else reason.lower()
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename not in (None, str(path)) else ""
        raise BackboneError(
            f"{path} cannot be read as an ONNX model: {reason}{where}. Export it again, with its external data beside "
            "it."
        ) from None


def _digest(model: memoryview, folder: Path) -> str:
    whole, weights, graphs = hashlib.sha256(), [], 0
    with model:
        for number, value in _fields(model):
            if number == _GRAPH:
                graphs += 1
                for part, content in _fields(value):
                    if part == _INITIALIZER:
                        weights.append(_tensor(content, folder))
                    elif part == _NODE:
                        _add(whole, part, b"".join(_kept(content)))
                    elif part in (_INPUT, _OUTPUT, _SPARSE):
                        _add(whole, part, bytes(content))
            elif number in (_IR_VERSION, _OPSETS, _FUNCTIONS):
                _add(whole, 100 + number, bytes(value))
    if graphs != 1:
        raise ValueError("it holds no graph")
    for one in sorted(weights):
        whole.update(one)
    return whole.hexdigest()


def _add(whole: "hashlib._Hash", number: int, content: bytes) -> None:
    whole.update(struct.pack("<IQ", number, len(content)))
    whole.update(content)


def _kept(node: memoryview) -> Iterator[bytes]:
    for number, value in _fields(node):
        if number in _NODE_KEPT:
            yield struct.pack("<IQ", number, len(value)) + bytes(value)


def _tensor(tensor: memoryview, folder: Path) -> bytes:
    """Name, type, shape and hash of the values of a weight."""
    name, kind, dims, external, outside = b"", b"", b"", {}, False
    values = hashlib.sha256()
    for number, value in _fields(tensor):
        if number == _TENSOR_NAME:
            name = bytes(value)
        elif number == _DATA_TYPE:
            kind = bytes(value)
        elif number == _DIMS:
            dims += bytes(value) + b","
        elif number == _RAW or number in _TYPED:
            values.update(value)
        elif number == _EXTERNAL:
            entry = {key: bytes(text).decode() for key, text in _fields(value)}
            external[entry.get(1, "")] = entry.get(2, "")
        elif number == _LOCATION:
            outside = bytes(value) == b"\x01"
    if outside:
        _update_from_file(values, folder, external)
    return b"\0".join((name, kind, dims, values.digest()))


def _update_from_file(values: "hashlib._Hash", folder: Path, external: dict[str, str]) -> None:
    place = (folder / external["location"]) if external.get("location") else folder
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"its weights lie outside its folder, in {external['location']}")
    with open(place, "rb") as file:
        file.seek(_size(external, "offset"))
        left = _size(external, "length") or place.stat().st_size
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            values.update(piece)
            left -= len(piece)
        if left > 0 and external.get("length"):
            raise ValueError(f"{place.name} is shorter than the model says")


def _size(external: dict[str, str], name: str) -> int:
    """A number of bytes of an entry on external data; 0 where it has none."""
    text = external.get(name) or "0"
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise ValueError(f"the {name} of its external data is {text[:40]}")
    return int(text)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; a varint's content is its bytes.

    Raises:
        ValueError: It is none.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        start = place
        if wire == _VARINT:
            _, place = _varint(message, place)
        elif wire == _BYTES:
            length, start = _varint(message, place)
            place = start + length
        elif wire in (_FIXED32, _FIXED64):
            place += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError("it is no protobuf message")
        if place > len(message) or not number:
            raise ValueError("it is cut off or no protobuf message")
        yield number, message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it is no protobuf message")
