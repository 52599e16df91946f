"""SIGTERM, which preempts a job: training saves its state first, and then ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from recllm_tasks.errors import Terminated


class Preemption:
    """Whether this process was asked to end."""

    def __init__(self):
        self.requested = False

    def end(self, what: str) -> None:
        """Raises Terminated with a message."""
        raise Terminated(what, 128 + signal.SIGTERM)


@contextlib.contextmanager
def preemption() -> Iterator[Preemption]:
    """Notes the first SIGTERM while the block runs; a second one ends the process at once.

    Signals reach the main thread alone. In another one, nothing is noted.
    """
    found = Preemption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(number, frame) -> None:
        found.requested = True
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield found
    finally:
        signal.signal(signal.SIGTERM, before)
