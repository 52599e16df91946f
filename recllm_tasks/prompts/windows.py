"""Which part of a user's sequence an example shows (paper, Algorithm 1 and §3.1.1)."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from recllm_tasks.data.options import Options
from recllm_tasks.prompts import draws
from recllm_tasks.prompts.batch_steps import Batch
from recllm_tasks.prompts.ragged import Ragged, join

# Paper §4.1: the sliding window w. An example shows up to w items and the item after them. A
# dataset may be prepared with another one.
WINDOW = Options.window


def count_windows(num_items: tf.Tensor | int, window: int = WINDOW) -> tf.Tensor | int:
    """Windows of a training sequence of `num_items`: max(1, L - w), as in paper Table 10."""
    return tf.maximum(1, num_items - window)


def cut_windows(
    record: Mapping[str, tf.Tensor], starts: tf.Tensor, window: int = WINDOW
) -> dict[str, tf.Tensor]:
    """The windows of one record, all of the same length.

    Args:
      record: `user` string, `items` int32 [n], `ratings` float32 [n], `negatives` int32 [m].
      starts: int32 [W], first item of each window.
      window: w.

    Returns:
      With W as the first axis of each: `user`, `window` (int32, the start), `history` (int32
      [W, h <= w], catalog rows, oldest first), `history_ratings` (float32 [W, h], NaN where
      unknown), `target` (int32), `target_rating` (float32), `negatives` (int32 [W, m], as stored),
      `exclude` (int32 [W, n], all items of the record: no negative may be one of them).
    """
    num_items, num_windows = tf.size(record["items"]), tf.size(starts)
    length = tf.minimum(window + 1, num_items)
    places = starts[:, tf.newaxis] + tf.range(length)
    items, ratings = tf.gather(record["items"], places), tf.gather(record["ratings"], places)

    def each(value: tf.Tensor) -> tf.Tensor:
        return tf.repeat(value[tf.newaxis], num_windows, axis=0)

    return {
        "user": each(record["user"]),
        "window": starts,
        "history": items[:, :-1],
        "history_ratings": ratings[:, :-1],
        "target": items[:, -1],
        "target_rating": ratings[:, -1],
        "negatives": each(record["negatives"]),
        "exclude": each(record["items"]),
    }


def training_windows(
    dataset: tf.data.Dataset, with_negatives: bool = False, window: int = WINDOW
) -> tf.data.Dataset:
    """Every window of each record: w items and the one after them, stride 1 (paper §C.2).

    `negatives` and `exclude` are kept on request only: of long sequences they are the bulk.
    """

    def of_record(record):
        starts = tf.range(count_windows(tf.size(record["items"]), window))
        windows = cut_windows(record, starts, window)
        if not with_negatives:
            del windows["negatives"], windows["exclude"]
        return tf.data.Dataset.from_tensor_slices(windows)

    return dataset.flat_map(of_record)


def last_window(dataset: tf.data.Dataset, window: int = WINDOW) -> tf.data.Dataset:
    """One example a record: its last item is the target, the w before it the history."""

    def of_record(record):
        start = tf.maximum(0, tf.size(record["items"]) - 1 - window)
        windows = cut_windows(record, start[tf.newaxis], window)
        return {name: values[0] for name, values in windows.items()}

    return dataset.map(of_record, num_parallel_calls=tf.data.AUTOTUNE)


def sample_span(
    example: dict[str, tf.Tensor], seed: tf.Tensor, min_items: tf.Tensor, window: int = WINDOW
) -> dict[str, tf.Tensor]:
    """Replaces the history by a random contiguous span of history and target.

    Its length is uniform in [min(min_items, w, n), min(w, n)], n being the items of history and
    target together, and its start uniform among those that fit.

    Args:
      example: one window of `cut_windows`.
      seed: int32 [2].
      min_items: scalar int32; w makes it the longest span, with nothing left to chance but which
        of two ends a full window drops.
      window: w.

    Returns:
      The example with `history` int32 [<= w]; its other features stay.
    """
    rows = tf.concat([example["history"], example["target"][tf.newaxis]], axis=0)
    longest = tf.minimum(window, tf.size(rows))
    seeds = tf.random.experimental.stateless_split(seed, 2)
    length = tf.random.stateless_uniform(
        [], seeds[0], tf.minimum(min_items, longest), longest + 1, tf.int32
    )
    start = tf.random.stateless_uniform([], seeds[1], 0, tf.size(rows) - length + 1, tf.int32)
    return {**example, "history": rows[start : start + length]}


def sample_spans(batch: Batch, seeds: np.ndarray, min_items: int, window: int = WINDOW) -> Batch:
    """`sample_span` of each example of a batch; ratings, no longer aligned, are left out.

    Args:
      batch: windows.
      seeds: int64 [B, 2].
      min_items: as there.
      window: w.
    """
    rows = join([batch["history"], Ragged.of_array(batch["target"][:, np.newaxis])], len(seeds))
    longest = np.minimum(window, rows.lengths)
    length_seeds, start_seeds = draws.split(seeds)
    shortest = np.minimum(min_items, longest)
    length = draws.uniform_int32(length_seeds, shortest, longest + 1)
    start = draws.uniform_int32(start_seeds, np.zeros_like(length), rows.lengths - length + 1)
    history = Ragged.of_slices(rows.values, rows.splits[:-1] + start, length)
    kept = {name: value for name, value in batch.items() if name != "history_ratings"}
    return {**kept, "history": history}
