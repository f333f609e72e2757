"""What a long call is doing, told by Python's logging, and how far it is, as lines for a run that nobody watches."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from onepass.features.names import printable

log = logging.getLogger("onepass")
"""Decisions and phases are its INFO records: `logging.basicConfig(level="INFO")` shows them."""

EVERY = 30.0
"""Seconds between two lines."""


@contextlib.contextmanager
def phase(what: str) -> Iterator[None]:
    """Says what is being done while the block runs, and how long it took.

    >>> with phase("searching for copies"):
    ...     pass
    """
    started = time.perf_counter()
    log.info("%s ...", what, extra={"phase": what})
    try:
        yield
    finally:
        log.info("%s: %.1f s", what, time.perf_counter() - started, extra={"ended": what})


class Progress(logging.Handler):
    """How far a call is: fed by its reports, and by the phases that the library logs.

    Args:
        what: What the call does, such as extracting.
        unit: What it counts.
        clock: Seconds that only grow.
    """

    def __init__(self, what: str, unit: str = "images", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.INFO)
        self._what, self._unit, self._clock = what, unit, clock
        self._phases: list[tuple[str, float]] = [("", clock())]
        self.done, self._name = 0, ""
        self.of: int | None = None
        self._first: tuple[int, float] | None = None

    def report(self, done: int, of: int | None, name: str = "") -> None:
        """Takes what `progress` of the library's functions is called with."""
        if self._first is None or done < self.done or of != self.of:
            self._first = done, self._clock()
        self.done, self.of, self._name = done, of, name

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record of the library's logger; those of phases count."""
        if begun := getattr(record, "phase", ""):
            self._phases.append((begun, self._clock()))
        elif getattr(record, "ended", "") and len(self._phases) > 1:
            self._phases.pop()

    @property
    def rate(self) -> float:
        """Of what is counted, a second; 0 if that is not known yet."""
        if self._first is None:
            return 0.0
        done, since = self._first
        return max(self.done - done, 0) / max(self._clock() - since, 1e-9)

    @property
    def title(self) -> str:
        """What is being done now, without numbers."""
        doing = self._phases[-1][0]
        return printable(f"{self._what}: {doing}" if doing else f"{self._what} {self._name}".strip())

    def line(self) -> str:
        """What is being done, done of total, rate and time left, as far as they are known."""
        doing, since = self._phases[-1]
        if doing or self._first is None:
            return f"{self.title}, {duration(self._clock() - since)} so far"
        rate = f", {self.rate:.3g} {self._unit}/s" if self.rate else ""
        if self.of is None:
            return f"{self.title}{rate}"
        left = f", {duration((self.of - self.done) / self.rate)} left" if self.rate else ""
        return f"{self.title}: {self.done} of {self.of} {self._unit}{rate}{left}"


@contextlib.contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """Gives a handler the library's INFO records while the block runs."""
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


@contextlib.contextmanager
def told(
    progress: Progress,
    write: Callable[[str], None],
    *,
    ended: threading.Event | None = None,
    every: float = EVERY,
) -> Iterator[None]:
    """Writes a line again and again while the block runs; none if it is short.

    Args:
        progress: How far the block is.
        write: Takes each line, in a thread of its own.
        ended: Whose `wait` passes the time between two lines.
        every: Seconds between two lines.
    """
    ended = ended or threading.Event()

    def lines() -> None:
        while not ended.wait(every):
            write(progress.line())

    thread = threading.Thread(target=lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42), duration(600), duration(7200)
    ('42 s', '10 min', '2 h 0 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
