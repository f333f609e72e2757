"""docs/sharing.md: every example runs, in its order, and prints what it shows."""

import json
import re
import shlex
from pathlib import Path

from support import run_program, write_folder

TEXT = (Path(__file__).parents[1] / "docs" / "sharing.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", TEXT, re.MULTILINE)


def corrected(tasks: Path, export: Path) -> None:
    """What Label Studio exports after somebody has agreed with all labels but one."""
    exported = []
    for number, task in enumerate(json.loads(tasks.read_text()), 1):
        (result,) = task["predictions"][-1]["result"]
        if number == 1:
            result = {**result, "value": {"choices": ["dogs"]}}
        annotation = {"id": number, "result": [result], "was_cancelled": False, "ground_truth": False}
        exported.append({"id": number, **task, "annotations": [annotation]})
    export.write_text(json.dumps(exported))


def test_every_example_prints_what_it_shows(tmp_path: Path, tiny_file: Path):
    write_folder(tmp_path / "photos", {"cats": 12, "dogs": 12})
    write_folder(tmp_path / "later", {"cats": 12, "dogs": 12}, seed=1)
    (tmp_path / "tiny.keras").write_bytes(tiny_file.read_bytes())
    assert len(COMMANDS) > 6
    for command, shown in COMMANDS:
        if "export.json" in command:
            corrected(tmp_path / "studio" / "tasks.json", tmp_path / "export.json")
        done = run_program(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(shown.rstrip("\n")), (command, done.stdout)
