"""Which items a user likes: ratings above the dataset's threshold, 3 in the paper (§4.1)."""

from collections.abc import Callable

import tensorflow as tf

from recllm_tasks.prompts.source import CatalogSource


def mark_liked(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: adds `liked` and `disliked` (bool [h]) and `target_liked` (int32, 1 = liked).

    An item of the history without a rating is neither; an example whose target has none is left
    out, since it has no answer.
    """

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        threshold = source.info().like_threshold

        def mark(example):
            ratings = example["history_ratings"]
            return {
                **example,
                "liked": ratings > threshold,
                "disliked": ratings <= threshold,
                "target_liked": tf.cast(example["target_rating"] > threshold, tf.int32),
            }

        rated = dataset.filter(lambda example: ~tf.math.is_nan(example["target_rating"]))
        return rated.map(mark, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess
