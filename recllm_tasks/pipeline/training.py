"""Training batches of both engines: mixed by rate, packed, sharded by host, from any step on.

Examples come in blocks. A block has one batch of each task, as large as the task's rate, and is
packed on its own: so any block can be left to another host, and rows do not depend on how many
cores or hosts there are.

Letters: M examples of a block, R its rows, B rows of a batch.
"""

import os
from collections.abc import Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.pipeline import packing
from recllm_tasks.pipeline.examples import SIDES, tasks_and_rates, training_batches_of
from recllm_tasks.prompts.source import ALL, BatchSource, Shard

# Examples of a block. Packed together, they leave little of a row empty.
BLOCK = 4096

# Blocks that are ready before they are asked for.
_AHEAD = 2


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raises UserError unless both features have a length of at least one token."""
    if not isinstance(lengths, Mapping) or set(lengths) != set(SIDES):
        raise UserError(
            f"TASK_FEATURE_LENGTHS: got {lengths!r}, expected tokens of both sides, such as "
            "{'inputs': 1024, 'targets': 128}; correct it"
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
            raise UserError(
                f"Nothing to train on in '{task.name}': got no example, expected at least one; "
                "prepare the dataset from more interactions, or choose another task"
            )
    sizes = [BLOCK * rate / sum(rates) for rate in rates]
    parts = [
        training_batches_of(task, lengths, size, seed, shard) for task, size in zip(tasks, sizes)
    ]

    def join(*parts: Mapping[str, tf.RaggedTensor]) -> dict[str, tf.RaggedTensor]:
        return {side: tf.concat([part[side] for part in parts], axis=0) for side in SIDES}

    return tf.data.Dataset.zip(tuple(parts)).map(join, num_parallel_calls=_workers())


def training_dataset(
    mixture: str,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    pack: bool = True,
    shard: Shard = ALL,
) -> tf.data.Dataset:
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

    Returns:
      Batches of the features of `packing.PACKED`, or of `packing.PADDED`, int32 [B, length].
    """
    check_lengths(lengths)
    sizes = [lengths[side] for side in SIDES]
    skipped = start_step * batch_size

    def plan(number: tf.Tensor, block: Mapping[str, tf.RaggedTensor]):
        """The row of each example, in random order: a plan has rows in the order of lengths."""
        sides = [block[side] for side in SIDES]
        if pack:
            counts = [side.row_lengths() for side in sides]
            row_of = tf.numpy_function(
                lambda *counts: packing.plan(*counts, *sizes), counts, tf.int64, stateful=False
            )
            row_of = tf.ensure_shape(row_of, [None])
        else:
            row_of = tf.range(sides[0].nrows())
        rows = tf.reduce_max(row_of) + 1
        order = tf.random.experimental.stateless_shuffle(tf.range(rows), tf.stack([seed, number]))
        return (*sides, tf.gather(order, row_of), rows)

    def count(passed: tf.Tensor, planned):
        """Adds how many of a block's rows are to be left out."""
        *_, rows = planned
        return passed + rows, (*planned, tf.clip_by_value(skipped - passed, 0, rows))

    def make(inputs, targets, row_of, rows, left_out) -> dict[str, tf.Tensor]:
        if pack:
            made = packing.pack(inputs, targets, row_of, *sizes)
        else:
            order = tf.argsort(row_of)
            made = packing.pad(tf.gather(inputs, order), tf.gather(targets, order), *sizes)
        return {name: value[left_out:] for name, value in made.items()}

    workers = _workers()
    blocks = blocks_of(seqio.get_mixture_or_task(mixture), lengths, seed, shard)
    numbers = tf.data.Dataset.counter(shard.index, shard.num)
    planned = tf.data.Dataset.zip((numbers, blocks)).map(plan, num_parallel_calls=workers)
    counted = planned.scan(tf.constant(0, tf.int64), count)
    wanted = counted.filter(lambda *block: block[-1] < block[-2])
    rows = wanted.map(make, num_parallel_calls=workers).prefetch(_AHEAD)
    return rows.rebatch(batch_size).with_options(_options())


def training_batches(
    mixture: str,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    pack: bool = True,
    shard: Shard = ALL,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `training_dataset` as arrays."""
    dataset = training_dataset(
        mixture, lengths, batch_size, seed, start_step, pack=pack, shard=shard
    )
    return iter(dataset.as_numpy_iterator())


def num_examples(batch: Mapping[str, np.ndarray]) -> int:
    """Examples that are packed into a batch."""
    return int(batch["decoder_segment_ids"].max(axis=1).sum())


def _workers() -> int:
    return os.cpu_count() or 1


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    return options
