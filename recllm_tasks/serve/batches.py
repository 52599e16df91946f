"""Requests that arrive together are decoded together, by one thread.

A request is cut into histories. The thread takes as many of them as wait, in the order of arrival,
up to a batch, so that a large request lets others in between.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.recommender import Recommendation, Recommender

# A batch waits for as many histories as the last one had, at most so long.
GATHER_SECONDS = 0.002


class Full(Exception):
    """So many histories wait that another one would wait too long; try again after `seconds`."""

    def __init__(self, seconds: int):
        super().__init__()
        self.seconds = seconds


class Stopping(Exception):
    """The service takes no more requests."""


@dataclasses.dataclass(eq=False)
class Request:
    """Histories of one client, all with the same settings.

    Attributes:
      histories: catalog rows, none empty.
      k: items for each.
      exclude_history: whether their own items are left out.
      allowed: the items that may be answers.
      deadline: on time.monotonic's clock; what is not begun by then is dropped.
      answers: of each history.
      done: gets the answers; a cancelled one is dropped.
    """

    histories: Sequence[Sequence[int]]
    k: int
    exclude_history: bool
    allowed: ItemMask
    deadline: float
    answers: list[list[Recommendation]] = dataclasses.field(default_factory=list)
    done: Future = dataclasses.field(default_factory=Future)

    @property
    def is_dropped(self) -> bool:
        return self.done.done() or time.monotonic() > self.deadline


class Batches:
    """The queue of a service, and the thread that decodes.

    Attributes:
      before_ready: called by the thread when all is compiled, before requests are taken.
      is_ready: whether they are.
    """

    def __init__(
        self,
        recommender: Recommender,
        batch_size: int,
        most_waiting: int,
        observe: Callable[[int, float], Any] = lambda size, seconds: None,
        say: Callable[[str], Any] = print,
    ):
        """Args:
        recommender: used by the thread alone.
        batch_size: the most histories decoded together.
        most_waiting: histories; what would exceed it is refused.
        observe: called with the histories and the seconds of each batch.
        say: called with a line where decoding fails.
        """
        self._recommender, self._batch_size = recommender, batch_size
        self._most_waiting = most_waiting
        self._observe, self._say = observe, say
        self._waiting: collections.deque[tuple[Request, int]] = collections.deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._rate = 1.0  # histories a second
        self._last = 0  # histories of the last batch
        self.before_ready: Callable[[], Any] = lambda: None
        self.is_ready = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def put(self, request: Request) -> None:
        """Adds a request, whose `done` then gets its answers.

        Raises:
          Full: too many histories wait.
          Stopping: after `stop`.
        """
        request.answers = [[] for _ in request.histories]
        with self._changed:
            if self._stopping:
                raise Stopping
            if len(self._waiting) + len(request.histories) > self._most_waiting:
                raise Full(1 + int(len(self._waiting) / self._rate))
            self._waiting.extend((request, place) for place in range(len(request.histories)))
            self._changed.notify()

    def stop(self) -> None:
        """Takes no more requests; those that wait are still answered."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        for _ in self._recommender.compile():
            if self._stopping:
                return
        self.before_ready()
        self.is_ready = True
        while batch := self._take():
            start = time.monotonic()
            self._decode(batch)
            seconds = time.monotonic() - start
            self._rate += 0.1 * (len(batch) / max(seconds, 1e-6) - self._rate)
            self._observe(len(batch), seconds)

    def _take(self) -> list[tuple[Request, int]]:
        """The histories of the next batch; none when the service stops."""
        batch: list[tuple[Request, int]] = []
        with self._changed:
            while not batch:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if not self._waiting:
                    return []
                # Clients that were answered just now may ask again at once.
                end = time.monotonic() + GATHER_SECONDS
                while len(self._waiting) < self._last and not self._stopping:
                    if not self._changed.wait(end - time.monotonic()):
                        break
                most = _whole(len(self._waiting), self._batch_size)
                while self._waiting and len(batch) < most:
                    request, place = self._waiting.popleft()
                    if not request.is_dropped:
                        batch.append((request, place))
        self._last = len(batch)
        return batch

    def _decode(self, batch: list[tuple[Request, int]]) -> None:
        try:
            found = self._recommender.recommend_rows(
                [request.histories[place] for request, place in batch],
                max(request.k for request, _ in batch),
                allowed=[request.allowed for request, _ in batch],
                exclude_history=[request.exclude_history for request, _ in batch],
            )
        except Exception as error:
            # Others must not pay for it: each is decoded alone.
            if len(batch) > 1:
                for one in batch:
                    self._decode([one])
                return
            self._say(f"decoding failed: {type(error).__name__}")
            _finish(batch[0][0], error)
            return
        for (request, place), items in zip(batch, found):
            request.answers[place] = items[: request.k]
            if place == len(request.histories) - 1:  # they are decoded in order
                _finish(request)


def _whole(waiting: int, batch_size: int) -> int:
    """How many to decode now: batches are padded to a power of two, at most a quarter of one."""
    if waiting >= batch_size:
        return batch_size
    padded = min(1 << (waiting - 1).bit_length(), batch_size)
    return waiting if waiting >= 0.75 * padded else padded // 2


def _finish(request: Request, error: Exception | None = None) -> None:
    if request.done.done() or not request.done.set_running_or_notify_cancel():
        return
    if error is not None:
        request.done.set_exception(error)
    else:
        request.done.set_result(request.answers)
