"""The batches of a task's examples, as they are before `unbatch`."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from recllm_tasks.prompts.batches import SIZE, unbatch
from recllm_tasks.prompts.source import ALL, BatchSource, Shard

SIDES = ("inputs", "targets")


def is_batched(task: seqio.Task) -> bool:
    """Whether the task's examples are made in batches, all the way to its end."""
    return isinstance(task.source, BatchSource) and task.preprocessors[-1:] == [unbatch]


def batches_of(task: seqio.Task, split: str, seed: int) -> tf.data.Dataset:
    """One epoch of a split in the order of its records, not cut to any length."""
    if is_batched(task):
        return _apply(task, task.source.get_dataset(split, shuffle=False), None, seed)
    dataset = task.get_dataset(None, split=split, shuffle=False, seed=seed)
    return dataset.ragged_batch(SIZE)


def training_batches_of(
    task: seqio.Task, lengths: Mapping[str, int], size: float, seed: int, shard: Shard = ALL
) -> tf.data.Dataset:
    """Endless batches with `inputs` and `targets`, shuffled, those of one host.

    A task whose last preprocessors work on single examples is batched again after them. Of its own
    random steps, those after `unbatch` draw for the examples of one host, whichever they are.

    Args:
      task: with a train split.
      lengths: of `inputs` and `targets`, in tokens.
      size: examples of a batch; see `BatchSource.training_batches`.
      seed: of order and sampling.
      shard: the host's.
    """
    if is_batched(task):
        dataset = task.source.training_batches(size, seed=seed, endless=True, shard=shard)
        return _apply(task, dataset, lengths, seed).shard(shard.num, shard.index)
    dataset = task.get_dataset(
        lengths,
        split="train",
        shuffle=True,
        seed=seed,
        num_epochs=None,
        shard_info=seqio.ShardInfo(shard.index, shard.num),
    )
    dataset = dataset.map(lambda example: {side: example[side] for side in SIDES})
    return dataset.ragged_batch(max(1, round(size)), row_splits_dtype=tf.int64)


def _apply(
    task: seqio.Task, dataset: tf.data.Dataset, lengths: Mapping[str, int] | None, seed: int
) -> tf.data.Dataset:
    """The preprocessors before `unbatch`, with the seeds that SeqIO numbers for them."""
    with seqio.utils.map_seed_manager(seed):
        for step in task.preprocessors[:-1]:
            step = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=lengths, output_features=task.output_features
            )
            dataset = step(dataset)
    return dataset


def tasks_and_rates(
    found: seqio.Task | seqio.Mixture,
) -> tuple[list[seqio.Task], list[float]]:
    """The tasks that are trained on, those with a train split and a rate, and their rates."""
    tasks = [task for task in seqio.get_subtasks(found) if "train" in task.splits]
    if not isinstance(found, seqio.Mixture):
        return tasks, [1.0] * len(tasks)
    rates = [(task, float(found.get_rate(task))) for task in tasks]
    return [task for task, rate in rates if rate > 0], [rate for _, rate in rates if rate > 0]
