import logging
import threading

import pytest

from onepass.features.progress import Progress, duration, listening, log, phase, told


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Waits(threading.Event):
    """Lets a number of waits pass at once, each as long as it was asked to be; then the block has ended."""

    def __init__(self, clock: Clock, count: int) -> None:
        super().__init__()
        self.clock, self.left, self.asked, self.over = clock, count, [], threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        if not self.left or self.is_set():
            self.over.set()
            return True
        self.left -= 1
        self.asked.append(timeout)
        self.clock.now += timeout
        return False


def lines_of(progress: Progress, clock: Clock, count: int) -> tuple[list[str], list[float]]:
    lines: list[str] = []
    waits = Waits(clock, count)
    with told(progress, lines.append, ended=waits):
        assert waits.over.wait(60)
    return lines, waits.asked


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_every_30_s_tells_done_of_total_rate_and_time_left(clock: Clock):
    progress = Progress("extracting", clock=clock)
    progress.report(0, 1000)
    lines, asked = lines_of(progress, clock, 0)
    assert (lines, asked) == ([], [])  # shorter than 30 s
    progress.report(96, 1000)
    lines, asked = lines_of(progress, clock, 2)
    assert asked == [30.0, 30.0]
    assert lines == [
        "extracting: 96 of 1000 images, 3.2 images/s, 5 min left",
        "extracting: 96 of 1000 images, 1.6 images/s, 9 min left",
    ]


def test_the_rate_begins_anew_with_another_total(clock: Clock):
    progress = Progress("fine-tuning", "steps", clock=clock)
    progress.report(0, 10, "conv5")
    clock.now = 100
    progress.report(10, 10, "conv5")
    progress.report(0, 40, "all")
    clock.now = 110
    progress.report(20, 40, "all")
    assert progress.line() == "fine-tuning all: 20 of 40 steps, 2 steps/s, 10 s left"


def test_without_a_total_there_is_no_time_left(clock: Clock):
    progress = Progress("predicting", clock=clock)
    progress.report(1, None, "1 images")
    clock.now = 50
    progress.report(101, None, "101 images")
    assert progress.line() == "predicting 101 images, 2 images/s"


def test_a_phase_says_what_is_done_and_for_how_long(clock: Clock):
    progress = Progress("extracting", clock=clock)
    clock.now = 5
    assert progress.line() == "extracting, 5 s so far"
    with listening(progress), phase("preparing resnet50"):
        clock.now = 20
        with phase("converting resnet50"):
            clock.now = 140
            assert progress.title == "extracting: converting resnet50"
            assert progress.line() == "extracting: converting resnet50, 2 min so far"
        assert progress.line() == "extracting: preparing resnet50, 2 min so far"
    progress.report(3, 6)
    assert progress.line() == "extracting: 3 of 6 images"


def test_a_phase_ends_with_an_error(clock: Clock):
    progress = Progress("extracting", clock=clock)
    with pytest.raises(ValueError, match="^no$"), listening(progress), phase("searching"):
        raise ValueError("no")
    assert progress.title == "extracting"


def test_logging_tells_phases_and_how_long_they_took(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="onepass"), phase("searching for 100 % copies"):
        pass
    begun, ended = (record.getMessage() for record in caplog.records)
    assert begun == "searching for 100 % copies ..."
    assert ended == "searching for 100 % copies: 0.0 s"


def test_nobody_who_did_not_ask_hears_anything():
    before = log.handlers[:], log.level
    with listening(Progress("x")):
        pass
    assert (log.handlers, log.level) == before


def test_durations_in_words():
    assert [duration(seconds) for seconds in (0, 89, 90, 3600, 7260)] == ["0 s", "89 s", "2 min", "60 min", "2 h 1 min"]
