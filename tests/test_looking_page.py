"""docs/looking.md: every example runs, in its order, and prints what it shows."""

import contextlib
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from support import run_program, write_folder

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "looking.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", TEXT, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.slow
def test_every_example_runs_and_prints_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_folder(tmp_path / "photos", {"ants": 12, "bees": 12})
    assert len(COMMANDS) == 6
    for command, shown in COMMANDS:
        done = run_program(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(shown.rstrip("\n")), (command, done.stdout)
    for made in ("sheet.png", "why/0.png"):
        with Image.open(tmp_path / made) as drawn:
            assert drawn.mode == "RGB"
    assert (tmp_path / "confusions.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "heads.svg").is_file()
    capsys.readouterr()
    with contextlib.chdir(tmp_path):
        for code in PYTHON:
            exec(code, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "(4, 1, 224, 224, 3) ['0 ants', '0 ants', '1 bees', '1 bees']"
    assert re.fullmatch(r"(ants|bees) exact \(7, 7\)", second)
    assert {"bee.webp", "mine.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_times_stand_in_the_results():
    found = json.loads((ROOT / "benchmarks" / "results" / "explaining.json").read_text())
    for one in found["heads"]:
        cells = [one[name] for name in ("predict", "explain", "explain_with_pictures")]
        line = f"| {one['backbone']} | {one['method']} | " + " | ".join(f"{value:.1f}" for value in cells) + " |"
        assert line in TEXT
