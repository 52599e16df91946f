"""Batches of examples, which every step of a task works on, and `unbatch`, which ends them.

A batch maps features to tensors whose first axis is its examples: `tf.Tensor` [B, …], or
`tf.RaggedTensor` of B rows where lengths vary. A batch may be empty (B = 0): a host that shares a
stream with others sees their batches so, which keeps its own at the places that seeds follow from.

Letters: B examples of a batch, V values of all its rows.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

Batch = Mapping[str, tf.Tensor | tf.RaggedTensor]

# Examples of a batch, where nobody asks for another number: enough for each operation to be worth
# its call, and few enough to stay in the processor's cache.
SIZE = 1024


# For functions given to `tf.data.Dataset.map`: AutoGraph, which turns Python's `if` and `for` into
# TensorFlow's, is off. Ours have none on tensors, and it would double the time to the first batch.
plain = tf.autograph.experimental.do_not_convert


def unbatch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The last preprocessor of a task: from batches to single examples.

    Preprocessors after it work on single examples.
    """

    @plain
    def examples(batch: Batch) -> tf.data.Dataset:
        # A row of a ragged feature comes as a tensor, but its spec says so only after a map.
        return tf.data.Dataset.from_tensor_slices(batch).map(plain(lambda example: example))

    # `dataset.unbatch()` does the same at two thirds of the speed.
    return dataset.flat_map(examples)


def num_examples(batch: Batch) -> tf.Tensor:
    """B, int64 scalar."""
    first = next(iter(batch.values()))
    is_ragged = isinstance(first, tf.RaggedTensor)
    return first.nrows() if is_ragged else tf.shape(first, tf.int64)[0]


def keep(batch: Batch, kept: tf.Tensor) -> Batch:
    """The examples for which `kept`, bool [B], is true."""
    rows = tf.where(kept)[:, 0]
    return {name: tf.gather(value, rows) for name, value in batch.items()}


# What follows does for int64 what tf.ragged does for any type, in a fifth of the graph's nodes. The
# time to the first batch is the time to trace all steps, node by node: a slice has four.


def ranges(starts: tf.Tensor, limits: tf.Tensor) -> tf.RaggedTensor:
    """Row b is the whole numbers from `starts[b]` up to `limits[b]`, int64."""
    found = tf.raw_ops.RaggedRange(
        starts=starts, limits=limits, deltas=tf.constant(1, tf.int64), Tsplits=tf.int64
    )
    return of_splits(found.rt_dense_values, found.rt_nested_splits)


def of_splits(values: tf.Tensor, splits: tf.Tensor) -> tf.RaggedTensor:
    """Row b is `values[splits[b]:splits[b + 1]]`; int64 [B + 1]."""
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def of_lengths(values: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Rows of these lengths, int64 [B], one after the other."""
    return of_splits(values, tf.concat([[0], tf.cumsum(lengths)], axis=0))


def of_columns(values: tf.Tensor) -> tf.RaggedTensor:
    """[B] or [B, n] as B rows."""
    width = math.prod(values.shape[1:])
    flat = values if values.shape.rank == 1 else tf.reshape(values, [-1])
    return of_splits(flat, tf.range(0, tf.size(flat, tf.int64) + 1, width))


def starts_of(rows: tf.RaggedTensor) -> tf.Tensor:
    """Where each row starts, int64 [B]."""
    return rows.row_splits[:-1]


def limits_of(rows: tf.RaggedTensor) -> tf.Tensor:
    """Where each row ends, int64 [B]."""
    return tf.slice(rows.row_splits, [1], [-1])


def lengths_of(rows: tf.RaggedTensor) -> tf.Tensor:
    """How many values each row has, int64 [B]."""
    return limits_of(rows) - starts_of(rows)


def places_of(rows: tf.RaggedTensor) -> tf.Tensor:
    """The place of each value in its row, from 0, int64 [V]."""
    starts = starts_of(rows)
    return ranges(tf.zeros_like(starts), limits_of(rows) - starts).values


def rows_of(rows: tf.RaggedTensor, numbers: tf.Tensor) -> tf.Tensor:
    """What `numbers`, [B], has for the row of each value of `rows`, [V]."""
    values = tf.range(tf.size(rows.values, tf.int64))
    row_of_each = tf.searchsorted(rows.row_splits, values, side="right", out_type=tf.int64) - 1
    return tf.gather(numbers, row_of_each)


def slices(values: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Row b is `values[starts[b]:starts[b] + lengths[b]]`; int64 [B] both."""
    places = ranges(starts, starts + lengths)
    return places.with_values(tf.gather(values, places.values))


def first(rows: tf.RaggedTensor, most: int) -> tf.RaggedTensor:
    """The first `most` values of each row at most."""
    starts = starts_of(rows)
    places = ranges(starts, tf.minimum(starts + most, limits_of(rows)))
    return places.with_values(tf.gather(rows.values, places.values))


def totals(numbers: tf.Tensor) -> tf.Tensor:
    """Of [V] whole numbers the sum of those before each, and of all, int64 [V + 1]."""
    return tf.concat([[0], tf.cumsum(tf.cast(numbers, tf.int64))], axis=0)


def row_sums(rows: tf.RaggedTensor) -> tf.Tensor:
    """The sum of each row of whole numbers, int64 [B]."""
    return lengths_of(of_splits(rows.values, tf.gather(totals(rows.values), rows.row_splits)))


def join(pieces: Sequence[tf.RaggedTensor | tf.Tensor]) -> tf.RaggedTensor:
    """Row b is row b of every piece, one after the other.

    Args:
      pieces: with B rows, one of them ragged at least; or [n], which is the same in every row.
    """
    # All pieces lie behind one another in one ragged tensor, first those that are the same in
    # every row, a row each, then the rows of the others. Between two of these is a row too many,
    # as the splits of both are there.
    same = [piece for piece in pieces if not isinstance(piece, tf.RaggedTensor)]
    ragged = [piece for piece in pieces if isinstance(piece, tf.RaggedTensor)]
    ends = np.cumsum([0, *(piece.shape[0] for piece in same)])
    splits, values, begin = [ends[:-1]], list(same), ends[-1]
    for piece in ragged:
        splits.append(piece.row_splits + begin)
        values.append(piece.values)
        begin += tf.size(piece.values, tf.int64)
    num_splits = tf.size(ragged[0].row_splits, tf.int64)
    rows = tf.range(num_splits - 1)[:, tf.newaxis]
    numbers = {id(piece): number for number, piece in enumerate([*same, *ragged])}
    places = np.array([numbers[id(piece)] for piece in pieces])
    is_ragged = (places >= len(same)).astype(np.int64)
    first_rows = np.where(is_ragged, len(same), places)
    blocks = (places - len(same)) * is_ragged
    gathered = tf.raw_ops.RaggedGather(
        params_nested_splits=[tf.concat(splits, axis=0)],
        params_dense_values=tf.concat(values, axis=0),
        indices=tf.reshape(first_rows + blocks * num_splits + is_ragged * rows, [-1]),
        OUTPUT_RAGGED_RANK=1,
    )
    return of_splits(gathered.output_dense_values, gathered.output_nested_splits[0][:: len(pieces)])


def map_batches(
    function: Callable | None = None, *, num_seeds: int | None = None
) -> Callable[..., Any]:
    """`seqio.map_over_dataset` for a step on batches, which is `plain`."""
    if function is None:
        return functools.partial(map_batches, num_seeds=num_seeds)
    # Plain outside too, as otherwise SeqIO's own wrappers are converted.
    return plain(seqio.map_over_dataset(plain(function), num_seeds=num_seeds))
