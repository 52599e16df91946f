"""Stages of a preparation: a progress bar for each, and the seconds that it took."""

import contextlib
import threading
import time
from collections.abc import Iterator

import duckdb

from recllm_tasks.progress import console, work

_POLL_SECONDS = 0.5


def keep_output_clean(connection: duckdb.DuckDBPyConnection) -> None:
    """Turns off DuckDB's own progress bar, which goes to standard output.

    Where it is off, as in a notebook without ipywidgets, DuckDB refuses the setting.
    """
    shown = connection.execute("select current_setting('enable_progress_bar')").fetchone()
    if shown and shown[0]:
        connection.execute("set enable_progress_bar_print = false")


class Stages:
    """`seconds` maps the stages to their durations, in order."""

    def __init__(self, name: str, show: bool):
        """Args:
        name: of the dataset.
        show: whether to show progress.
        """
        self._name, self.show = name, show
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, what: str, connection: duckdb.DuckDBPyConnection | None = None) -> Iterator:
        """Times the block; shows the progress of the queries of `connection`, if given."""
        start, done = time.monotonic(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(what, connection, done))
        if self.show and connection and console.is_terminal:
            watcher.start()
        try:
            yield
        finally:
            done.set()
            if watcher.is_alive():
                watcher.join()
            passed = time.monotonic() - start
            self.seconds[what] = self.seconds.get(what, 0) + passed

    def _watch(self, what: str, connection: duckdb.DuckDBPyConnection, done: threading.Event):
        # Short stages show no bar.
        if done.wait(4 * _POLL_SECONDS):
            return
        with work(f"{self._name}: {what} (% of a query)", 100) as bar:
            shown = 0
            while not done.wait(_POLL_SECONDS):
                percent = max(0, int(connection.query_progress()))
                bar.advance(percent - shown)
                shown = percent

    def __str__(self) -> str:
        """Such as `read 1.2, core 3.4`, in seconds."""
        return ", ".join(f"{what} {seconds:.1f}" for what, seconds in self.seconds.items())
