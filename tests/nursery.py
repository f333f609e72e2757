"""Runs commands in processes that start at once, and kills them on demand.

One process imports everything, with a single thread; each command is a fork of it. A child is killed after a time, or
just before it touches the file system for the n-th time, which hits the moments that matter on any machine.

Run as a program, this is the process that forks: it takes one JSON object a line and answers with two lines, the
child's process id and how it ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from support import installed

_TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Kill:
    """When a child is killed: after seconds, or before its n-th change of a file in its folder; whichever is given."""

    seconds: float | None = None
    change: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Exit code; -9 if it was killed.
        output: Stdout and stderr.
        seconds: Duration.
        changes: Of files in its folder; 0 if it was killed.
    """

    code: int
    output: str
    seconds: float
    changes: int


class Nursery:
    """Forks children; see `nursery`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def run(self, command: str, *, cwd: Path, kill: Kill | None = None) -> Ended:
        """Runs a command of onepass, as typed, to its end or until it is killed."""
        kill = kill or Kill()
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        began = time.monotonic()
        order = {"command": command.split(), "cwd": str(cwd), "log": str(self._log), "kill": asdict(kill)}
        print(json.dumps(order), file=stdin, flush=True)
        child = int(stdout.readline())
        if kill.seconds is not None:
            time.sleep(kill.seconds)
            with contextlib.suppress(ProcessLookupError):  # it had ended
                os.kill(child, signal.SIGKILL)
        print("", file=stdin, flush=True)  # from here on its number may be another process's
        code = int(stdout.readline())
        output = self._log.read_text(errors="replace")
        text, _, changes = output.rpartition("\nchanges: ")
        return Ended(code, text or output, time.monotonic() - began, int(changes) if text else 0)


@contextlib.contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """A process that forks others, with a folder for their output and cache."""
    environment = {**os.environ, "ONEPASS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [installed("python"), __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield Nursery(process, folder / "log")
        finally:
            process.kill()


def _serve() -> None:
    _import_everything()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        child = os.fork()
        if not child:
            _live(order)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _import_everything() -> None:
    """What the commands import late; none of it starts a thread."""
    import matplotlib.figure  # noqa: F401
    import openvino  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    import onepass.cli
    from onepass.extract.frameworks import import_keras, plain_keras

    import_keras()
    with plain_keras():
        import onepass.heads.finetune.session  # noqa: F401
    for name in dir(onepass):
        with contextlib.suppress(AttributeError):
            getattr(onepass, name)


def _live(order: dict) -> None:
    """The child: runs the command, counts its changes, and ends."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order["cwd"])
    changes, last, own = 0, order["kill"]["change"], os.getpid()

    def count(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event not in _TOUCHES or os.getpid() != own or not _changes(event, arguments, order["cwd"]):
            return
        changes += 1
        if changes == last:
            os.kill(own, signal.SIGKILL)

    sys.addaudithook(count)
    from onepass import cli

    name, *arguments = order["command"]
    try:
        code = (cli.app if name == "onepass" else cli._ALONE[name])(arguments, prog_name=name, standalone_mode=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, f"\nchanges: {changes}".encode())
    os._exit(int(code or 0))


def _changes(event: str, arguments: tuple, folder: str) -> bool:
    """Whether an event changes, or opens for a change, a file in the folder."""
    if not isinstance(arguments[0], str | bytes | os.PathLike):
        return False
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    return str(Path.cwd() / os.fsdecode(arguments[0])).startswith(folder)


if __name__ == "__main__":
    _serve()
