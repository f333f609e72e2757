import importlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from onepass.extract import doctor, machine, versions
from onepass.extract.doctor import PACKAGES, WEIGHTS, Diagnosis, Finding
from onepass.extract.machine import usable_cores

NAMES = ["processor", "cores", "memory", "engine", "precision", "disk here", "disk of the cache", "cache"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float]]:
    """Requests that were made; none is sent, and all fail."""
    made: list[tuple[str, str, float]] = []

    def refuse(request: urllib.request.Request, *, timeout: float) -> None:
        made.append((request.get_method(), request.full_url, timeout))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return made


def found(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {one.name: one for one in diagnosis.findings}


def test_everything_that_matters_is_looked_at(asked: list):
    diagnosis = doctor()
    names = [one.name for one in diagnosis.findings if one.name != "GPU"]
    assert names[: len(NAMES)] == NAMES
    optional = (
        "datasets",
        "dicom",
        "docs",
        "heic",
        "int8",
        "intel",
        "kerashub",
        "lite",
        "onnx",
        "parquet",
        "remote",
        "tensorboard",
        "tfds",
        "tflite",
        "torch",
        "umap",
        "video",
    )
    extras = [f"extra {name}" for name in optional]
    assert names[len(NAMES) :] == [PACKAGES[0], "Python", *PACKAGES[1:], *extras, "weights"]
    assert found(diagnosis)["processor"].value.startswith(machine()["processor"])
    assert found(diagnosis)["onepass"].value == versions().versions["onepass"]


def test_one_request_is_made_and_offline_none(asked: list):
    weights = found(doctor())["weights"]
    assert asked == [("HEAD", WEIGHTS, 3.0)]
    assert weights.works
    assert weights.told() == (
        "storage.googleapis.com cannot be reached: no network. Use the bundled backbone, a file of weights, or put "
        "Keras's download into ~/.keras/models."
    )
    asked.clear()
    assert found(doctor(offline=True))["weights"].told() == "not looked for"
    assert asked == []


def test_a_missing_package_is_a_fault_and_a_missing_extra_is_not(monkeypatch: pytest.MonkeyPatch, asked: list):
    import importlib.metadata

    known = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("h5py", "pyarrow"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0" if name == "keras" else known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    diagnosis = doctor(offline=True)
    assert not diagnosis.healthy
    assert found(diagnosis)["h5py"] == Finding("h5py", "not installed", False, "Run: pip install h5py")
    assert found(diagnosis)["extra parquet"].told() == (
        'not installed: pyarrow. If you need it, run: pip install "onepass[parquet]"'
    )
    assert found(diagnosis)["keras"].value.startswith("0.0; tested with 3.")
    assert str(diagnosis).splitlines()[-1] == "will not work: h5py"


def test_a_cache_that_may_not_be_written_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list):
    monkeypatch.setenv("ONEPASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    cache = found(doctor(offline=True))["cache"]
    assert cache == Finding(
        "cache",
        f"{tmp_path / 'cache'}, 0 MB, which may not be written",
        False,
        "Set ONEPASS_CACHE to a folder that can be written.",
    )
    assert not (tmp_path / "cache").exists()


def test_no_line_is_wide_and_the_record_holds_all(asked: list):
    diagnosis = doctor(offline=True)
    assert max(map(len, str(diagnosis).splitlines())) <= 80 or " " not in max(str(diagnosis).split(), key=len)
    assert diagnosis.record()["healthy"] is diagnosis.healthy
    assert len(diagnosis.record()["findings"]) == len(diagnosis.findings)


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    module = importlib.import_module("onepass.extract.machine")

    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == 8
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert usable_cores() == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == 8
