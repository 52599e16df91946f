"""Endless training examples of a task or mixture, made thousands at a time.

They are the examples that `seqio.Mixture.get_dataset(shuffle=True, num_epochs=None)` yields for the
same seed, in the same order, token for token: every draw follows from the seed and an example's
number in its task's stream (draws.py), so that any stretch of the stream can be made on its own, by
any core, without what came before it.

A task whose preprocessors are not all ours (batch_steps.py), or whose source is another, is read
through SeqIO, one example at a time.

Letters: M examples of a stretch.
"""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError
from recllm_tasks.prompts import draws
from recllm_tasks.prompts.batch_steps import Batch, seeds_of
from recllm_tasks.prompts.ragged import Ragged, starts_of
from recllm_tasks.prompts.source import ItemSource, SequenceSource

# Examples of a stretch: few enough to lie in the processor's cache as they are made, and enough
# for each NumPy operation to be worth its call.
STRETCH = 4096

# Numbers that tf.data shuffles are fetched so many at a time.
_NUMBERS = 8192

# SeqIO's: the seeds of steps behind the cache are so much further for each step before it.
_SEEDS_A_CACHED_STEP = 42

SIDES = ("inputs", "targets")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Every `num`-th example, from the one of number `index` on: what one of `num` hosts sees.

    Each has the draws that it would have if one host saw all.
    """

    index: int = 0
    num: int = 1


class _FastTask:
    """A task of ours: its examples by their number."""

    def __init__(self, task: seqio.Task, lengths: Mapping[str, int], seed: int, shard: Shard):
        del shard  # `take` is told which examples are the host's.
        self._features, self._lengths = task.output_features, lengths
        self._table = task.source.training_table()
        self._steps = steps_of(task, seed)
        self._kept = kept_examples(task, self._table)
        if not (len(self._table) if self._kept is None else self._kept.any()):
            raise UserError(
                f"Nothing to train on in '{task.name}': got no example, expected at least one; "
                "prepare the dataset from more interactions, or choose another task"
            )
        self._numbers = _shuffled(len(self._table), self._table.shuffle_buffer, seed, self._kept)
        self._at_hand = np.zeros(0, np.int64)
        self._done = 0

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the next examples that are wanted: numbers in the table and in the stream.

        Args:
          wanted: bool, one an example.
        """
        parts = [self._at_hand]
        while sum(map(len, parts)) < len(wanted):
            parts.append(next(self._numbers))
        numbers = np.concatenate(parts)
        self._at_hand = numbers[len(wanted) :]
        places = self._done + np.flatnonzero(wanted)
        self._done += len(wanted)
        return numbers[: len(wanted)][wanted], places

    def make(self, taken: tuple[np.ndarray, np.ndarray]) -> tuple[Ragged, ...]:
        """`inputs` and `targets` of the examples that `take` gave."""
        numbers, places = taken
        batch = self._table.batch(numbers)
        batch = run_steps(self._steps, batch, places, self._lengths, self._features)
        return tuple(batch[side].first(self._lengths[side]) for side in SIDES)


Steps = Sequence[tuple[Any, Sequence[int]]]


def steps_of(task: seqio.Task, seed: int) -> Steps:
    """The preprocessors of a task of ours, with the seeds that SeqIO numbers for each."""
    steps, map_seed = [], seed
    for number, step in enumerate(task.preprocessors):
        if isinstance(step, seqio.CacheDatasetPlaceholder):
            map_seed = seed + _SEEDS_A_CACHED_STEP * number
            continue
        num_seeds = seeds_of(step)
        steps.append((step, [map_seed + 2 * i for i in range(num_seeds)]))
        map_seed += 2 * num_seeds
    return steps


def run_steps(steps: Steps, batch: Batch, places: np.ndarray, lengths, features) -> Batch:
    """The batch after all steps; `places`, int64 [B], number its examples in the stream."""
    for step, map_seeds in steps:
        seeds = [draws.map_seeds(first, places) for first in map_seeds]
        batch = step.on_batch(batch, seeds, lengths, features)
    return batch


def kept_examples(task: seqio.Task, table: Any) -> np.ndarray | None:
    """Which examples of its source's table a task of ours has, bool; None is all."""
    filters = [step.kept for step in task.preprocessors if hasattr(step, "kept")]
    if not filters:
        return None
    kept = np.ones(len(table), bool)
    for start in range(0, len(kept), 1 << 16):
        part = slice(start, start + (1 << 16))
        batch = table.batch(np.arange(len(kept))[part])
        for passes in filters:
            kept[part] &= passes(batch)
    return kept


def _shuffled(size: int, buffer: int, seed: int, kept: np.ndarray | None) -> Iterator[np.ndarray]:
    """Numbers of a table's examples, epoch after epoch, as tf.data shuffles them for SeqIO.

    A function on its own: an iterator of TensorFlow must not be part of a cycle, which Python may
    free at a moment when TensorFlow cannot. And it has no threads that would have to be waited for.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    numbers = tf.data.Dataset.range(size).shuffle(buffer, seed=seed).repeat().batch(_NUMBERS)
    for chunk in numbers.with_options(options).as_numpy_iterator():
        yield chunk if kept is None else chunk[kept[chunk]]


class _SlowTask:
    """Any other task, read through SeqIO."""

    def __init__(self, task: seqio.Task, lengths: Mapping[str, int], seed: int, shard: Shard):
        dataset = task.get_dataset(
            lengths,
            split="train",
            shuffle=True,
            seed=seed,
            num_epochs=None,
            shard_info=seqio.ShardInfo(shard.index, shard.num),
        )
        dataset = dataset.map(lambda example: {side: example[side] for side in SIDES})
        self._examples = dataset.prefetch(STRETCH).as_numpy_iterator()

    def take(self, wanted: np.ndarray) -> list[dict[str, np.ndarray]]:
        return [next(self._examples) for _ in range(wanted.sum())]

    def make(self, taken: list[dict[str, np.ndarray]]) -> tuple[Ragged, ...]:
        return tuple(
            Ragged.of_lengths(
                np.concatenate([np.zeros(0, np.int32), *(e[side] for e in taken)]),
                np.array([len(e[side]) for e in taken], np.int64),
            )
            for side in SIDES
        )


def is_fast(task: seqio.Task) -> bool:
    """Whether the task's examples are made in batches."""
    steps = [s for s in task.preprocessors if not isinstance(s, seqio.CacheDatasetPlaceholder)]
    return isinstance(task.source, (SequenceSource, ItemSource)) and all(
        hasattr(step, "on_batch") for step in steps
    )


def tasks_of(found: seqio.Task | seqio.Mixture) -> tuple[list[seqio.Task], np.ndarray]:
    """The tasks that are trained on, those with a train split and a rate, and their rates."""
    tasks = [task for task in seqio.get_subtasks(found) if "train" in task.splits]
    if not isinstance(found, seqio.Mixture):
        return tasks, np.ones(len(tasks))
    rates = np.array([found.get_rate(task) for task in tasks], np.float64)
    return [task for task, rate in zip(tasks, rates) if rate > 0], rates[rates > 0]


class Examples:
    """The training examples of a task or mixture, a stretch at a time."""

    def __init__(
        self,
        found: seqio.Task | seqio.Mixture,
        lengths: Mapping[str, int],
        seed: int,
        shard: Shard = Shard(),
    ):
        """Args:
        found: registered; every task of it with a train split is read.
        lengths: of `inputs` and `targets`, in tokens.
        seed: SeqIO's, of order, mixing and all that is sampled.
        shard: of a host.
        """
        tasks, self._rates = tasks_of(found)
        self._seed, self._shard = seed, shard
        self._tasks = [
            (_FastTask if is_fast(task) else _SlowTask)(task, lengths, seed, shard)
            for task in tasks
        ]
        self._done = 0

    def take(self) -> tuple[np.ndarray, list[Any]]:
        """What the next stretch is made of: the task of each example, and of each task its own.

        Quick, and to be called in order; what it gives is made into examples by `make`, at any
        time, on any thread.
        """
        size, hosts = STRETCH * self._shard.num, self._shard.num
        chosen = draws.choices(self._seed, self._rates, np.arange(self._done, self._done + size))
        self._done += size
        own = np.arange(size) % hosts == self._shard.index
        parts = [task.take(own[chosen == number]) for number, task in enumerate(self._tasks)]
        return chosen[own], parts

    def make(self, taken: tuple[np.ndarray, list[Any]]) -> tuple[Ragged, Ragged]:
        """`inputs` and `targets` of a stretch, M rows each, in the order of the mixture."""
        chosen, parts = taken
        counts = np.bincount(chosen, minlength=len(self._tasks))
        made = [task.make(part) for task, part, count in zip(self._tasks, parts, counts) if count]
        # The place of each example when those of the first task come first.
        order = np.empty(len(chosen), np.int64)
        order[np.argsort(chosen, kind="stable")] = np.arange(len(chosen))
        return tuple(_concatenated(side).take(order) for side in zip(*made))

    def make_of_task(self, number: int, part: Any) -> tuple[Ragged, Ragged]:
        """`inputs` and `targets` of one task's part of what `take` gave, one at least."""
        return self._tasks[number].make(part)


def _concatenated(parts: Sequence[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), starts_of(lengths))


def made_ahead(
    take: Callable[[], Any], make: Callable[[Any], Any], workers: int | None = None
) -> Iterator[Any]:
    """`make(take())` again and again, in order, on all cores; a few results are made ahead."""
    workers = workers or os.cpu_count() or 1
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="examples")
    waiting: collections.deque = collections.deque()
    try:
        while True:
            while len(waiting) < workers + 1:
                waiting.append(pool.submit(make, take()))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
