"""What is hidden from the model: whole items (MIM), spans of tokens (MLM), and in what share.

Letters: B examples of a batch, h items of a history, L tokens, S spans of all examples.
"""

from collections.abc import Callable

import tensorflow as tf

from recllm_tasks.prompts import windows
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.batches import (
    Batch,
    join,
    lengths_of,
    map_batches,
    of_columns,
    of_lengths,
    of_splits,
    places_of,
    rows_of,
    slices,
    starts_of,
    totals,
)
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Items
from recllm_tasks.prompts.vocabulary import SENTINELS

# Paper §4.1: the masking ratio of MIM and MLM.
MASKED_SHARE = 0.2

# Raffel et al. 2020: the mean length of a corrupted span, in tokens. The paper names none.
MEAN_SPAN = 3.0

# Paper §3.1.2: an MLM sub-sequence holds at least two items.
MIN_MLM_ITEMS = 2


def choose(seed: tf.Tensor, sizes: tf.Tensor, nums: tf.Tensor) -> tf.RaggedTensor:
    """Of `sizes[b]` places `nums[b]` different ones, each set of them equally likely.

    Args:
      seed: int32 [2].
      sizes: int64 [B].
      nums: int64 [B], at most `sizes`.

    Returns:
      int64 [B, nums], ascending in each row.
    """
    lengths, sizes, nums = nums, tf.cast(sizes, tf.int32), tf.cast(nums, tf.int32)
    width = tf.reduce_max(tf.concat([[0], sizes], axis=0))
    drawn = tf.random.stateless_uniform([tf.size(sizes), width], seed)
    drawn = tf.where(tf.range(width) < sizes[:, tf.newaxis], drawn, -1.0)
    most = tf.reduce_max(tf.concat([[0], nums], axis=0))
    places = tf.math.top_k(drawn, most, sorted=True).indices
    taken = tf.range(most) < nums[:, tf.newaxis]
    ascending = tf.sort(tf.where(taken, places, width), axis=1)
    return of_lengths(tf.cast(ascending[taken], tf.int64), lengths)


def sample_items(source: CatalogSource, min_items: int | None = None) -> Callable:
    """A preprocessor: `history` becomes a random span of the window, `windows.sample_spans`.

    Without `min_items` it is as long as the window.
    """

    @map_batches(num_seeds=1)
    def sample(batch: Batch, seed: tf.Tensor) -> Batch:
        window = source.info().window
        return windows.sample_spans(batch, seed, min_items or window, window)

    return sample


def mask_items(prompt: Prompt) -> Callable[..., tf.data.Dataset]:
    """A preprocessor that adds `masked` (bool [B, h]): a fifth of the items, at least one.

    Items that would not fit into the prompt's `inputs` are dropped first.

    Our choice: exactly round(0.2 h) items, as in Table 11 (2 of 10), not each with probability
    0.2, which would leave a third of the short sequences without a mask. Masks whose items would
    not fit into the targets are lifted, the newest first.
    """

    @map_batches(num_seeds=1)
    def add(batch: Batch, seed: tf.Tensor, sequence_length, output_features) -> Batch:
        writer = prompt.writer(sequence_length, output_features)
        batch = writer.fit(batch)
        history = batch["history"]
        sizes = lengths_of(history)
        nums = tf.minimum(sizes, tf.maximum(tf.constant(1, tf.int64), _share(sizes)))
        chosen = choose(seed, sizes, nums)
        places = chosen.values + rows_of(chosen, starts_of(history))
        masked = tf.scatter_nd(
            places[:, tf.newaxis], tf.ones_like(places, tf.bool), [history.row_splits[-1]]
        )
        masked = history.with_values(masked)
        targets = writer.targets
        if targets.room is not None:
            (slot,) = (part for part in prompt.template.targets if isinstance(part, Items))
            costs = targets.item_costs(slot, {**batch, "masked": masked})
            before = totals(costs.values)
            most = rows_of(costs, tf.gather(before, starts_of(costs)) + targets.room)
            masked = masked.with_values(masked.values & (before[1:] <= most))
        return {**batch, "masked": masked}

    return add


def _share(sizes: tf.Tensor) -> tf.Tensor:
    """`MASKED_SHARE` of each size, rounded, int64."""
    return tf.cast(tf.round(MASKED_SHARE * tf.cast(sizes, tf.float32)), tf.int64)


@map_batches(num_seeds=1)
def corrupt_spans(batch: Batch, seed: tf.Tensor, sequence_length, output_features) -> Batch:
    """T5's span corruption (Raffel et al. 2020) of the tokens in `inputs`.

    A fifth of the tokens, in spans of three on average, is replaced by one sentinel a span; the
    targets hold each sentinel and what it replaced. As in T5, the first span is kept and the last
    one corrupted. No more is corrupted than fits into the targets, or than there are sentinels.
    """
    vocabulary = output_features["inputs"].vocabulary
    inputs = batch["inputs"]
    sizes = lengths_of(inputs) - 1
    tokens = slices(inputs.values, starts_of(inputs), sizes)
    noise = num_noise(sizes, None if sequence_length is None else sequence_length["targets"])
    num_spans = tf.cast(tf.round(tf.cast(noise, tf.float32) / MEAN_SPAN), tf.int64)
    most_spans = tf.minimum(tf.constant(SENTINELS, tf.int64), sizes - noise)
    num_spans = tf.maximum(tf.constant(1, tf.int64), tf.minimum(num_spans, most_spans))
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    noise_lengths = split_into(noise, num_spans, seeds[0]).values
    kept_lengths = split_into(sizes - noise, num_spans, seeds[1]).values
    # Spans alternate; `starts` are those of the first and of what comes behind it.
    lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], axis=1), [-1])
    starts = tf.reshape(tf.cumsum(lengths, exclusive=True), [-1, 2])
    kept = slices(tokens.values, starts[:, 0], kept_lengths)
    hidden = slices(tokens.values, starts[:, 1], noise_lengths)
    spans = of_lengths(kept_lengths, num_spans)
    marks = of_columns(tf.cast(vocabulary.vocab_size - 1 - places_of(spans), tf.int32))
    eos = tf.constant([vocabulary.eos_id])

    def joined(pieces) -> tf.RaggedTensor:
        """The pieces of each span, the spans of each example, and EOS."""
        together = join(pieces)
        splits = tf.gather(together.row_splits, spans.row_splits)
        return join([of_splits(together.values, splits), eos])

    return {**batch, "inputs": joined([kept, marks]), "targets": joined([marks, hidden])}


def num_noise(sizes: tf.Tensor, targets_length: int | None) -> tf.Tensor:
    """How many of `sizes` tokens MLM corrupts, int64 [B]: a fifth, but not more than fit.

    None for the length of the targets sets no limit.
    """
    noise = tf.maximum(tf.constant(1, tf.int64), tf.minimum(_share(sizes), sizes - 1))
    return noise if targets_length is None else tf.minimum(noise, _most_noise(targets_length))


def _most_noise(length: int) -> int:
    """Tokens of which not more may be hidden, for the targets to have `length` at most."""
    # n tokens in round(n / 3) spans take n + round(n / 3) + EOS tokens of the targets.
    return int((length - 2) / (1 + 1 / MEAN_SPAN))


def split_into(totals: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.RaggedTensor:
    """`parts[b]` positive lengths that add up to `totals[b]`, every such split equally likely.

    Args:
      totals: int64 [B].
      parts: int64 [B], from 1 to `totals`.
      seed: int32 [2].

    Returns:
      int64 [B, parts].
    """
    ends = join([choose(seed, totals - 1, parts - 1), of_columns(totals - 1)])
    # Ends count from the start of the first example, so that one difference serves all.
    offsets = tf.cumsum(totals, exclusive=True)
    ends = ends.with_values(ends.values + 1 + rows_of(ends, offsets))
    before = tf.concat([[0], ends.values], axis=0)[: tf.size(ends.values)]
    return ends.with_values(ends.values - before)
