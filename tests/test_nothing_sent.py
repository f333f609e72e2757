"""Every command with every extra: what is written outside outputs and cache, and what is sent. Both: nothing."""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from support import PATIENCE, installed, write_folder

pytestmark = pytest.mark.slow

COMMANDS = """
extract photos --backbone tiny.keras --views 2 --out photos.h5
extract photos --backbone tiny.keras --out plain.h5
extract photos --backbone tiny.keras --precision int8 --out int8.h5
onepass extract photos --backbone tiny.keras --plan
onepass choose photos --try tiny.keras,efficientnet_lite0
train-head plain.h5 --head logreg --out plain.head
train-head photos.h5 --head mlp --hidden 8 --epochs 3 --out mlp.head
compare-heads plain.h5 --heads logreg,lda,mlp:8 --tune none --learning-curve --save-best --out best.head --csv heads.csv
fine-tune plain.head --unfreeze 3 --epochs 1 --keep always --out tuned.keras --tensorboard logs
onepass inspect plain.h5 --csv found.csv
onepass report plain.head --out plain.html
onepass report tuned.keras --out tuned.html
onepass predict plain.head photos/test --out x.csv
onepass predict plain.head photos/test --out x.parquet
onepass predict tuned.keras photos/test --out x.jsonl
onepass nearest plain.head photos/test/a/0.png
onepass evaluate plain.head plain.h5 --plot scores.pdf
onepass explain plain.head photos/test --out why
onepass explain mlp.head photos/test/a/0.png --places 2
onepass show photos --views 2 --out sheet.png
onepass evaluate tuned.keras plain.h5
onepass shift plain.h5 photos/test --head plain.head --out moved.head
onepass share plain.head --to projector --out logs2
onepass share plain.head --to fiftyone --out five
onepass share plain.head --to label-studio --out studio
onepass export plain.head --to keras --out e.keras
onepass export plain.head --to h5 --out e.h5
onepass export plain.head --to savedmodel --out saved
onepass export plain.head --to onnx --out e.onnx
onepass export plain.head --to openvino --precision int8 --out e.xml
onepass export plain.head --to tflite --out e.tflite
onepass predict e.onnx photos/test --out y.json
extract labels.csv --images photos --path file --label kind --backbone tiny.keras --out table.h5
extract photos --unlabelled --backbone tiny.keras --out all.h5
extract set --label kind --backbone tiny.keras --out set.h5
onepass label all.h5 labels.csv --path file --label kind
onepass verify plain.h5
onepass verify plain.head
onepass verify e.onnx --data photos
onepass verify e.tflite --data photos
onepass repair plain.h5
onepass info plain.h5
onepass info plain.head --summary
onepass info e.onnx
onepass backbones
onepass backbones --stages tiny.keras
"""

EVERYTHING = """
import shlex, socket, sys
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append((event, args[1:] if event == "socket.connect" else args))
sys.addaudithook(watch)
from unittest import mock
from typer.testing import CliRunner
from onepass import cli
for line in open("commands").read().strip().splitlines():
    name, *words = shlex.split(line)
    program = cli.app if name == "onepass" else cli._ALONE[name]
    done = CliRunner().invoke(program, words, prog_name=name)
    print(done.exit_code, line, done.stderr[-300:] if done.exit_code else "", repr(done.exception or ""), flush=True)
print("asked:", [one for one in asked if "AF_UNIX" not in str(one)])
"""

_EXTRAS = ("tf2onnx", "onnxruntime", "ai_edge_litert", "nncf", "pyarrow", "tensorboard", "datasets")


def _around(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def write_data_set(folder: Path, photos: list[Path]) -> None:
    """A folder of Parquet files, if their library is there; else the command that takes it fails."""
    if find_spec("pyarrow") is None:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in photos]
    pq.write_table(pa.table({"image": cells, "kind": [path.parent.name for path in photos]}), folder / "part.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> tuple[Path, str, str]:
    """The folder with home, tmp and work; what was printed; and what the system was asked, or "" without strace."""
    place = tmp_path_factory.mktemp("quiet")
    for name in ("home", "tmp", "work"):
        (place / name).mkdir()
    work = place / "work"
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(work / "photos" / part, {"a": 9, "b": 8}, seed=seed)
    names = sorted(path.relative_to(work / "photos").as_posix() for path in (work / "photos").rglob("*.png"))
    lines = [f"{name},{'even' if i % 2 else 'odd'}" for i, name in enumerate(names)]
    (work / "labels.csv").write_text("\n".join(["file,kind", *lines]))
    write_data_set(work / "set", [work / "photos" / name for name in names])
    shutil.copy(tiny_file, work / "tiny.keras")
    (work / "commands").write_text(COMMANDS)
    kept = {name: os.environ[name] for name in ("PATH", "LC_ALL", "PYTHONPATH") if name in os.environ}
    environment = {
        **kept,
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "TERM": "dumb",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HOME": str(work / "hf"),
    }
    command = [installed("python"), "-c", EVERYTHING]
    if tracer := shutil.which("strace"):
        calls = "trace=connect,sendto,sendmsg,creat,open,openat,openat2,mkdir,mkdirat,rename,renameat,renameat2"
        command = [tracer, "-f", "--seccomp-bpf", "-qq", "-s", "300", "-e", calls, "-e", "signal=none", "-o",
                   str(place / "trace"), *command]  # fmt: skip
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    return place, done.stdout, (place / "trace").read_text(errors="replace") if tracer else ""


def test_every_command_ran(run: tuple[Path, str, str]):
    if missing := [name for name in _EXTRAS if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    assert re.findall("^([0-9]+) (.*?)  ''$", run[1], re.MULTILINE) == [
        ("0", line) for line in COMMANDS.strip().splitlines()
    ]


def test_nothing_is_written_in_the_users_home_but_the_cache(run: tuple[Path, str, str]):
    home = run[0] / "home"
    assert {path.relative_to(home).parts[:2] for path in _around(home)} == {(".cache", "onepass")}


def test_nothing_is_left_in_the_folder_for_temporary_files(run: tuple[Path, str, str]):
    assert _around(run[0] / "tmp") == set()


def test_nothing_is_looked_up_or_connected_to(run: tuple[Path, str, str]):
    assert run[1].splitlines()[-1] == "asked: []"


_OUTSIDE = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?|sendto\([^)]*sa_family=AF_INET|sendmsg\([^)]*AF_INET")
_WRITTEN = re.compile(r'(?:openat2?\([^,]+, |open\()"([^"]*)", [^)]*(?:O_WRONLY|O_RDWR|O_CREAT)[^)]*\) += \d')
_MADE = re.compile(r'(?:creat|mkdir|mkdirat|rename|renameat2?)\((?:[A-Z_0-9]+, )?"([^"]*)".*\) = 0')


def test_native_code_asks_nobody_and_writes_nowhere_else(run: tuple[Path, str, str]):
    place, _, trace = run
    if not trace:
        pytest.skip("needs strace, which shows what libraries do behind Python's back")
    assert [line for line in trace.splitlines() if _OUTSIDE.search(line)] == []
    named = {found[1] for line in trace.splitlines() for found in (_WRITTEN.search(line), _MADE.search(line)) if found}
    elsewhere = {
        path
        for path in named
        if path.startswith("/") and not path.startswith((str(place), "/dev/", "/proc/self/", "/sys/"))
    }
    assert elsewhere == set()
