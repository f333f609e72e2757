"""Rules that hold for the whole tree: who imports whom, and what starts without TensorFlow."""

import ast
from pathlib import Path

import pytest
from conftest import run_program

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"features": {"features"}, "extract": {"extract", "features"}, "heads": {"heads", "features"}}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str):
    for path in (ROOT / package).rglob("*.py"):
        ours = imported(path) & {"features", "extract", "heads", "cli"}
        assert ours <= MAY_IMPORT[package], path


def test_the_feature_file_needs_numpy_and_h5py_alone():
    standard = __import__("sys").stdlib_module_names
    for path in (ROOT / "features").glob("*.py"):
        assert imported(path) - standard <= {"features", "numpy", "h5py"}, path


def test_no_pickle_and_no_lambda_layer():
    for path in [*(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")), ROOT / "cli.py"]:
        if path.name != "torch_file.py":  # which reads pickles with a list of two names
            assert "pickle" not in imported(path), path
            assert "Lambda(" not in path.read_text(), path


LIGHT = """
import sys
sys.argv = {argv!r}
import cli
try:
    getattr(cli, {entry!r})()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = [name for name in ("tensorflow", "keras", "sklearn") if name in sys.modules]
print("heavy:", heavy, file=sys.stderr)
"""


def heavy_after(entry: str, *argv: str, cwd: Path) -> str:
    done = run_program("python", "-c", LIGHT.format(argv=["x", *argv], entry=entry), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_light_commands_never_import_tensorflow(tmp_path: Path, tiny_backbone, make_folder):
    from extract.run import run_extraction

    data = make_folder({"cats": 12, "dogs": 12})
    run_extraction(data, tiny_backbone, out=tmp_path / "f.h5")
    image = str(data / "cats" / "0.png")

    assert heavy_after("onepass_program", "--help", cwd=tmp_path) == "heavy: []"
    assert heavy_after("extract_program", "--help", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "backbones", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "info", "f.h5", cwd=tmp_path) == "heavy: []"
    assert heavy_after("train_head_program", "--head", "svm", cwd=tmp_path) == "heavy: ['sklearn']"
    assert heavy_after("onepass_program", "info", "f.svm.head", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "predict", "f.svm.head", image, cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "evaluate", "f.svm.head", "f.h5", cwd=tmp_path) == "heavy: []"
    assert heavy_after("onepass_program", "evaluate", "f.svm.head", str(data), cwd=tmp_path) == "heavy: []"
