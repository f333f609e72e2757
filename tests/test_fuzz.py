"""Damaged files of every format: a clear error or a correct load, never a traceback, a hang or much memory."""

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from onepass.heads import train_head
from onepass.heads.export.certificate import Certificate, Latency
from support import make_spec, run_process

COUNT = int(os.environ.get("ONEPASS_FUZZ", "400"))
"""Mutations per format; `make fuzz` takes 10,000."""

_AT_ONCE = 500


def certificate() -> Certificate:
    expected = np.full((12, 3), 1 / 3).round(6).tolist()
    facts = {
        "to": "onnx",
        "precision": "float32",
        "takes": "images",
        "files": {"model.onnx": "ab" * 32},
        "head": "photos.logreg.head, logreg",
        "spec": "resnet50 imagenet 224 px",
        "images": [f"{i:064x}" for i in range(12)],
        "measured_on": "test",
        "labels": [0, 1, 2] * 4,
        "expected": expected,
        "largest": 1e-6,
        "flips": 0,
        "max_flips": 0,
        "accuracy": 0.9,
        "interval": [0.8, 0.95],
        "before": 0.9,
        "latency": [Latency(1, 3.5, 5), Latency(32, 80.0, 5)],
        "decode": "rgb-exif-white-hamming-2",
        "resize": "squash",
        "image_size": 224,
        "class_names": ["ant", "bee", "fly"],
        "versions": {"onepass": "0.1.0"},
        "machine": {"processor": "x", "cores": 2},
    }
    return Certificate(**facts)


def facts_of_a_model() -> dict:
    """What a whole model says of itself; Keras's own part is left to Keras and its safe mode."""
    return {
        "class_names": ["ant", "bee"],
        "spec": asdict(make_spec()),
        "logits": "dense_1",
        "plan": {"seed": 0},
        "report": {"measured_on": "test", "n": 30, "kept": "fine-tuned", "after": [0.9, [0.8, 0.95]]},
        "trained_on": {"data": "photos"},
        "seen": "0011223344556677" * 3,
    }


@pytest.fixture
def originals(tmp_path: Path, feature_file: Path) -> dict[str, Path]:
    certificate().write(tmp_path / "x.certificate.json")
    head = train_head(feature_file, head="logreg", out=tmp_path / "x.head").head
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("onepass.json", json.dumps(facts_of_a_model()))
    return {
        "features": feature_file,
        "head": head.path,
        "certificate": tmp_path / "x.certificate.json",
        "model": tmp_path / "x.keras",
    }


@pytest.mark.parametrize("kind", ["head", "features", "certificate", "model"])
def test_a_damaged_file_is_an_error_or_loads_correctly(kind: str, originals: dict[str, Path]):
    script = str(Path(__file__).with_name("fuzzing.py"))
    for start in range(0, COUNT, _AT_ONCE):
        count = min(_AT_ONCE, COUNT - start)
        done = run_process(
            "python", script, kind, str(originals[kind]), str(start), str(count), cwd=originals[kind].parent
        )
        last = (done.stdout.splitlines() or ["nothing"])[-1]
        assert done.returncode == 0, f"mutation {last} of {kind} ended with {done.returncode}\n{done.stderr}"
        assert last.startswith("opened ")
