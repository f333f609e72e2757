"""How a long call shows itself on stderr: by a bar on a terminal, elsewhere by a line every 30 s."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

from onepass.features.names import printable
from onepass.features.progress import EVERY, Progress, listening, told


@contextlib.contextmanager
def progress_shown(what: str, *, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Shows what is being done while the block runs.

    Args:
        what: What the call does, such as extracting.
        unit: What it counts.

    Yields:
        What to give a function of the library as `progress`.
    """
    progress = Progress(what, unit)
    with own_stderr() as stream, listening(progress):
        write = partial(print, file=stream, flush=True)
        with _bar(progress, stream) if sys.stderr.isatty() else told(progress, write, every=EVERY):
            yield progress.report


@contextlib.contextmanager
def decisions_shown() -> Iterator[None]:
    """Shows every decision and phase of the library, with the time of day."""
    with own_stderr() as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
        with listening(handler):
            yield


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextlib.contextmanager
def own_stderr() -> Iterator[IO[str]]:
    """stderr, also while what native code writes there is held back."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # a stream that is no file
        yield sys.stderr
        return
    with os.fdopen(descriptor, "w", encoding=sys.stderr.encoding, errors="backslashreplace") as stream:
        yield stream


def _bar(progress: Progress, stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn
    from rich.progress import Progress as Bar

    class State(TextColumn):
        """Reads what the library reported last, each time the bar is drawn."""

        def render(self, task: Task) -> Any:
            task.description, task.completed, task.total = progress.line(), progress.done, progress.of
            return super().render(task)

    bar = Bar(SpinnerColumn(), State("{task.description}"), BarColumn(20), console=Console(file=stream), transient=True)
    bar.add_task(progress.title, total=None)
    return bar
