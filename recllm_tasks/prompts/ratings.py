"""Which items a user likes: ratings above the dataset's threshold, 3 in the paper (§4.1)."""

from collections.abc import Callable

import tensorflow as tf

from recllm_tasks.prompts.batches import Batch, map_batches
from recllm_tasks.prompts.source import CatalogSource

# The most stars of the paper's datasets, and the answers of `p5.STARS`.
_MOST_STARS = 5


def mark_liked(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: adds `liked` and `disliked` (bool [B, h]) and `target_liked` (int32 [B]).

    `mark` (int32 [B, h]) says the same of the history in one number: 0 is not rated, 1 is disliked
    and 2 is liked.
    It also adds `target_star` (int32 [B]), the target's whole stars less one, from 0 to 4. Our
    choice: half a star is rounded up, so that a rating above 3 stays above it.
    An item of the history without a rating is neither liked nor disliked.
    """

    @map_batches
    def mark(batch: Batch) -> Batch:
        threshold = source.info().like_threshold
        ratings = batch["history_ratings"]
        liked, disliked = ratings.values > threshold, ratings.values <= threshold
        mark = 2 * tf.cast(liked, tf.int32) + tf.cast(disliked, tf.int32)
        stars = tf.clip_by_value(tf.math.ceil(batch["target_rating"]), 1, _MOST_STARS)
        return {
            **batch,
            "liked": ratings.with_values(liked),
            "disliked": ratings.with_values(disliked),
            "mark": ratings.with_values(mark),
            "target_liked": tf.cast(batch["target_rating"] > threshold, tf.int32),
            "target_star": tf.cast(stars, tf.int32) - 1,
        }

    return mark
