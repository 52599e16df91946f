"""Draws of items by their popularity in the train split.

Letters: N items of the catalog, L items to leave out.
"""

import tensorflow as tf


def draw_by_popularity(
    cumulative_counts: tf.Tensor, excluded_rows: tf.Tensor, seed: tf.Tensor, num: int
) -> tf.Tensor:
    """Draws `num` catalog rows, with replacement, as often as they occur in the train split.

    Paper §4.1 samples by popularity; its Table 11 lists an item twice, so with replacement. The
    draw is exact: one uniform number is mapped through the inverse of the cumulative distribution
    from which the excluded items' mass is cut out, and nothing is rejected.

    Args:
      cumulative_counts: int64 [N], inclusive cumulative sum of the train counts.
      excluded_rows: int32 [L], rows never drawn; any order, may repeat.
      seed: int32 [2]; the same seed gives the same draw, on every device.
      num: how many rows.

    Returns:
      int32 [num]. Rows of count 0 are never drawn.

    Raises:
      tf.errors.InvalidArgumentError: if nothing is left to draw from. `prepare` refuses a dataset
        in which a user's items leave nothing.
    """
    cumulative_counts = tf.convert_to_tensor(cumulative_counts, tf.int64)
    rows = tf.sort(tf.unique(excluded_rows).y)
    ends = tf.gather(cumulative_counts, rows)
    starts = tf.where(rows > 0, tf.gather(cumulative_counts, tf.maximum(rows - 1, 0)), 0)
    removed = tf.concat([[tf.constant(0, tf.int64)], tf.cumsum(ends - starts)], axis=0)
    left = cumulative_counts[-1] - removed[-1]
    uniform = tf.random.stateless_uniform(
        [num], seed, minval=tf.constant(0, tf.int64), maxval=left, dtype=tf.int64, alg="philox"
    )
    # Where each excluded interval would begin if those before it were gone.
    adjusted_starts = starts - removed[:-1]
    passed = tf.searchsorted(adjusted_starts, uniform, side="right")
    return tf.searchsorted(cumulative_counts, uniform + tf.gather(removed, passed), side="right")


def user_seed(user: tf.Tensor, salt: tf.Tensor | int) -> tf.Tensor:
    """A seed (int32 [2]) from a user's raw id (string scalar) and a salt (int32) alone."""
    user_hash = tf.strings.to_hash_bucket_fast(user, 2**31 - 1)
    return tf.stack([tf.cast(user_hash, tf.int32), tf.cast(salt, tf.int32)])
