"""The negatives of the ranking candidates, drawn once and stored."""

import numpy as np
import tensorflow as tf

from recllm_tasks.data.options import Options
from recllm_tasks.data.popularity import draw_by_popularity, user_seed
from recllm_tasks.data.sequences import Sequences
from recllm_tasks.errors import UserError

SPLITS = ("validation", "test")


def check_enough_items(name: str, sequences: Sequences, train_count: np.ndarray) -> None:
    """Raises `UserError` if some user's items leave no item of the train split to draw."""
    # No user repeats an item, so only a user of that many can have all.
    trained = np.count_nonzero(train_count)
    exhausted = [
        user
        for user in np.flatnonzero(sequences.lengths >= trained)
        if np.count_nonzero(train_count[sequences.items[sequences.of_split(user, "test")]])
        == trained
    ]
    if exhausted:
        (first,) = sequences.take(np.array(exhausted[:1])).users
        raise UserError(
            f"no negatives for '{name}': got user '{first}' "
            f"({len(exhausted)} such users in all), whose items are all that the train split has, "
            "expected at least one other item; take a larger dataset"
        )


def draw_negatives(
    sequences: Sequences,
    train_count: np.ndarray,
    seed: int,
    split: str,
    num: int = Options.candidates - 1,
) -> np.ndarray:
    """Draws the negatives of all users for `validation` or `test`: int32 [users, num].

    None is an item of the user's whole sequence (Paper §4.1: 99 negatives by popularity). The draw
    depends on `seed`, the user's raw id, the split and the counts alone.
    """
    cumulative_counts = tf.constant(np.cumsum(train_count), tf.int64)
    salt = seed * len(SPLITS) + SPLITS.index(split)
    items = tf.RaggedTensor.from_row_splits(sequences.items, sequences.offsets)

    def draw(user: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        return draw_by_popularity(cumulative_counts, items, user_seed(user, salt), num)

    draws = (
        tf.data.Dataset.from_tensor_slices((sequences.users, items))
        .map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(1024)
    )
    return np.concatenate(list(draws.as_numpy_iterator()))
