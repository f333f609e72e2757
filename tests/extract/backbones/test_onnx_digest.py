"""The hash of an ONNX file: what counts, what does not, and files that lie or are damaged."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract.backbones.onnx_digest import onnx_digest
from onepass.features.errors import BackboneError
from tiny_onnx import Tiny

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")


def saved(model: Any, path: Path, **options: Any) -> Path:
    onnx.save(model, str(path), **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        onnx_digest(path)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read as an ONNX model: ")
    assert text.endswith(". Export it again, with its external data beside it.")
    return text.removeprefix(f"{path} cannot be read as an ONNX model: ").partition(". Export it again")[0]


def _other_producer(model: Any) -> None:
    model.producer_name, model.producer_version, model.doc_string = "somebody", "7", "exported on a Monday"
    model.graph.doc_string = "with love"


def _other_order(model: Any) -> None:
    weights = [type(one).FromString(one.SerializeToString()) for one in model.graph.initializer]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(reversed(weights))


def _other_comments(model: Any) -> None:
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"renamed_{number}", "at line 12"
    entry = model.metadata_props.add()
    entry.key, entry.value = "epoch", "9"


@pytest.mark.parametrize("change", [_other_producer, _other_order, _other_comments])
def test_who_wrote_a_file_and_how_does_not_count(change: Callable[[Any], None], tmp_path: Path):
    model = Tiny().model()
    before = onnx_digest(saved(model, tmp_path / "before.onnx"))
    change(model)
    after = saved(model, tmp_path / "after.onnx")
    assert after.read_bytes() != (tmp_path / "before.onnx").read_bytes()
    assert onnx_digest(after) == before


def test_weights_in_a_file_of_their_own_count_as_those_inside(tmp_path: Path):
    inside = saved(Tiny().model(), tmp_path / "inside.onnx")
    outside = saved(
        Tiny().model(), tmp_path / "outside.onnx", save_as_external_data=True, location="w.data", size_threshold=0
    )
    assert (tmp_path / "w.data").stat().st_size > 0
    assert onnx_digest(outside) == onnx_digest(inside)
    values = bytearray((tmp_path / "w.data").read_bytes())
    values[3] ^= 1
    (tmp_path / "w.data").write_bytes(values)
    assert onnx_digest(outside) != onnx_digest(inside)


def _other_weight(model: Any) -> None:
    values = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    values.flat[7] = np.nextafter(values.flat[7], np.float32(9))
    model.graph.initializer[0].raw_data = values.tobytes()


def _other_attribute(model: Any) -> None:
    model.graph.node[0].attribute[1].ints[0] = 4


def _other_operation(model: Any) -> None:
    model.graph.node[1].op_type = "Sigmoid"


def _other_opset(model: Any) -> None:
    model.opset_import[0].version = 18


def _other_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 40


@pytest.mark.parametrize("change", [_other_weight, _other_attribute, _other_operation, _other_opset, _other_input])
def test_what_a_network_computes_counts(change: Callable[[Any], None], tmp_path: Path):
    model = Tiny().model()
    before = onnx_digest(saved(model, tmp_path / "model.onnx"))
    change(model)
    assert onnx_digest(saved(model, tmp_path / "model.onnx")) != before


def test_every_cut_of_a_file_is_refused_or_told_apart(tmp_path: Path):
    whole = saved(Tiny().model(), tmp_path / "model.onnx").read_bytes()
    known = onnx_digest(tmp_path / "model.onnx")
    for end in range(1, len(whole), 97):
        (tmp_path / "model.onnx").write_bytes(whole[:end])
        try:
            assert onnx_digest(tmp_path / "model.onnx") != known
        except BackboneError as error:
            assert "it is cut off" in str(error) or "no graph" in str(error) or "no protobuf" in str(error)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot mmap an empty file"),
        (b"\x89PNG\r\n\x1a\n and so on", "it is no protobuf message"),
        (b"\x08\x08", "it holds no graph"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00", "it is cut off or no protobuf message"),
        (b"\x3a\xff\xff\xff", "it is cut off"),
        (b"\xff" * 40, "it is no protobuf message"),
    ],
)
def test_files_that_are_no_models_are_refused_at_once(content: bytes, reason: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert refused(path) == reason


def test_a_missing_file_of_weights_is_named(tmp_path: Path):
    path = saved(
        Tiny().model(), tmp_path / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0
    )
    (tmp_path / "w.data").unlink()
    assert refused(path) == f"no such file or directory ({tmp_path / 'w.data'})"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("location", "../elsewhere.data", "its weights lie outside its folder, in ../elsewhere.data"),
        ("location", "/etc/hostname", "its weights lie outside its folder, in /etc/hostname"),
        ("length", "99999999999999", "w.data is shorter than the model says"),
        ("length", "-1", "the length of its external data is -1"),
        ("length", "9" * 400, f"the length of its external data is {'9' * 40}"),
        ("offset", "9" * 30, f"the offset of its external data is {'9' * 30}"),
        ("offset", "ten", "the offset of its external data is ten"),
    ],
)
def test_what_a_model_says_of_its_external_data_is_not_believed(key: str, value: str, reason: str, tmp_path: Path):
    (tmp_path / "elsewhere.data").write_bytes(bytes(4096))
    folder = tmp_path / "models"
    folder.mkdir()
    path = saved(Tiny().model(), folder / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    assert refused(path) == reason


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path):
    folder = tmp_path / "models"
    folder.mkdir()
    path = saved(Tiny().model(), folder / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (folder / "w.data").rename(tmp_path / "w.data")
    (folder / "w.data").symlink_to(tmp_path / "w.data")
    assert re.fullmatch("its weights lie outside its folder, in w.data", refused(path))
