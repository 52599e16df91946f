"""Which items a user likes: ratings above 3 (paper §4.1)."""

import tensorflow as tf

LIKED_ABOVE = 3.0


def mark_liked(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Adds `liked` and `disliked` (bool [h]) and `target_liked` (int32 scalar, 1 = liked).

    An item of the history without a rating is neither; an example whose target has none is left
    out, since it has no answer.
    """

    def mark(example):
        ratings = example["history_ratings"]
        return {
            **example,
            "liked": ratings > LIKED_ABOVE,
            "disliked": ratings <= LIKED_ABOVE,
            "target_liked": tf.cast(example["target_rating"] > LIKED_ABOVE, tf.int32),
        }

    rated = dataset.filter(lambda example: ~tf.math.is_nan(example["target_rating"]))
    return rated.map(mark, num_parallel_calls=tf.data.AUTOTUNE)
