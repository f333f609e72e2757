import errno
import os
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from onepass.features.atomic import folder_beside, leftovers, remove_leftovers, replacing
from support import PATIENCE


def test_a_failure_leaves_the_old_file_and_nothing_beside(tmp_path: Path):
    path = tmp_path / "x.keras"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as beside:
            assert beside.name == "x.keras"  # for writers that go by the ending
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_takes_the_name(tmp_path: Path):
    with replacing(tmp_path / "x") as beside:
        beside.write_text("new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("x", "new")]


def test_file_and_name_are_flushed_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    flush, rename = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        flush(descriptor)

    def renamed(made: Path, path: Path) -> Path:
        done.append("name")
        return rename(made, path)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing(tmp_path / "x") as beside:
        beside.write_text("new")
    assert done == ["file", "name", "folder"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    """One of them wins whole, whichever it is."""
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as other:
        assert one != other
        one.write_text("one" * 1000)
        other.write_text("other" * 1000)
    assert (tmp_path / "x").read_text() == "one" * 1000


def test_threads_that_write_one_file_leave_each_other_alone(tmp_path: Path):
    problems: list[BaseException] = []

    def write(text: str) -> None:
        try:
            for _ in range(50):
                with replacing(tmp_path / "x") as beside:
                    beside.write_text(text)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(letter * 500,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert (tmp_path / "x").read_text() in {letter * 500 for letter in "abc"}
    assert len(list(tmp_path.iterdir())) == 1


def left_by(process: int, path: Path, *, host: str = "", days: float = 0.0) -> Path:
    """What a writer of `path` would have left."""
    folder = path.with_name(f".{path.name}.new-{host or socket.gethostname()}-{process}-0a1b2c3d")
    folder.mkdir()
    (folder / path.name).write_text("half")
    then = time.time() - days * 24 * 3600
    os.utime(folder, (then, then))
    return folder


def process_that_ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait(timeout=PATIENCE)
    return process.pid


def test_what_killed_writers_of_a_file_left_goes_with_the_next(tmp_path: Path):
    path = tmp_path / "x.head"
    gone = [
        left_by(process_that_ended(), path),
        left_by(os.getpid(), path),  # of an earlier process of this number, as in a container that starts anew
        left_by(1, path, host="else-where-7", days=1.1),
    ]
    stays = [
        left_by(os.getppid(), path),
        left_by(process_that_ended(), path, host="else-where-7", days=0.9),
        left_by(process_that_ended(), tmp_path / "my.x.head"),
    ]
    with replacing(path) as beside:
        beside.write_text("new")
    assert not any(one.exists() for one in gone)
    assert all(one.exists() for one in stays)


def test_a_killed_process_that_nobody_has_asked_after_is_gone(tmp_path: Path):
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc")
    with subprocess.Popen(["true"], stdin=subprocess.DEVNULL) as zombie:
        end = time.monotonic() + PATIENCE
        while " Z " not in Path(f"/proc/{zombie.pid}/stat").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        left = left_by(zombie.pid, tmp_path / "x")
        assert leftovers(tmp_path) == [left]


def test_names_of_any_length_and_kind_can_be_written(tmp_path: Path):
    for name in ("n" * 255, "ü" * 127, "a-1-b.new-c-2-d", " ", os.fsdecode(b"\xff.csv")):
        with replacing(tmp_path / name) as beside:
            beside.write_text(name if name.isprintable() else "")
        assert [one.name for one in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "there" / "y")
    with replacing(tmp_path / "x") as beside:
        beside.write_text("new")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "there" / "y").read_text() == "new"


def test_a_pipe_is_written_into_and_a_folder_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with replacing(tmp_path / "pipe") as beside:
        assert beside == tmp_path / "pipe"
    with replacing(Path("/dev/stdout")) as beside:
        assert beside == Path("/dev/stdout")
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        raise AssertionError


def test_a_folder_beside_is_empty_and_goes_with_the_block(tmp_path: Path):
    with folder_beside(tmp_path / "x") as folder:
        assert folder.parent == tmp_path
        assert list(folder.iterdir()) == []
        (folder / "deep").mkdir()
        (folder / "deep" / "y").write_text("y")
        remove_leftovers(tmp_path)  # not while it is in use
        assert (folder / "deep" / "y").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_flush_folders_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flush = os.fsync

    def of_files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    with replacing(tmp_path / "x") as beside:
        beside.write_text("new")
    assert (tmp_path / "x").read_text() == "new"
