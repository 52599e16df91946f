"""Items that a prompt offers beside the true one: 99 for ranking, one for BPR (paper §4.1).

A dataset may be prepared with another number of candidates than 100; C is that number.
"""

from collections.abc import Callable, Mapping

import gin
import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.data.popularity import draw_by_popularity, user_seed
from recllm_tasks.prompts import draws
from recllm_tasks.prompts.batch_steps import Batch, with_batches
from recllm_tasks.prompts.ragged import Ragged, starts_of
from recllm_tasks.prompts.source import CatalogSource

# Features that hold items offered to choose from: the target and negatives, as catalog rows.
OFFERS = ("candidates", "pair")

Example = Mapping[str, tf.Tensor]

fold_in = tf.random.experimental.stateless_fold_in

# Salts that keep the draws of one window apart. Folded in, not added: sums of hash and salt meet.
_POSITION, _NEGATIVES = 1, 2


def _cumulative_counts(source: CatalogSource) -> tf.Tensor:
    return tf.cumsum(tf.constant(source.catalog().train_count, tf.int64))


@gin.configurable(module="candidates")
def ranking_negatives(each_epoch: bool = False) -> bool:
    """Whether training draws the negatives of ranking anew every epoch; not in the paper."""
    return each_epoch


def list_candidates(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor that adds `candidates` (int32 [C]): the target among C - 1 negatives.

    Evaluation takes the negatives stored in the record. Training draws them by popularity, with
    replacement, from the items that are not in the user's training split; they and the target's
    place are fixed by the user's and the window's identity (Our choice: so that every run and
    every epoch ranks the same lists), or with `ranking_negatives` by SeqIO's seeds.
    """

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        cumulative, num_negatives = _cumulative_counts(source), source.info().candidates - 1

        def add(example: Example, seed=None) -> dict[str, tf.Tensor]:
            is_stored = tf.size(example["negatives"]) > 0
            # The target's place in the user's sequence: unlike the window's start it is another one
            # in each split, and so is the target's place among the candidates.
            place_in_sequence = example["window"] + tf.size(example["history"])
            own_seed = user_seed(example["user"], place_in_sequence)
            if seed is not None:
                own_seed = tf.where(is_stored, tf.cast(own_seed, tf.int64), tf.stack(seed))
            seeds = [fold_in(own_seed, salt) for salt in (_POSITION, _NEGATIVES)]
            drawn = tf.cond(
                is_stored,
                lambda: example["negatives"],
                lambda: draw_by_popularity(cumulative, example["exclude"], seeds[1], num_negatives),
            )
            place = tf.random.stateless_uniform([], seeds[0], 0, num_negatives + 1, tf.int32)
            target = example["target"][tf.newaxis]
            candidates = tf.concat([drawn[:place], target, drawn[place:]], axis=0)
            return {**example, "candidates": tf.ensure_shape(candidates, [num_negatives + 1])}

        if ranking_negatives():
            return seqio.map_over_dataset(add, num_seeds=1)(dataset)
        return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        del sequence_length, output_features
        num_negatives = source.info().candidates - 1
        place_in_sequence = batch["window"] + batch["history"].lengths
        own = np.stack([batch["user_hash"], place_in_sequence], axis=1).astype(np.int32)
        (own_seeds,) = seeds or [own]
        drawn = draw_each_by_popularity(
            np.cumsum(source.catalog().train_count),
            batch["exclude"],
            draws.fold_in(own_seeds, _NEGATIVES),
            num_negatives,
        )
        zeros = np.zeros(len(own_seeds), np.int64)
        place = draws.uniform_int32(
            draws.fold_in(own_seeds, _POSITION), zeros, zeros + num_negatives + 1
        )[:, np.newaxis]
        columns = np.arange(num_negatives + 1)
        # Behind the target's place each negative stands one place further.
        shifted = np.minimum(columns - (columns > place), num_negatives - 1)
        negatives = np.take_along_axis(drawn, shifted, axis=1)
        candidates = np.where(columns == place, batch["target"][:, np.newaxis], negatives)
        return {**batch, "candidates": candidates}

    return with_batches(preprocess, on_batch, lambda: int(ranking_negatives()))


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

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        del sequence_length, output_features
        counts = np.cumsum(source.catalog().train_count)
        negative = draw_each_by_popularity(counts, batch["exclude"], seeds[0], 1)
        pair = np.concatenate([batch["target"][:, np.newaxis], negative], axis=1)
        swap = draws.uniform(seeds[1]) < np.float32(0.5)
        return {**batch, "pair": np.where(swap[:, np.newaxis], pair[:, ::-1], pair)}

    return with_batches(add, on_batch, num_seeds=2)


def draw_each_by_popularity(
    cumulative_counts: np.ndarray, excluded: Ragged, seeds: np.ndarray, num: int
) -> np.ndarray:
    """`data.popularity.draw_by_popularity` for each example of a batch.

    Args:
      cumulative_counts: int64 [N].
      excluded: catalog rows, one row an example; any order, may repeat.
      seeds: integers [B, 2].
      num: how many rows of the catalog.

    Returns:
      int64 [B, num].
    """
    # Example and catalog row as one number: sorted, and one of each (`np.unique` hashes: slow).
    pairs = np.sort(excluded.rows * len(cumulative_counts) + excluded.values)
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    examples, rows = np.divmod(pairs, len(cumulative_counts))
    splits = starts_of(np.bincount(examples, minlength=len(excluded)))
    starts = np.where(rows > 0, cumulative_counts[np.maximum(rows - 1, 0)], 0)
    removed = starts_of(cumulative_counts[rows] - starts)
    removed_of_all = removed[splits[1:]] - removed[splits[:-1]]
    total = cumulative_counts[-1]
    left = total - removed_of_all
    drawn = draws.uniform_int64(seeds, num, left)
    # Where each excluded interval would begin if those before it were gone; shifted by example, so
    # that one search serves all.
    adjusted = starts - (removed[:-1] - removed[splits[examples]]) + examples * total
    shift = np.arange(len(left))[:, np.newaxis] * total
    passed = np.searchsorted(adjusted, drawn + shift, side="right")
    removed_before = removed[passed] - removed[splits[:-1], np.newaxis]
    return np.searchsorted(cumulative_counts, drawn + removed_before, side="right")
