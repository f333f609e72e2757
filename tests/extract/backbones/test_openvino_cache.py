import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from onepass.extract.backbones import openvino_cache as compiled
from onepass.extract.backbones.openvino_cache import CompiledBackbone
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
