import json
import os
import re
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from platformdirs import user_cache_path

from onepass.extract import load_backbone
from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.engines import OpenVINOEngine, _capabilities
from onepass.extract.backbones.openvino_cache import CompiledBackbone
from onepass.extract.frameworks import import_openvino
from onepass.features.errors import OnepassWarning
from support import PATIENCE


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path))
    return tmp_path


def write(graph: Path) -> CompiledBackbone:
    graph.write_text("<net/>")
    graph.with_suffix(".bin").write_bytes(b"weights")
    return CompiledBackbone(Path(), "tiny", "ab" * 32, 32, "avg", 8)


def leave(cache: Path, name: str, *, days: float = 0.0) -> Path:
    left = cache / name
    (left / "key").mkdir(parents=True)
    (left / "key" / "model.xml").write_text("half")
    then = time.time() - days * 24 * 3600
    os.utime(left, (then, then))
    return left


def process_that_ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait(timeout=PATIENCE)
    return process.pid


def test_without_a_chosen_place_the_cache_lies_where_the_system_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ONEPASS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder() in (tmp_path / "onepass", user_cache_path("onepass"))


def test_an_entry_is_found_by_key_and_by_facts(cache: Path):
    stored = compiled.store("key", write)
    assert stored.folder == cache / "key"
    assert compiled.find_by_key("key") == stored
    assert compiled.find_by_facts("tiny", "ab" * 32, 32, "avg", pixels="uint8") == stored
    assert compiled.find_by_facts("tiny", "ab" * 32, 32, "avg", pixels="uint8", calibration="1234") is None


def test_what_a_killed_process_left_is_removed(cache: Path):
    host = socket.gethostname()
    ended = leave(cache, f".new-{host}-{process_that_ended()}-abc")
    old = leave(cache, ".new-elsewhere-1-abc", days=1.1)
    compiled.store("key", write)
    assert not ended.exists()
    assert not old.exists()
    assert [entry.name for entry in cache.iterdir()] == ["key"]


def test_what_others_are_still_writing_is_kept(cache: Path):
    alive = leave(cache, f".new-{socket.gethostname()}-{os.getppid()}-abc")
    elsewhere = leave(cache, f".new-elsewhere-{process_that_ended()}-abc", days=0.9)
    compiled.store("key", write)
    assert alive.exists()
    assert elsewhere.exists()


def test_a_crash_half_way_leaves_nothing(cache: Path):
    def crash(graph: Path) -> CompiledBackbone:
        write(graph)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compiled.store("key", crash)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "backbone.json"])
def test_a_damaged_entry_is_told_once_removed_and_made_again(cache: Path, name: str):
    stored = compiled.store("key", write)
    damage(stored.folder / name)
    message = (
        f"the converted backbone in {re.escape(str(stored.folder))} is damaged: {name} does not match its checksum. It "
        "is not used, and is made again where its weights are at hand.$"
    )
    with pytest.warns(OnepassWarning, match=message):
        assert compiled.find_by_key("key") is None
    assert compiled.find_by_key("key") is None
    assert compiled.store("key", write) == compiled.find_by_key("key") == stored


def test_another_entry_stands_in_for_a_damaged_one(cache: Path):
    first, second = compiled.store("a", write), compiled.store("b", write)
    damage(first.graph)
    with pytest.warns(OnepassWarning, match="is damaged: model.xml does not match its checksum"):
        assert compiled.find_by_facts("tiny", "ab" * 32, 32, "avg", pixels="uint8") == second


def test_only_the_entry_that_is_chosen_is_read_whole(cache: Path, monkeypatch: pytest.MonkeyPatch):
    for key, size in (("a", 32), ("b", 64), ("c", 96)):
        compiled.store(
            key, lambda graph, size=size: CompiledBackbone(Path(), "tiny", "ab" * 32, size, "avg", write(graph).width)
        )
    read: list[Path] = []
    digest = compiled.file_digest
    monkeypatch.setattr(compiled, "file_digest", lambda path: (read.append(path), digest(path))[1])
    assert compiled.find_by_facts("tiny", "ab" * 32, 64, "avg", pixels="uint8")
    assert {path.parent.name for path in read} == {"b"}


def test_an_entry_without_hashes_is_left_out(cache: Path):
    facts = cache / "key" / "backbone.json"
    compiled.store("key", write)
    old = {name: value for name, value in json.loads(facts.read_text()).items() if name not in ("sha256", "hashes")}
    facts.write_text(json.dumps(old | {"sizes": {"model.xml": 6, "model.bin": 7}}))
    assert compiled.find_by_key("key") is None
    assert compiled.find_by_facts("tiny", "ab" * 32, 32, "avg", pixels="uint8") is None
    assert compiled.store("key", write)


def test_a_backbone_whose_converted_weights_are_damaged_gives_the_same_rows(
    cache: Path, tiny_file: Path, rng: np.random.Generator
):
    images = [rng.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(3)]
    before = load_backbone(str(tiny_file)).rows_of(images)
    (weights,) = cache.glob("*/model.bin")
    damage(weights)

    with pytest.warns(OnepassWarning, match="is damaged: model.bin does not match its checksum"):
        again = load_backbone(str(tiny_file))

    np.testing.assert_array_equal(again.rows_of(images), before)
    np.testing.assert_array_equal(load_backbone(str(tiny_file)).rows_of(images), before)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_the_first_two_convolutions_on_the_way_stay_in_float32_and_no_shortcut_does(
    tmp_path: Path, rng: np.random.Generator
):
    graph = residual_graph(tmp_path / "residual.xml", rng)
    compiled.keep_stem_precise(graph)
    assert compiled.stem(graph) == ["first", "reduce"]
    precisions = ["float32", "bfloat16"] if "BF16" in _capabilities(import_openvino().Core()) else ["float32"]
    images = [(0, rng.integers(0, 256, (32, 32, 3), np.uint8))]
    for precision in precisions:  # OpenVINO refuses to add a shortcut in float32 to a convolution in bfloat16
        ((_, row),) = OpenVINOEngine(graph, image_size=32, precision=precision).run(images)
        assert row.shape == (64,)


def residual_graph(path: Path, rng: np.random.Generator) -> Path:
    """The beginning of a ResNet: a convolution, then a block whose shortcut is one, too, and comes first."""
    ov = import_openvino()
    ops = ov.opset13

    def convolution(x, name: str, inputs: int, outputs: int):
        kernel = rng.normal(size=(outputs, inputs, 1, 1)).astype(np.float32) / 8
        found = ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1], name=name)
        return ops.add(found, rng.normal(size=(1, outputs, 1, 1)).astype(np.float32))

    images = ops.parameter([1, 32, 32, 3], np.uint8)
    x = ops.transpose(ops.convert(images, "f32"), [0, 3, 1, 2])
    x = ops.relu(convolution(x, "first", 3, 64))
    shortcut = convolution(x, "shortcut", 64, 64)
    x = ops.relu(convolution(x, "reduce", 64, 64))
    x = ops.relu(convolution(x, "middle", 64, 64))
    x = ops.relu(ops.add(shortcut, convolution(x, "expand", 64, 64)))
    x = ops.relu(convolution(x, "next", 64, 64))
    rows = ops.reduce_mean(x, np.array([2, 3]), False)
    ov.save_model(ov.Model([rows], [images]), path, compress_to_fp16=False)
    return path


def test_a_graph_of_an_earlier_meaning_is_not_taken_for_one_of_today(cache: Path, monkeypatch: pytest.MonkeyPatch):
    asked = ("tiny", "ab" * 32, 32, "avg")
    monkeypatch.setattr(compiled, "_LAYOUT", 2)
    compiled.store("old", write)
    calibrated = compiled.Quantisation("12ab", 5, 1.0, 0.99, 0.98, 5, 0.98)
    compiled.store("old-int8", lambda graph: replace(write(graph), quantisation=calibrated))
    assert compiled.find_by_facts(*asked, pixels="uint8") is not None
    key = compiled.cache_key("tiny", "file", 32, "avg", "uint8")

    monkeypatch.setattr(compiled, "_LAYOUT", 3)
    assert compiled.cache_key("tiny", "file", 32, "avg", "uint8") != key
    assert compiled.find_by_facts(*asked, pixels="uint8") is None
    kept = compiled.find_by_facts(*asked, pixels="uint8", calibration="12ab")
    assert kept is not None
    assert kept.folder == cache / "old-int8"
