"""The examples of docs/serving.md, run as they stand on exported models."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from onepass.extract import read_image
from support import picture, run_process, run_program, write_folder

TEXT = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
EXAMPLES = dict(re.findall(r"```python title=\"(\w+)\"\n(.*?)```", TEXT, re.DOTALL))
FORMATS = ["keras", "h5", "savedmodel", "bytes", "onnx", "openvino", "tflite"]
HEAD = "photos.efficientnet_lite0.logreg.head"


def export_command(to: str) -> list[str]:
    options = ["savedmodel", "--bytes", "--out", "with_bytes"] if to == "bytes" else [to]
    return ["onepass", "export", HEAD, "--to", *options]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    write_folder(tmp_path / "photos", {"cats": 24, "dogs": 24})
    picture(np.random.default_rng(5), size=(700, 460)).save(tmp_path / "new.jpg")
    for command in (["extract", "photos"], ["train-head"], *map(export_command, FORMATS)):
        done = run_program(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.mark.slow
def test_the_examples_name_what_predict_names(served: Path):
    code = EXAMPLES["pixels"] + "".join(EXAMPLES[to] for to in FORMATS)
    done = run_process("python", "-c", code, cwd=served)
    assert done.returncode == 0, done.stderr
    told = run_program("onepass", "predict", HEAD, "new.jpg", "--json", cwd=served)
    (wanted,) = json.loads(told.stdout)["predictions"]
    answers = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in answers] == [wanted["class"]] * len(FORMATS)
    for _, probability in answers:
        assert abs(float(probability) - wanted["probability"]) < 0.01


def test_the_pixels_are_those_of_extract(tmp_path: Path):
    space: dict = {}
    exec(EXAMPLES["pixels"], space)
    for name, size in (("large.jpg", (700, 460)), ("portrait.png", (230, 400)), ("small.jpg", (150, 300))):
        picture(np.random.default_rng(5), size=size).save(tmp_path / name)
        wanted = read_image(tmp_path / name, image_size=224, resize="squash")
        np.testing.assert_array_equal(space["pixels_of"](tmp_path / name)[0], wanted)


def test_every_format_has_a_short_example():
    assert set(EXAMPLES) == {"pixels", *FORMATS}
    assert all(len(code.splitlines()) <= 11 for code in EXAMPLES.values())
