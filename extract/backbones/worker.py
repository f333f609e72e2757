"""A process of its own for one task: for what cannot happen in this one, because of what is loaded in it."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, Self

from onepass.features import errors
from onepass.features.errors import UserError

_START = (
    "import json, sys; job = json.loads(sys.stdin.readline()); sys.path[:] = job['path']; "
    f"from {__name__} import work; work(job['module'], job['task'], job['arguments'])"
)


class TaskFailedError(Exception):
    """Why a task was not done; nothing that the user can put right."""


class Worker:
    """A process that does one task; it ends with its block, and with this process however that ends.

    Args:
        task: A function of a module, by which the other process finds it.
        quiet: Whether what it writes to stderr is left out.
        **arguments: Of the task; they and its answer are what JSON can hold.
    """

    def __init__(self, task: Callable[..., Any], *, quiet: bool = False, **arguments: Any) -> None:
        # Without -P the folder that the user is in would come first when modules are looked for.
        command = [sys.executable, "-P", "-c", _START]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if quiet else None
            )
        except OSError as error:
            raise TaskFailedError(f"no process could be started ({error.strerror})") from None
        assert self._process.stdin
        found = {"module": task.__module__, "task": task.__name__}
        job = json.dumps({"path": sys.path, **found, "arguments": arguments})
        with contextlib.suppress(OSError):  # it has ended already, and `answer` says so
            self._process.stdin.write(job.encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """What the task returns.

        Raises:
            UserError: As the task raised it.
            TaskFailedError: The task or the process failed.
        """
        assert self._process.stdout
        text = self._process.stdout.read()
        code = self._process.wait()
        try:
            reply = json.loads(text)
        except ValueError:
            raise TaskFailedError(f"its process ended with code {code}") from None
        for message in reply["warnings"]:
            warnings.warn(message, UserWarning, stacklevel=2)
        if "error" in reply:
            raise getattr(errors, reply["error"])(reply["message"], **reply["facts"])
        if "failure" in reply:
            raise TaskFailedError(reply["failure"])
        return reply["answer"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # of a job that the process did not take
                    pipe.close()


def work(module: str, task: str, arguments: dict[str, Any]) -> None:
    """What a worker does: a task, and its outcome as one line of JSON on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches both, and the other one ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "w") as out, warnings.catch_warnings(record=True) as caught:
        os.dup2(2, 1)
        reply = _done(getattr(importlib.import_module(module), task), arguments)
        told = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
        json.dump(reply | {"warnings": told}, out, default=str)


def _end_with_parent() -> None:
    """Nobody writes to stdin any more; it ends when the other process does."""
    sys.stdin.read()
    os._exit(1)


def _done(task: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": task(**arguments)}
    except UserError as error:
        return {"error": type(error).__name__, "message": error.message, "facts": error.facts}
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"}
