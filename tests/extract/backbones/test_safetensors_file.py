"""The hash of a safetensors file: its tensors count, their order and comments do not, and lying headers are refused."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from onepass.extract.backbones.safetensors_file import safetensors_digest
from onepass.features.errors import WeightsError


def written(path: Path, header: object, values: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def test_order_and_comments_do_not_count(tmp_path: Path, rng):
    one, two = rng.normal(size=(2, 3)).astype(np.float32), rng.integers(0, 9, 4)
    save_file({"a": one, "b": two}, tmp_path / "x.safetensors", {"by": "me"})
    first = {"dtype": "F32", "shape": [2, 3], "data_offsets": [32, 56]}
    second = {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]}
    other = written(tmp_path / "y.safetensors", {"b": second, "a": first}, two.tobytes() + one.tobytes())
    assert safetensors_digest(tmp_path / "x.safetensors") == safetensors_digest(other)


@pytest.mark.parametrize("change", [{"a": np.ones(3)}, {"b": np.zeros(3)}, {"a": np.zeros((3, 1))}])
def test_names_shapes_and_values_count(change: dict[str, np.ndarray], tmp_path: Path):
    save_file({"a": np.zeros(3)}, tmp_path / "x.safetensors")
    save_file(change, tmp_path / "y.safetensors")
    assert safetensors_digest(tmp_path / "x.safetensors") != safetensors_digest(tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot mmap an empty file"),
        (b"PK\x03", "it is cut off or has another format"),
        (b"\xff" * 16, "it is cut off or has another format"),
        (struct.pack("<Q", 60) + b"{}", "it is cut off or has another format"),
    ],
)
def test_files_that_are_none_are_refused_without_being_believed(content: bytes, reason: str, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    told = f"{path} cannot be read as a safetensors file: {reason}. Fetch or save it again."
    with pytest.raises(WeightsError, match=f"^{re.escape(told)}$"):
        safetensors_digest(path)


@pytest.mark.parametrize("place", [[0, 99], [-1, 4], [4, 2]])
def test_tensors_outside_the_file_are_refused(place: list[int], tmp_path: Path):
    path = written(tmp_path / "w.safetensors", {"a": {"dtype": "F32", "shape": [1], "data_offsets": place}}, b"1234")
    told = f"{path} cannot be read as a safetensors file: a lies outside of it. Fetch or save it again."
    with pytest.raises(WeightsError, match=f"^{re.escape(told)}$"):
        safetensors_digest(path)
    with pytest.raises(WeightsError, match=r"cannot be read as a safetensors file"):
        safetensors_digest(written(path, {"a": 3}))
    with pytest.raises(WeightsError, match=r"cannot be read as a safetensors file"):
        safetensors_digest(written(path, [1]))
