"""Full disks and read-only folders: every command that writes says so, leaves nothing behind, and works with room.

A full disk is a limit on the size of files, which holds for everybody and for every library: what would grow beyond it
fails in the middle of a write.
"""

import contextlib
import hashlib
import importlib.util
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from onepass.features import FeatureFile
from support import PATIENCE, flip_bit, run_program, write_folder

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Writing:
    """A command that writes.

    Attributes:
        command: As typed.
        writes: The file of which it writes most.
        kept: Patterns of what it may leave where it fails, because the next run goes on with it.
        anew: Whether it makes a file, whose name its last word is; else it changes one that is there.
    """

    command: str
    writes: str
    kept: tuple[str, ...] = ()
    anew: bool = True

    def __str__(self) -> str:
        return self.command


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


LIGHT = [
    Writing("train-head photos.tiny.h5 --out new.head", "new.head"),
    Writing("compare-heads photos.tiny.h5 --heads ridge,centroid --csv c.csv", "c.csv", ("*.cells",)),
    Writing("compare-heads photos.tiny.h5 --heads ridge --save-best --out b.head", "b.head", ("*.cells",)),
    Writing("onepass label photos.tiny.h5 labels.csv --path file --label kind", "photos.tiny.h5", anew=False),
    Writing("onepass inspect photos.tiny.h5 --no-labels --csv f.csv", "f.csv"),
    Writing("onepass report photos.ridge.head --out r.html", "r.html"),
    Writing("onepass evaluate photos.ridge.head photos.tiny.h5 --plot e.png", "e.png"),
    Writing("onepass explain photos.ridge.head photos/cats --out why", "why/0.png"),
    Writing("onepass show photos --image-size 32 --count 4 --out s.png", "s.png"),
    Writing("onepass share photos.ridge.head --to projector --out shared", "shared/tensors.tsv"),
    Writing("onepass share photos.ridge.head --to fiftyone --out shared", "shared/samples.json"),
    Writing("onepass share photos.ridge.head --to label-studio --out shared", "shared/tasks.json"),
    Writing("onepass predict photos.ridge.head photos/cats --out p.csv", "p.csv"),
    Writing("onepass predict photos.ridge.head photos/cats --out p.json", "p.json"),
    Writing("onepass predict photos.ridge.head photos/cats --out p.jsonl", "p.jsonl"),
]
if _installed("pyarrow"):
    LIGHT.append(Writing("onepass predict photos.ridge.head photos/cats --out p.parquet", "p.parquet"))

TUNE = "fine-tune photos.ridge.head --unfreeze 3 --epochs 1 --keep always"
EXPORT = "onepass export photos.ridge.head"
HEAVY = [
    Writing("extract photos --backbone tiny.keras --engine tensorflow --out new.h5", "new.h5"),
    Writing(f"{TUNE} --out t.keras", "t.keras", ("t.work",)),
    Writing(f"{EXPORT} --to keras --out new.keras", "new.keras"),
    Writing(f"{EXPORT} --to h5 --out new.h5", "new.h5"),
    Writing(f"{EXPORT} --to savedmodel --out new", "new/saved_model.pb"),
    Writing(f"{EXPORT} --to openvino --out new.xml", "new.xml"),
]
if _installed("tensorboard"):
    HEAVY.append(
        Writing(f"{TUNE} --to h5 --boundary-cache off --tensorboard logs --out t.h5", "t.h5", ("t.work", "logs"))
    )
if _installed("tf2onnx", "onnx", "onnxruntime"):
    HEAVY.append(Writing(f"{EXPORT} --to onnx --out new.onnx", "new.onnx"))
if _installed("ai_edge_litert"):
    HEAVY.append(Writing(f"{EXPORT} --to tflite --out new.tflite", "new.tflite"))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Path:
    """A folder with photos, backbone, feature file and head, as a user has it."""
    folder = tmp_path_factory.mktemp("ready")
    write_folder(folder / "photos", {"cats": 14, "dogs": 14})
    shutil.copy(tiny_file, folder / "tiny.keras")
    lines = [f"{name}/{i}.png,{'even' if i % 2 else 'odd'}" for name in ("cats", "dogs") for i in range(14)]
    (folder / "labels.csv").write_text("\n".join(["file,kind", *lines]))
    for command in (
        ("extract", "photos", "--backbone", "tiny.keras", "--engine", "tensorflow"),
        ("train-head", "photos.tiny.h5", "--head", "ridge", "--out", "photos.ridge.head"),
    ):
        done = run_program(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def work(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "work"))


def contents(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, str]:
    """Every file and folder with a hash of what it holds, the hidden ones too."""
    left_out = {path for pattern in but for path in folder.glob(pattern)}
    found = [path for path in sorted(folder.rglob("*")) if not left_out & {path, *path.parents}]
    return {str(path.relative_to(folder)): _hash(path) for path in found}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_disk_law(case: Writing, work: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(work, tmp_path / "whole"))
    assert run_program(*case.command.split(), cwd=whole).returncode == 0
    expected = contents(whole, but=case.kept).keys()
    size = (whole / case.writes).stat().st_size
    for limit in (0, size // 2, size * 3 // 4):
        before = contents(work, but=case.kept)
        with files_end_at(limit):
            done = run_program(*case.command.split(), cwd=work)
        assert done.returncode == 1, f"{limit} of {size} bytes: {done.stderr}"
        beside = any(flag in case.command for flag in ("--csv", "--plot"))
        assert not done.stdout or beside, "a table is shown although its file cannot be written"
        message = done.stderr.splitlines()[-1]
        assert message.startswith(("error: cannot write ", "error: cannot keep ")), message
        assert any(words in message for words in ("File too large. ", "No space left on device. ")), message
        assert any(words in message for words in ("Make room", "free disk space", "Set ONEPASS_CACHE")), message
        assert ".new-" not in message, message
        assert contents(work, but=case.kept) == before, f"{limit} of {size} bytes"
    done = run_program(*case.command.split(), cwd=work)
    assert done.returncode == 0, done.stderr
    assert contents(work, but=case.kept).keys() == expected


@pytest.mark.parametrize("case", LIGHT, ids=str)
def test_a_full_disk_is_told_and_leaves_nothing_behind(case: Writing, work: Path, tmp_path: Path):
    full_disk_law(case, work, tmp_path)


@pytest.mark.parametrize("case", HEAVY, ids=str)
def test_a_full_disk_is_told_and_leaves_nothing_behind_where_keras_writes(case: Writing, work: Path, tmp_path: Path):
    full_disk_law(case, work, tmp_path)


def test_a_full_disk_under_the_cache_of_converted_backbones(work: Path, tmp_path: Path):
    command = ("extract", "photos", "--backbone", "tiny.keras", "--out", "new.h5", "--engine", "openvino")
    cache, before = tmp_path / "cache", contents(work)
    for limit in (0, 1000):
        with files_end_at(limit):
            done = run_program(*command, cwd=work, ONEPASS_CACHE=str(cache))
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"error: cannot keep the converted backbone in {cache}: ")
        assert contents(work) == before
        assert contents(cache) == {}
    assert run_program(*command, cwd=work, ONEPASS_CACHE=str(cache)).returncode == 0


def test_a_full_disk_under_repair(work: Path):
    """What is rewritten in place lies below the limit or beyond it; nothing else is touched."""
    flip_bit(work / "photos.tiny.h5", "rows")
    before = contents(work)
    with files_end_at(0):
        done = run_program("onepass", "repair", "photos.tiny.h5", "--engine", "tensorflow", cwd=work)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: cannot write photos.tiny.h5: File too large. ")
    assert contents(work) == before
    assert run_program("onepass", "repair", "photos.tiny.h5", "--engine", "tensorflow", cwd=work).returncode == 0
    with FeatureFile(work / "photos.tiny.h5") as file:
        assert len(file.pending()) == 0


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody can write in: by its mode, or, because root may write anywhere, by mounting it so."""
    if os.geteuid():
        with _without_permission(folder):
            yield
        return
    if shutil.which("mount") is None or not _mount("--bind", str(folder), str(folder)):
        pytest.skip("root can write everywhere, and mounting is not allowed here")
    try:
        if not _mount("-o", "remount,ro,bind", str(folder)):
            pytest.skip("mounting read-only is not allowed here")
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=PATIENCE)


@contextlib.contextmanager
def _without_permission(folder: Path) -> Iterator[None]:
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False, timeout=PATIENCE).returncode == 0


@pytest.mark.parametrize("case", [*LIGHT, *HEAVY], ids=str)
def test_a_folder_that_may_not_be_written_is_told(case: Writing, work: Path):
    before = contents(work)
    with read_only(work):
        done = run_program(*case.command.split(), cwd=work)
    assert done.returncode == 1, done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: "), message
    assert any(words in message for words in ("Read-only file system", "Permission denied", "not be written")), message
    assert "hoose another" in message, message
    assert contents(work) == before
    assert run_program(*case.command.split(), cwd=work).returncode == 0


@pytest.mark.parametrize("case", [case for case in (*LIGHT, *HEAVY) if case.anew], ids=str)
@pytest.mark.parametrize("there", ["a folder in its place", "a file for a folder"])
def test_a_place_that_can_hold_no_file_is_told(case: Writing, there: str, work: Path):
    *command, place = case.command.split()
    if there == "a folder in its place":
        (work / place).mkdir()
        (work / place / "mine").write_text("mine")
    else:
        (work / "file").write_text("mine")
        place = f"file/{place}"
    before = contents(work, but=case.kept)
    done = run_program(*command, place, cwd=work)
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
    assert contents(work, but=case.kept) == before
