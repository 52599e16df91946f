"""Progress in a log: a line a minute, whatever the work."""

import pytest
from rich.console import Console

from recllm_tasks import progress


@pytest.fixture
def log(monkeypatch):
    """A clock in seconds that the test sets, and the lines of a log."""
    now = [0.0]
    console = Console(record=True, force_terminal=False, width=80)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now, lambda: console.export_text(clear=False).splitlines()


def test_long_work_prints_a_line_a_minute(log):
    now, lines = log
    with progress.work("train", 1000) as work:
        for _ in range(1000):
            now[0] += 1
            work.advance(1, "loss 1.0")
    assert len(lines()) == 1000 // 60
    assert lines()[0] == "train 60/1,000  loss 1.0"


def test_short_work_prints_nothing(log):
    now, lines = log
    for _ in range(20):  # validations one after the other
        with progress.work("decode", 100) as work:
            now[0] += 30
            work.advance(100)
    assert lines() == []


def test_what_is_said_is_printed_as_it_is(log):
    _, lines = log
    with progress.work("train", 10) as work:
        work.say("[best] of a long line " + 10 * "and more ")
    assert len(lines()) == 1
    assert lines()[0].startswith("[best]")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2, "10 seconds"),
        (44, "40 seconds"),
        (95, "2 minutes"),
        (3600, "60 minutes"),
        (6 * 3600, "6 hours"),
        (100 * 60, "1.7 hours"),
    ],
)
def test_times_are_rough(seconds, text):
    assert progress.duration(seconds) == text
