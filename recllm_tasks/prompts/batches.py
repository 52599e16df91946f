"""Batches of examples, which every step of a task works on, and `unbatch`, which ends them.

A batch maps features to tensors whose first axis is its examples: `tf.Tensor` [B, …], or
`tf.RaggedTensor` of B rows where lengths vary. A batch may be empty (B = 0): a host that shares a
stream with others sees their batches so, which keeps its own at the places that seeds follow from.

Letters: B examples of a batch, V values of all its rows.
"""

from collections.abc import Mapping

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


def rows_of(rows: tf.RaggedTensor, values: tf.Tensor) -> tf.Tensor:
    """What `values` [B] has for the row of each value of `rows`, [V]."""
    return tf.repeat(values, rows.row_lengths())


def slices(values: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Row r is `values[starts[r]:starts[r] + lengths[r]]`; int64 [B] both."""
    places = tf.ragged.range(starts, starts + lengths)
    return places.with_values(tf.gather(values, places.values))


def last(rows: tf.RaggedTensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """The last `lengths[r]` values of each row; int64 [B]."""
    return slices(rows.values, rows.row_limits() - lengths, lengths)


def row_sums(rows: tf.RaggedTensor) -> tf.Tensor:
    """The sum of each row of integers, int64 [B]."""
    total = tf.cumsum(tf.concat([[0], tf.cast(rows.values, tf.int64)], axis=0))
    return tf.gather(total, rows.row_limits()) - tf.gather(total, rows.row_starts())


def running_sums(rows: tf.RaggedTensor) -> tf.Tensor:
    """At each value the sum of its row up to and including it, int64 [V]."""
    total = tf.cumsum(tf.concat([[0], tf.cast(rows.values, tf.int64)], axis=0))
    return total[1:] - rows_of(rows, tf.gather(total, rows.row_starts()))


def of_lengths(values: tf.Tensor, lengths: tf.Tensor) -> tf.RaggedTensor:
    """Rows of these lengths, one after the other."""
    return tf.RaggedTensor.from_row_lengths(values, tf.cast(lengths, tf.int64), validate=False)
