"""Which part of a user's sequence an example shows (paper, Algorithm 1 and §3.1.1).

Letters: U users, W windows of all users, B examples of a batch, n items of a sequence.
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks.data.options import Options
from recllm_tasks.prompts.batches import (
    SIZE,
    Batch,
    join,
    lengths_of,
    map_batches,
    of_columns,
    of_lengths,
    ranges,
    slices,
    starts_of,
)

# Paper §4.1: the sliding window w. An example shows up to w items and the item after them. A
# dataset may be prepared with another one.
WINDOW = Options.window

# Which items of a training sequence are targets of its windows: as in the paper those with w items
# before them, or the last one of a shorter sequence; every item after the first; of each of the
# paper's windows, an item that is drawn anew each epoch (`targets.end_at_random`); or every w-th
# item up to the last, so that each item after the first stands in one window with those before it.
LAST, EVERY, RANDOM, WHOLE = TARGETS = ("last", "every", "random", "whole")


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Users' sequences, in the order of the records.

    Attributes:
      users: string [U], raw ids.
      items: int32 [U, n], rows of the catalog, oldest first.
      ratings: float32 [U, n], NaN where unknown.
      negatives: int32 [U, m], as stored; None where nobody needs them.
    """

    users: tf.Tensor
    items: tf.RaggedTensor
    ratings: tf.RaggedTensor
    negatives: tf.RaggedTensor | None

    @classmethod
    def parse(cls, records: tf.Tensor) -> "Sequences":
        """The sequences of records as they lie in a file, string [U]."""
        features = {"user": tf.io.FixedLenFeature([], tf.string)}
        for name, dtype in _RAGGED.items():
            features[name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
        found = tf.io.parse_example(records, features)
        items, negatives = tf.cast(found["items"], tf.int32), tf.cast(found["negatives"], tf.int32)
        return cls(found["user"], items, found["ratings"], negatives)


_RAGGED = {"items": tf.int64, "ratings": tf.float32, "negatives": tf.int64}


def stored_records(directory: str, split: str, most: int | None = None) -> tf.data.Dataset:
    """The records of a split as they lie in the files, unparsed, in batches; the first `most`.

    Reading them raises tf.errors.OpError where a file is damaged or a record is missing.
    """
    split_info = tfds.builder_from_directory(directory).info.splits[split]
    records = tf.data.TFRecordDataset([str(file) for file in split_info.filepaths])
    whole = tf.data.experimental.assert_cardinality(split_info.num_examples)
    return records.apply(whole).take(-1 if most is None else most).batch(SIZE)


def training_sequences(directory: str) -> Sequences:
    """The train split of a prepared dataset's folder, without negatives.

    Eight bytes an interaction, and the users' ids.
    """

    def parse(records):
        found = Sequences.parse(records)
        return found.users, found.items.values, found.ratings.values, lengths_of(found.items)

    parts = map_batches(parse)(stored_records(directory, "train"))
    users, items, ratings, lengths = (
        np.concatenate(part) for part in zip(*parts.prefetch(2).as_numpy_iterator())
    )
    # Outside of any graph, which would write them down, and could not beyond 2 GB.
    with tf.init_scope():
        splits = tf.constant(np.concatenate([[0], np.cumsum(lengths)]))
        rows = tf.RaggedTensor.from_row_splits(tf.constant(items), splits, validate=False)
        return Sequences(tf.constant(users), rows, rows.with_values(tf.constant(ratings)), None)


class TrainingWindows:
    """The windows of the train split, any of which is cut by its number.

    Those of a user come one after the other, in the order of their targets.
    """

    def __init__(self, sequences: Sequences, window: int = WINDOW, *, targets: str = LAST):
        """Args:
        sequences: `training_sequences`.
        window: w.
        targets: one of TARGETS. A sequence of one item makes one window with any of them, with an
          empty history. Our choice: so no user is left out, and all settings have the same users.
        """
        self._sequences, self._window = sequences, window
        self._starts = sequences.items.row_splits.numpy()
        last = np.diff(self._starts) - 1
        first = np.minimum(window if targets in (LAST, RANDOM) else 1, last)
        # Between the targets of one user.
        self._step = window if targets == WHOLE else 1
        # The number of each user's first window, int64 [U + 1].
        self._first = np.concatenate([[0], np.cumsum((last - first) // self._step + 1)])
        with tf.init_scope():
            # The place of a window's target is its number times the step plus this, int64 [U].
            self._offsets = tf.constant(last - self._step * (self._first[1:] - 1))
            self._first_tensor = tf.constant(self._first)

    def __len__(self) -> int:
        """W."""
        return int(self._first[-1])

    def numbers(self, *, rated: bool, with_history: bool) -> np.ndarray | None:
        """The windows whose target is rated, or whose history is not empty; None is all of them."""
        kept = np.ones(len(self), bool)
        users = np.repeat(np.arange(len(self._first) - 1), np.diff(self._first))
        places = np.arange(len(self)) * self._step + self._offsets.numpy()[users]
        if with_history:
            kept &= places > 0
        if rated:
            kept &= ~np.isnan(self._sequences.ratings.values.numpy()[self._starts[users] + places])
        return None if kept.all() else np.flatnonzero(kept)

    def cut(self, numbers: tf.Tensor, with_negatives: bool) -> Batch:
        """Windows by number, int64 [B]; see `cut_windows`.

        `exclude` is there only `with_negatives`: of long sequences it is the bulk.
        """
        users = tf.searchsorted(self._first_tensor, numbers, side="right", out_type=tf.int64) - 1
        places = numbers * self._step + tf.gather(self._offsets, users)
        batch = dict(cut_windows(self._sequences, users, places, self._window))
        if not with_negatives:
            del batch["exclude"]
        return batch


def cut_windows(
    sequences: Sequences, users: tf.Tensor, places: tf.Tensor, window: int = WINDOW
) -> Batch:
    """One window of each of some users: a target and the up to w items before it.

    Args:
      sequences: of U users.
      users: int64 [B], rows of `sequences`.
      places: int64 [B], of each target in its sequence.
      window: w.

    Returns:
      `user` (string [B]), `window` (int32 [B], the start), `history` (int32 [B, h <= w], catalog
      rows, oldest first), `history_ratings` (float32 [B, h], NaN where unknown), `target` (int32
      [B]), `target_rating` (float32 [B]), `exclude` (int32 [B, n], all items of the record: no
      negative may be one of them), and `negatives` (int32 [B, m]) where `sequences` has them.
    """
    items, ratings, negatives = sequences.items, sequences.ratings.values, sequences.negatives
    first = tf.gather(items.row_splits, users)
    starts = tf.maximum(places - window, 0)
    target, shown = first + places, ranges(first + starts, first + places)
    batch = {
        "user": tf.gather(sequences.users, users),
        "window": tf.cast(starts, tf.int32),
        "history": shown.with_values(tf.gather(items.values, shown.values)),
        "history_ratings": shown.with_values(tf.gather(ratings, shown.values)),
        "target": tf.gather(items.values, target),
        "target_rating": tf.gather(ratings, target),
        "exclude": tf.gather(items, users),
    }
    return batch if negatives is None else {**batch, "negatives": tf.gather(negatives, users)}


def last_windows(sequences: Sequences, window: int = WINDOW) -> Batch:
    """One example a user: the last item is the target, the w before it the history."""
    lengths = lengths_of(sequences.items)
    return cut_windows(sequences, tf.range(tf.size(lengths, tf.int64)), lengths - 1, window)


def latest_windows(sequences: Sequences, window: int = WINDOW) -> Batch:
    """One example a user without a target: the last w items are the history.

    Returns:
      What `cut_windows` returns, without `target` and `target_rating`; `negatives` are empty, since
      there is nothing to rank them against.
    """
    items, ratings = sequences.items, sequences.ratings.values
    lengths, first = lengths_of(items), starts_of(items)
    starts = tf.maximum(lengths - window, 0)
    shown = ranges(first + starts, first + lengths)
    none = of_lengths(tf.zeros([0], tf.int32), tf.zeros_like(lengths))
    return {
        "user": sequences.users,
        "window": tf.cast(starts, tf.int32),
        "history": shown.with_values(tf.gather(items.values, shown.values)),
        "history_ratings": shown.with_values(tf.gather(ratings, shown.values)),
        "exclude": items,
        "negatives": none,
    }


def sample_spans(batch: Batch, seed: tf.Tensor, min_items: int, window: int = WINDOW) -> Batch:
    """Replaces each history by a random contiguous span of history and target.

    Its length is uniform in [min(min_items, w, n), min(w, n)], n being the items of history and
    target together, and its start uniform among those that fit.

    Args:
      batch: windows.
      seed: int32 [2].
      min_items: w makes it the longest span, with nothing left to chance but which of two ends a
        full window drops.
      window: w.

    Returns:
      The batch with `history` int32 [B, <= w] and without its ratings, which no longer fit it.
    """
    rows = join([batch["history"], of_columns(batch["target"])])
    sizes = lengths_of(rows)
    longest = tf.minimum(tf.constant(window, tf.int64), sizes)
    shortest = tf.minimum(tf.constant(min_items, tf.int64), longest)
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    length = shortest + uniform_below(longest + 1 - shortest, seeds[0])
    start = uniform_below(sizes - length + 1, seeds[1])
    kept = {name: value for name, value in batch.items() if name != "history_ratings"}
    return {**kept, "history": slices(rows.values, starts_of(rows) + start, length)}


def uniform_below(sizes: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random whole number from 0 to `sizes[b]` - 1 for each b, int64 [B]."""
    bits = tf.random.stateless_uniform(tf.shape(sizes), seed, 0, 1 << 62, tf.int64)
    return bits % sizes
