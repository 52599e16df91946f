"""Items that a prompt offers beside the true one: 99 for ranking, one for BPR (paper §4.1).

A dataset may be prepared with another number of candidates than 100; C is that number.

Letters: B examples of a batch.
"""

from collections.abc import Callable

import gin
import tensorflow as tf

from recllm_tasks.data.negatives import Remaining, draw_distinct, fold_in, uniform, user_seeds
from recllm_tasks.data.options import DISTINCT
from recllm_tasks.prompts.batches import Batch, lengths_of, map_batches
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.windows import uniform_below

# Features that hold items offered to choose from: the target and negatives, as catalog rows.
OFFERS = ("candidates", "pair")

# Salts that keep the draws of one window apart. Folded in, not added: sums of hash and salt meet.
_POSITION, _NEGATIVES = 1, 2


@gin.configurable(module="candidates")
def ranking_negatives(each_epoch: bool = False) -> bool:
    """Whether training draws the negatives of ranking anew every epoch; not in the paper."""
    return each_epoch


def list_candidates(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor that adds `candidates` (int32 [B, C]): the target among C - 1 negatives.

    Evaluation takes the negatives stored in the record. Training draws them by popularity from the
    items that are not in the user's training split, with replacement unless the dataset's
    candidates are distinct. They and the target's place are fixed by the user's and the window's
    identity (Our choice: so that every run and every epoch ranks the same lists), or with
    `ranking_negatives` by SeqIO's seeds.
    """

    def add(batch: Batch, seed: tf.Tensor | None = None) -> Batch:
        num = source.info().candidates - 1
        # The target's place in the user's sequence: unlike the window's start it is another one in
        # each split, and so is the target's place among the candidates.
        place_in_sequence = batch["window"] + tf.cast(lengths_of(batch["history"]), tf.int32)
        seeds = user_seeds(batch["user"], place_in_sequence)
        if "negatives" in batch:
            place, _ = _draw(seeds, tf.ones_like(seeds[:, 0], tf.int64), num)
            negatives = tf.reshape(batch["negatives"].values, [-1, num])
        else:
            if seed is not None:
                seeds = tf.random.stateless_uniform(
                    tf.shape(seeds), seed, None, None, dtype=tf.int32
                )
            place, negatives = _draw_items(source, seeds, batch["exclude"], num)
        place, columns = place[:, tf.newaxis], tf.range(num + 1)
        # Behind the target's place each negative stands one place further.
        shifted = tf.minimum(columns - tf.cast(columns > place, tf.int32), num - 1)
        negatives = tf.gather(negatives, shifted, batch_dims=1)
        candidates = tf.where(columns == place, batch["target"][:, tf.newaxis], negatives)
        return {**batch, "candidates": tf.ensure_shape(candidates, [None, num + 1])}

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return map_batches(add, num_seeds=1 if ranking_negatives() else None)(dataset)

    return preprocess


def pair_with_negative(source: CatalogSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor that adds `pair` (int32 [B, 2]): target and a negative, in random order.

    The negative is drawn by popularity from what is not in the user's training split, anew every
    epoch (paper §C.2: dynamic sampling).
    """

    @map_batches(num_seeds=2)
    def add(batch: Batch, seeds: tuple[tf.Tensor, tf.Tensor]) -> Batch:
        remaining = Remaining(_cumulative_counts(source), batch["exclude"])
        negative = remaining.items(uniform_below(remaining.left, seeds[0])[:, tf.newaxis])
        pair = tf.concat([batch["target"][:, tf.newaxis], negative], axis=1)
        swap = tf.random.stateless_uniform(tf.shape(negative), seeds[1]) < 0.5
        return {**batch, "pair": tf.where(swap, pair[:, ::-1], pair)}

    return add


def _cumulative_counts(source: CatalogSource) -> tf.Tensor:
    return tf.cumsum(tf.constant(source.catalog().train_count, tf.int64))


def _draw_items(
    source: CatalogSource, seeds: tf.Tensor, excluded_rows: tf.RaggedTensor, num: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """A place among `num` + 1, int32 [B], and `num` items that are not excluded, int32 [B, num]."""
    cumulative_counts = _cumulative_counts(source)
    if source.info().candidate_sampling == DISTINCT:
        place, _ = _draw(seeds, tf.ones_like(seeds[:, 0], tf.int64), num)
        of_items = tf.map_fn(lambda seed: fold_in(seed, (_NEGATIVES,))[0], seeds)
        return place, draw_distinct(cumulative_counts, excluded_rows, of_items, num)
    remaining = Remaining(cumulative_counts, excluded_rows)
    place, numbers = _draw(seeds, remaining.left, num)
    return place, remaining.items(numbers)


def _draw(seeds: tf.Tensor, bounds: tf.Tensor, num: int) -> tuple[tf.Tensor, tf.Tensor]:
    """A place among `num` + 1, int32 [B], and `num` numbers below each bound, int64 [B, num].

    Args:
      seeds: int32 [B, 2], of each example.
      bounds: int64 [B].
      num: C - 1.
    """

    def draw(each: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        seed, bound = each
        of_place, of_numbers = fold_in(seed, (_POSITION, _NEGATIVES))
        return uniform(of_place, 1, tf.constant(num + 1))[0], uniform(of_numbers, num, bound)

    signature = (tf.TensorSpec([], tf.int32), tf.TensorSpec([num], tf.int64))
    return tf.map_fn(draw, (seeds, bounds), fn_output_signature=signature)
