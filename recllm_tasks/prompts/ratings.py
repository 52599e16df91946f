"""Which items a user likes: ratings above the dataset's threshold, 3 in the paper (§4.1)."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from recllm_tasks.prompts.batch_steps import Batch, with_batches
from recllm_tasks.prompts.source import CatalogSource

# As the paper's datasets have it, and the answers of `p5.STARS`.
_MOST_STARS = 5


def mark_liked(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: adds `liked` and `disliked` (bool [h]) and `target_liked` (int32, 1 = liked).

    And `target_star` (int32), the target's whole stars less one, from 0 to 4. Our choice: a half
    star counts as a whole one, because what is above 3 stays above it.
    An item of the history without a rating is neither; an example whose target has none is left
    out, since it has no answer.
    """

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        threshold = source.info().like_threshold

        def mark(example):
            ratings = example["history_ratings"]
            stars = tf.clip_by_value(tf.math.ceil(example["target_rating"]), 1, _MOST_STARS)
            return {
                **example,
                "liked": ratings > threshold,
                "disliked": ratings <= threshold,
                "target_liked": tf.cast(example["target_rating"] > threshold, tf.int32),
                "target_star": tf.cast(stars, tf.int32) - 1,
            }

        rated = dataset.filter(lambda example: ~tf.math.is_nan(example["target_rating"]))
        return rated.map(mark, num_parallel_calls=tf.data.AUTOTUNE)

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        del seeds, sequence_length, output_features
        threshold, ratings = np.float32(source.info().like_threshold), batch["history_ratings"]
        stars = np.clip(np.ceil(batch["target_rating"]), 1, _MOST_STARS)
        return {
            **batch,
            "liked": ratings.with_values(ratings.values > threshold),
            "disliked": ratings.with_values(ratings.values <= threshold),
            "target_liked": (batch["target_rating"] > threshold).astype(np.int32),
            "target_star": stars.astype(np.int32) - 1,
        }

    return with_batches(preprocess, on_batch, kept=lambda batch: ~np.isnan(batch["target_rating"]))
