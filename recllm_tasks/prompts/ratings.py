"""Which items a user likes: ratings above the dataset's threshold, 3 in the paper (§4.1)."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from recllm_tasks.prompts.batch_steps import Batch, with_batches
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

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        del seeds, sequence_length, output_features
        threshold, ratings = np.float32(source.info().like_threshold), batch["history_ratings"]
        return {
            **batch,
            "liked": ratings.with_values(ratings.values > threshold),
            "disliked": ratings.with_values(ratings.values <= threshold),
            "target_liked": (batch["target_rating"] > threshold).astype(np.int32),
        }

    return with_batches(preprocess, on_batch, kept=lambda batch: ~np.isnan(batch["target_rating"]))
