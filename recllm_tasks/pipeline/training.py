"""Training batches of both engines: mixed by rate, packed, sharded by host, from any step on.

Examples come in blocks. A block has one batch of each task, as large as the task's rate, and is
packed on its own: so any block can be left to another host, and rows do not depend on how many
cores or hosts there are.

Letters: M examples of a block, R its rows, B rows of a batch.
"""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError, check_number, check_whole
from recllm_tasks.pipeline import packing
from recllm_tasks.pipeline.examples import SIDES, tasks_and_rates, training_batches_of
from recllm_tasks.prompts.batches import first, plain
from recllm_tasks.prompts.source import ALL, BatchSource, Shard, kept

# Examples of a block. Packed together, they leave little of a row empty.
BLOCK = 4096

# Blocks that are ready before they are asked for.
_AHEAD = 2


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raises UserError unless both features have a length of at least one token."""
    if not isinstance(lengths, Mapping) or set(lengths) != set(SIDES):
        raise UserError(
            f"TASK_FEATURE_LENGTHS: got {lengths!r}, expected tokens of both sides, such as "
            "{'inputs': 1024, 'targets': 256}; correct it"
        )
    for name, length in lengths.items():
        check_whole(f"TASK_FEATURE_LENGTHS['{name}']", length, 1)


def blocks_of(
    found: seqio.Task | seqio.Mixture, lengths: Mapping[str, int], seed: int, shard: Shard = ALL
) -> tf.data.Dataset:
    """Endless blocks: `inputs` and `targets`, int32 [M, L], task by task.

    Our choice: rates are shares of every block, not chances, so that each block has all tasks.

    Args:
      found: registered; every task of it with a train split is read.
      lengths: of `inputs` and `targets`, in tokens.
      seed: SeqIO's, of order and of all that is sampled.
      shard: a host's blocks.

    Raises:
      UserError: a task has no example.
    """
    tasks, rates = tasks_and_rates(found)
    for task in tasks:
        if isinstance(task.source, BatchSource) and not task.source.num_examples():
            raise _nothing_to_train_on(task.name)
    if not tasks:
        raise _nothing_to_train_on(found.name)
    sizes = [BLOCK * rate / sum(rates) for rate in rates]
    parts = [
        training_batches_of(task, lengths, size, seed, shard) for task, size in zip(tasks, sizes)
    ]

    def join(*parts: Mapping[str, tf.RaggedTensor]) -> dict[str, tf.RaggedTensor]:
        return {
            side: first(tf.concat([part[side] for part in parts], axis=0), lengths[side])
            for side in SIDES
        }

    return (
        tf.data.Dataset.zip(tuple(parts))
        .map(plain(join), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(_AHEAD)
    )


def _nothing_to_train_on(name: str) -> UserError:
    return UserError(
        f"Nothing to train on in '{name}': got no example, expected at least one; prepare the "
        "dataset from more interactions, raise its rate, or choose another task"
    )


def training_batches(
    mixture: str,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    pack: bool = True,
    shard: Shard = ALL,
    workers: int | None = None,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Endless batches of rows, the same ones for the same seed, however many the cores.

    Args:
      mixture: a registered task or mixture.
      lengths: of `inputs` and `targets`, in tokens.
      batch_size: rows in a batch of this host.
      seed: of the order and of all that is sampled.
      start_step: batches to leave out, to resume where a run stopped. Their examples are made and
        planned, but not packed.
      pack: several examples in a row; else each has its own, padded.
      shard: of a host: blocks that the other hosts do not see.
      workers: threads that pack; None is one a core.

    Returns:
      Batches of the features of `packing.PACKED`, or of `packing.PADDED`, int32 [B, length].
    """
    check_lengths(lengths)
    blocks = iter(blocks_of(seqio.get_mixture_or_task(mixture), lengths, seed, shard))
    rows = _Rows(mixture, [lengths[side] for side in SIDES], seed, pack)
    numbered = zip(itertools.count(shard.index, shard.num), blocks)
    return _rebatched(_rows(numbered, rows, start_step * batch_size, workers), batch_size)


@kept(8)
def _rows_of_a_block(mixture: str, inputs: int, targets: int) -> int:
    lengths = {"inputs": inputs, "targets": targets}
    found = seqio.get_mixture_or_task(mixture)
    block = next(iter(blocks_of(found, lengths, seed=0).take(1)))
    return _Rows(mixture, [inputs, targets], 0, True).count((0, block))


def epoch_steps(
    mixture: str, lengths: Mapping[str, int], batch_size: int, epochs: float = 1.0
) -> int:
    """Steps in which training reads a task `epochs` times, that of a mixture that is through first.

    So settings of a run suit datasets of any size. Rows are counted in one packed block.

    Args:
      mixture: a task or mixture.
      lengths: of `inputs` and `targets`, in tokens.
      batch_size: rows in a batch.
      epochs: how often each example is read.

    Returns:
      At least 1.
    """
    check_lengths(lengths)
    check_whole("BATCH_SIZE", batch_size, 1)
    check_number("EPOCHS", epochs, 0)
    tasks, rates = tasks_and_rates(seqio.get_mixture_or_task(mixture))
    examples = min(t.source.num_examples() * sum(rates) / rate for t, rate in zip(tasks, rates))
    rows = examples / BLOCK * _rows_of_a_block(mixture, *(lengths[side] for side in SIDES))
    return max(1, round(epochs * rows / batch_size))


Numbered = tuple[int, Mapping[str, tf.RaggedTensor]]


class _Rows:
    """Makes the rows of a block.

    Not in the dataset, because Python plans them: threads of tf.data that wait for Python would
    hang a program that exits.
    """

    def __init__(self, mixture: str, lengths: Sequence[int], seed: int, pack: bool):
        self._mixture, self._lengths, self._seed, self._pack = mixture, lengths, seed, pack
        side = tf.RaggedTensorSpec([None, None], tf.int32)
        signature = [side, side, tf.TensorSpec([None], tf.int64)]
        self._make = tf.function(plain(self._rows_of), input_signature=signature)

    def _plan(self, block: Mapping[str, tf.RaggedTensor]) -> np.ndarray:
        """The row of each example, int64 [M]; UserError if there is none."""
        sizes = [np.diff(block[side].row_splits.numpy()) for side in SIDES]
        if not len(sizes[0]):
            raise _nothing_to_train_on(self._mixture)
        return packing.plan(*sizes, *self._lengths) if self._pack else np.arange(len(sizes[0]))

    def count(self, numbered: Numbered) -> int:
        """R."""
        return int(self._plan(numbered[1]).max()) + 1

    def make(self, numbered: Numbered) -> dict[str, np.ndarray]:
        """The rows of a block, in random order: a plan has them in the order of their lengths."""
        number, block = numbered
        row_of = self._plan(block)
        generator = np.random.Generator(np.random.Philox(key=[self._seed, number]))
        order = generator.permutation(int(row_of.max()) + 1)
        made = self._make(*(block[side] for side in SIDES), order[row_of])
        return {name: tensor.numpy() for name, tensor in made.items()}

    def _rows_of(self, inputs, targets, row_of) -> dict[str, tf.Tensor]:
        if self._pack:
            return packing.pack(inputs, targets, row_of, *self._lengths)
        order = tf.argsort(row_of)
        return packing.pad(tf.gather(inputs, order), tf.gather(targets, order), *self._lengths)


def _rows(
    numbered: Iterator[Numbered], rows: _Rows, skipped: int, workers: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of each block, but for the first `skipped` rows."""
    # Blocks that were counted ahead, until it is known which of them is the first to be made.
    counted: collections.deque[Numbered] = collections.deque()

    def remembered(blocks: Iterator[Numbered]) -> Iterator[Numbered]:
        for block in blocks:
            counted.append(block)
            yield block

    if skipped:
        for count in made_ahead(remembered(numbered), rows.count, workers):
            if count > skipped:
                break
            skipped -= count
            counted.popleft()
        numbered = itertools.chain([counted.popleft() for _ in range(len(counted))], numbered)
    for made in made_ahead(numbered, rows.make, workers):
        yield {name: array[skipped:] for name, array in made.items()}
        skipped = 0


def _rebatched(
    parts: Iterator[dict[str, np.ndarray]], batch_size: int
) -> Generator[dict[str, np.ndarray], None, None]:
    """The same rows, `batch_size` at a time."""
    left: dict[str, np.ndarray] = {}
    for part in parts:
        if left:
            part = {name: np.concatenate([left[name], part[name]]) for name in part}
        num = len(part["encoder_input_tokens"])
        whole = num - num % batch_size
        for start in range(0, whole, batch_size):
            yield {name: array[start : start + batch_size] for name, array in part.items()}
        left = {name: array[whole:] for name, array in part.items()}


def made_ahead(
    elements: Iterator[Any], make: Callable[[Any], Any], workers: int | None = None
) -> Iterator[Any]:
    """`make(element)` of each element, in order, on all cores; a few results are made ahead."""
    workers = workers or os.cpu_count() or 1
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="rows")
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for element in elements:
            waiting.append(pool.submit(make, element))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def num_examples(batch: Mapping[str, np.ndarray]) -> int:
    """Examples that are packed into a batch."""
    return int(batch["decoder_segment_ids"].max(axis=1).sum())
