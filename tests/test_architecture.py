"""Rules that hold for the whole tree: who imports whom, and what starts without TensorFlow."""

import sys
from pathlib import Path

import pytest

from structure import ROOMS, ROOT, count_any, cycles, glue, graph, imports, largest_folder, modules
from support import run_process


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_down_the_ladder(room: str):
    above = ROOMS[ROOMS.index(room) + 1 :]
    for name, others in graph().items():
        if name.split(".")[1] == room:
            assert not [other for other in others if other.split(".")[1] in above], name


def test_no_files_import_each_other():
    assert cycles(graph()) == []


def test_no_folder_and_no_file_grows_past_what_one_reads_at_a_glance():
    assert largest_folder("heads")[1] <= 12
    command_line = (ROOT / "cli.py").read_text()
    assert len(command_line.splitlines()) <= 48 * command_line.count("\n@_command(")
    assert count_any("heads") <= 120


def test_nobody_outside_the_library_builds_what_fine_tune_or_export_need():
    assert glue() == []


def test_the_feature_file_needs_numpy_and_h5py_alone():
    for name in modules():
        if name.startswith("onepass.features"):
            others = {module.split(".")[0] for module, _ in imports(name)}
            others -= {"pandas"}  # only where somebody asks for a data frame
            assert others - sys.stdlib_module_names <= {"onepass", "numpy", "h5py"}, name


def test_no_pickle_and_no_lambda_layer():
    for name, path in modules().items():
        if path.name != "torch_file.py":  # which reads pickles with a list of two names
            assert "pickle" not in {module for module, _ in imports(name)}, name
            assert "Lambda(" not in path.read_text(), name


LIGHT = """
import sys
sys.argv = {argv!r}
from onepass import cli
try:
    getattr(cli, {entry!r})()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = [name for name in ("tensorflow", "keras", "sklearn") if name in sys.modules]
print("heavy:", heavy, file=sys.stderr)
"""


def heavy_after(entry: str, *argv: str, cwd: Path, **environment: str) -> str:
    done = run_process("python", "-c", LIGHT.format(argv=["x", *argv], entry=entry), cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_light_commands_never_import_tensorflow(tmp_path: Path, tiny_backbone, make_folder):
    from onepass.extract.one_pass.run import run_extraction

    data = make_folder({"cats": 12, "dogs": 12})
    run_extraction(data, tiny_backbone, out=tmp_path / "f.h5")
    image = str(data / "cats" / "0.png")

    assert heavy_after("onepass_program", "--help", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "--version", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "cache", cwd=tmp_path) == "heavy: []"
    completing = {"_ONEPASS_COMPLETE": "complete_bash", "COMP_WORDS": "onepass tra", "COMP_CWORD": "1"}
    assert heavy_after("onepass_program", cwd=tmp_path, **completing) == "heavy: []"
    assert heavy_after("extract_program", "--help", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "backbones", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "info", "f.h5", cwd=tmp_path) == "heavy: []"
    assert heavy_after("train_head_program", "--head", "svm", cwd=tmp_path) == "heavy: ['sklearn']"
    assert heavy_after("onepass_program", "info", "f.svm.head", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "predict", "f.svm.head", image, cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "explain", "f.svm.head", image, "--out", "why", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "show", "f.h5", "--out", "sheet.png", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "evaluate", "f.svm.head", "f.h5", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "evaluate", "f.svm.head", str(data), cwd=tmp_path) == "heavy: []"
