"""Progress of long work: a bar on a terminal, a line a minute in a log file."""

import contextlib
import functools
import os
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Seconds between two lines, where there is no terminal.
LINE_EVERY = 60.0

console = Console(stderr=True, highlight=False)


def cache_unwritten(path: str | os.PathLike, error: Exception) -> None:
    """Says once for each folder and reason that a file cannot be kept there for the next use.

    Args:
      path: the file.
      error: of writing it, an OSError or the UserError that it caused.
    """
    cause = error if isinstance(error, OSError) else error.__cause__ or error
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    _say_unwritten(os.path.dirname(path), reason)


@functools.cache
def _say_unwritten(folder: str, reason: str) -> None:
    console.print(
        f"cannot write to '{folder}': {reason}; what is computed there once is computed again by "
        "every process: free some space, or make the folder writable",
        markup=False,
    )


class Work:
    """One piece of work in progress."""

    def __init__(self, what: str, total: int, done: int, bar: Progress | None):
        self._what, self._total, self._done, self._bar = what, total, done, bar
        self._next_line = time.monotonic() + LINE_EVERY
        if bar:
            self._task = bar.add_task(what, total=total, completed=done, note="")

    def advance(self, steps: int, note: str = "") -> None:
        self._done += steps
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=note)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            line = f"{self._what} {self._done:,}/{self._total:,}  {note}".rstrip()
            console.print(line, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        (self._bar.console if self._bar else console).print(text, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A rough time for people: `20 seconds`, `7 minutes`, `3.5 hours`."""
    if seconds < 90:
        number, unit = max(10, round(seconds, -1)), "second"
    elif seconds < 90 * 60:
        number, unit = round(seconds / 60), "minute"
    else:
        number, unit = round(seconds / 3600, 1), "hour"
    return f"{number:g} {unit}{'s' * (number != 1)}"


@contextlib.contextmanager
def work(what: str, total: int, done: int = 0) -> Iterator[Work]:
    """Shows progress from `done` to `total` steps while the block runs."""
    if not console.is_terminal:
        yield Work(what, total, done, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield Work(what, total, done, bar)
