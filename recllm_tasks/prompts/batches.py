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

import seqio
import tensorflow as tf

Batch = Mapping[str, tf.Tensor | tf.RaggedTensor]

# Examples of a batch, where nobody asks for another number: enough for each operation to be worth
# its call, and few enough to stay in the processor's cache.
SIZE = 1024


def unbatch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The last preprocessor of a task: from batches to single examples.

    Preprocessors after it work on single examples.
    """
    # A row of a ragged feature comes as a tensor, but its spec says so only after a map.
    return dataset.unbatch().map(lambda example: example)


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
# time to the first batch is the time to trace all steps.


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
    num = tf.shape(values, tf.int64)[0]
    return of_splits(tf.reshape(values, [-1]), tf.range(0, num * width + 1, width))


def bounds(rows: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each row starts and where it ends, int64 [B] both."""
    return rows.row_splits[:-1], rows.row_splits[1:]


def lengths_of(rows: tf.RaggedTensor) -> tf.Tensor:
    """How many values each row has, int64 [B]."""
    starts, limits = bounds(rows)
    return limits - starts


def places_of(rows: tf.RaggedTensor) -> tf.Tensor:
    """The place of each value in its row, from 0, int64 [V]."""
    lengths = lengths_of(rows)
    return ranges(tf.zeros_like(lengths), lengths).values


def rows_of(rows: tf.RaggedTensor, numbers: tf.Tensor) -> tf.Tensor:
    """What `numbers`, int64 [B], has for the row of each value of `rows`, [V]."""
    return ranges(numbers, numbers + lengths_of(rows)).values - places_of(rows)


def slices(values: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Row b is `values[starts[b]:starts[b] + lengths[b]]`; int64 [B] both."""
    places = ranges(starts, starts + lengths)
    return places.with_values(tf.gather(values, places.values))


def last(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """The last `lengths[b]` values of each row; int64 [B]."""
    return slices(rows.values, bounds(rows)[1] - lengths, lengths)


def first(rows: tf.RaggedTensor, most: int) -> tf.RaggedTensor:
    """The first `most` values of each row at most."""
    return slices(rows.values, bounds(rows)[0], tf.minimum(lengths_of(rows), most))


def row_sums(rows: tf.RaggedTensor) -> tf.Tensor:
    """The sum of each row of whole numbers, int64 [B]."""
    starts, limits = bounds(rows)
    total = tf.concat([[0], tf.cumsum(tf.cast(rows.values, tf.int64))], axis=0)
    return tf.gather(total, limits) - tf.gather(total, starts)


def running_sums(rows: tf.RaggedTensor) -> tf.Tensor:
    """At each value the sum of its row up to and including it, int64 [V]."""
    total = tf.concat([[0], tf.cumsum(tf.cast(rows.values, tf.int64))], axis=0)
    return total[1:] - rows_of(rows, tf.gather(total, bounds(rows)[0]))


def join(pieces: Sequence[tf.RaggedTensor | tf.Tensor]) -> tf.RaggedTensor:
    """Row b is row b of every piece, one after the other.

    Args:
      pieces: with B rows, one of them ragged at least; or [n], which is the same in every row.
    """
    num = next(p for p in pieces if isinstance(p, tf.RaggedTensor)).row_splits[1:]
    values, starts, limits = [], [], []
    begin = tf.constant(0, tf.int64)
    for piece in pieces:
        if isinstance(piece, tf.RaggedTensor):
            start, limit = bounds(piece)
            flat = piece.values
        else:
            start, flat = tf.zeros_like(num), piece
            limit = tf.fill(tf.shape(num), tf.size(flat, tf.int64))
        values.append(flat)
        starts.append(start + begin)
        limits.append(limit + begin)
        begin += tf.size(flat, tf.int64)
    places = ranges(*(tf.reshape(tf.stack(ends, axis=1), [-1]) for ends in (starts, limits)))
    together = tf.gather(tf.concat(values, axis=0), places.values)
    return of_splits(together, places.row_splits[:: len(pieces)])


# For functions given to `tf.data.Dataset.map`: AutoGraph, which turns Python's `if` and `for` into
# TensorFlow's, is off. Ours have none on tensors, and it would double the time to the first batch.
plain = tf.autograph.experimental.do_not_convert


def map_batches(
    function: Callable | None = None, *, num_seeds: int | None = None
) -> Callable[..., Any]:
    """`seqio.map_over_dataset` for a step on batches, which is `plain`."""
    if function is None:
        return functools.partial(map_batches, num_seeds=num_seeds)
    return seqio.map_over_dataset(plain(function), num_seeds=num_seeds)
