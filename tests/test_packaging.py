"""What is installed, and that it neither disturbs nor is disturbed by what else is there."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from structure import ROOMS, ROOT
from support import PATIENCE, run_process

NOT_INSTALLED = ("tests", "docs", "benchmarks")
FOREIGN = ("extract", "features", "heads", "cli")
"""Import names that belong to others, although folders here are called so."""


def test_every_folder_of_the_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [path.parent for room in ROOMS[:3] for path in (ROOT / room).rglob("__init__.py")]
    expected = {".".join(("onepass", *folder.relative_to(ROOT).parts)) for folder in folders} | {"onepass"}
    assert set(listed) == expected
    assert len(listed) == len(expected)


IMPORTED = """
import sys
import onepass
loaded = [name for name in ("numpy", "h5py", "keras", "sklearn", "tensorflow", "openvino") if name in sys.modules]
assert loaded == [], loaded
import onepass.cli
from onepass.extract import find_images
from onepass.features import FeatureFile
from onepass.heads import LogisticHead
for name in ("extract", "features", "heads", "cli"):
    assert name not in sys.modules, name
print("fine")
"""


def require_fine(folder: Path, **environment: str) -> None:
    done = run_process("python", "-c", IMPORTED, cwd=folder, **environment)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_importing_is_light_and_files_of_the_users_own_names_do_not_matter(tmp_path: Path):
    for name in ("features.py", "extract.py", "cli.py", "heads/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('the file of the user was imported')\n")
    require_fine(tmp_path)


def pip(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)
    if "No matching distribution" in done.stderr or "BackendUnavailable" in done.stderr:
        pytest.skip("building needs setuptools, from here or from the package index")
    assert done.returncode == 0, done.stderr


def wheel_of(source: Path, folder: Path) -> Path:
    """Builds a wheel with the setuptools that is here, or where that is too old with one from the package index."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        new_enough = int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        new_enough = False
    how = ["--no-build-isolation"] if new_enough else []
    pip("wheel", "--quiet", "--no-deps", *how, "--wheel-dir", str(folder), str(source), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The source, so that building leaves nothing in it."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "demo")
    return Path(shutil.copytree(ROOT, tmp_path / "source", ignore=ignored))


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_nothing_else(copied: Path, tmp_path: Path):
    (tmp_path / "wheels").mkdir()
    names = zipfile.ZipFile(wheel_of(copied, tmp_path / "wheels")).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"onepass", *(top for top in tops if top.endswith(".dist-info"))}
    assert len(tops) == 2
    inside = {name.removeprefix("onepass/") for name in names if name.startswith("onepass/")}
    assert not {name for name in inside if name.startswith(NOT_INSTALLED)}
    sources = [ROOT / name for name in ("__init__.py", "__init__.pyi", "__main__.py", "cli.py", "py.typed")]
    for room in ROOMS[:3]:
        sources += [path for ending in ("*.py", "*.pyi") for path in (ROOT / room).rglob(ending)]
    facts = {"features/FORMAT.md", "constraints.txt", "extract/backbones/reference_rows.json"}
    facts |= {"heads/report/page/page.css", "heads/report/page/page.js"}
    assert inside == {str(path.relative_to(ROOT)) for path in sources} | facts


@pytest.mark.slow
def test_a_distribution_that_owns_the_names_of_our_folders_does_not_matter(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "installed"
    for name in FOREIGN:
        (source / name).mkdir(parents=True)
        (source / name / "__init__.py").write_text("raise RuntimeError('the other distribution was imported')\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "owner-of-names"\nversion = "1"\n'
        f"[tool.setuptools]\npackages = {list(FOREIGN)}\n"
    )
    pip("install", "--quiet", "--no-deps", "--target", str(target), str(wheel_of(source, tmp_path)), cwd=tmp_path)
    assert {path.name for path in target.iterdir()} >= set(FOREIGN)
    require_fine(tmp_path, PYTHONPATH=os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
