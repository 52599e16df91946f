"""Items that a prompt offers beside the true one: 99 for ranking, one for BPR (paper §4.1).

A dataset may be prepared with another number of candidates than 100; C is that number.
"""

from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from recllm_tasks.data.popularity import draw_by_popularity, user_seed
from recllm_tasks.prompts.source import CatalogSource

# Features that hold items offered to choose from: the target and negatives, as catalog rows.
OFFERS = ("candidates", "pair")

Example = Mapping[str, tf.Tensor]

fold_in = tf.random.experimental.stateless_fold_in

# Salts that keep the draws of one window apart. Folded in, not added: sums of hash and salt meet.
_POSITION, _NEGATIVES = 1, 2


def _cumulative_counts(source: CatalogSource) -> tf.Tensor:
    return tf.cumsum(tf.constant(source.catalog().train_count, tf.int64))


def list_candidates(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor that adds `candidates` (int32 [C]): the target among C - 1 negatives.

    Evaluation takes the negatives stored in the record. Training draws them by popularity, with
    replacement, from the items that are not in the user's training split; they and the target's
    place are fixed by the user's and the window's identity (Our choice: so that every run and
    every epoch ranks the same lists).
    """

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        cumulative, num_negatives = _cumulative_counts(source), source.info().candidates - 1

        def add(example: Example) -> dict[str, tf.Tensor]:
            # The target's place in the user's sequence: unlike the window's start it is another one
            # in each split, and so is the target's place among the candidates.
            place_in_sequence = example["window"] + tf.size(example["history"])
            seed = user_seed(example["user"], place_in_sequence)
            seeds = [fold_in(seed, salt) for salt in (_POSITION, _NEGATIVES)]
            drawn = tf.cond(
                tf.size(example["negatives"]) > 0,
                lambda: example["negatives"],
                lambda: draw_by_popularity(cumulative, example["exclude"], seeds[1], num_negatives),
            )
            place = tf.random.stateless_uniform([], seeds[0], 0, num_negatives + 1, tf.int32)
            target = example["target"][tf.newaxis]
            candidates = tf.concat([drawn[:place], target, drawn[place:]], axis=0)
            return {**example, "candidates": tf.ensure_shape(candidates, [num_negatives + 1])}

        return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def pair_with_negative(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor that adds `pair` (int32 [2]): target and a negative, in random order.

    The negative is drawn by popularity from what is not in the user's training split; both draws
    come from SeqIO's seeds, anew every epoch (paper §C.2: dynamic sampling).
    """

    @seqio.map_over_dataset(num_seeds=2)
    def add(example: Example, seeds) -> dict[str, tf.Tensor]:
        negative = draw_by_popularity(_cumulative_counts(source), example["exclude"], seeds[0], 1)
        pair = tf.concat([example["target"][tf.newaxis], negative], axis=0)
        swap = tf.random.stateless_uniform([], seeds[1]) < 0.5
        return {**example, "pair": tf.where(swap, pair[::-1], pair)}

    return add
