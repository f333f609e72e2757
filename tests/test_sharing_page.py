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


def test_what_was_measured_on_photos_stands_in_the_results():
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "shift.json"
    found = json.loads(path.read_text())
    for case, one in found["cases"].items():
        new = one["accuracy"]["new"]
        there = f"{new['accuracy']:.3f}" if new else "no labels"
        accuracies = f"{there}, {one['accuracy']['held_out']['accuracy']:.3f}"
        estimated = f"{one['accuracy']['estimated']['accuracy']:.3f}"
        assert f"| {case} | {one['auc']:.1%}".replace("%", " %") in TEXT
        assert f"| {one['p']:.2g} | {accuracies} | {estimated} |" in TEXT
        assert not one["recentring"]["kept"]
    assert [one["called_shifted"] for one in found["dealt_at_random"].values()] == [8, 3]
    seeds = found["cats_dogs_validation_p_by_seed"]
    assert f"p lies between {min(seeds)} and {max(seeds)}" in TEXT
