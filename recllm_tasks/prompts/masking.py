"""What is hidden from the model: whole items (MIM), spans of tokens (MLM), and in what share."""

from collections.abc import Callable, Mapping

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.prompts import draws, windows
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.batch_steps import Batch, with_batches
from recllm_tasks.prompts.ragged import Ragged, join, starts_of
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary import SENTINELS

# Paper §4.1: the masking ratio of MIM and MLM.
MASKED_SHARE = 0.2

# Raffel et al. 2020: the mean length of a corrupted span, in tokens. The paper names none.
MEAN_SPAN = 3.0

# Paper §3.1.2: an MLM sub-sequence holds at least two items.
MIN_MLM_ITEMS = 2

Example = Mapping[str, tf.Tensor]


def choose(seed: tf.Tensor, size: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """bool [size]: `num` of `size` places, each set of them equally likely."""
    order = tf.argsort(tf.random.stateless_uniform([size], seed))
    return tf.scatter_nd(order[:num, tf.newaxis], tf.ones([num], tf.bool), [size])


def sample_items(
    source: CatalogSource, min_items: int | None = None
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: `history` becomes a random span of the window, `windows.sample_span`.

    Without `min_items` it is as long as the window. A user with one training item has no such span
    and is left out.
    """

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        window = source.info().window
        shortest = tf.constant(min_items or window)

        @seqio.map_over_dataset(num_seeds=1)
        def sample(example: Example, seed) -> dict[str, tf.Tensor]:
            return windows.sample_span(example, seed, shortest, window)

        return sample(dataset.filter(lambda example: tf.size(example["history"]) > 0))

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        del sequence_length, output_features
        window = source.info().window
        return windows.sample_spans(batch, seeds[0], min_items or window, window)

    return with_batches(
        preprocess, on_batch, num_seeds=1, kept=lambda batch: batch["history"].lengths > 0
    )


def mask_items(prompt: Prompt) -> Callable[..., tf.data.Dataset]:
    """A preprocessor that adds `masked` (bool [h]): a fifth of the items, at least one.

    Our choice: exactly round(0.2 h) items, as in Table 11 (2 of 10), not each with probability
    0.2, which would leave a third of the short sequences without a mask. Masks whose items would
    not fit into the targets are lifted, the newest first.
    """

    @seqio.map_over_dataset(num_seeds=1)
    def add(example: Example, seed, sequence_length=None, output_features=None):
        targets = prompt.writer(sequence_length, output_features).targets
        size = tf.size(example["history"])
        num = tf.maximum(1, tf.cast(tf.round(MASKED_SHARE * tf.cast(size, tf.float32)), tf.int32))
        masked = choose(seed, size, num)
        if targets.room is not None:
            (slot,) = prompt.template.targets
            costs = targets.item_costs(slot, {**example, "masked": masked})
            masked &= tf.cumsum(costs) <= targets.room
        return {**example, "masked": masked}

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        targets = prompt.writer(sequence_length, output_features).targets
        history = batch["history"]
        bits = draws.uniform_bits(seeds[0], history.lengths)
        masked = draws.smallest(bits, np.maximum(1, _share(history.lengths)))
        if targets.room is not None:
            (slot,) = prompt.template.targets
            marked = {**batch, "masked": history.with_values(masked)}
            costs = history.with_values(targets.batch_item_costs(slot, marked))
            masked &= costs.running_sums() <= targets.room
        return {**batch, "masked": history.with_values(masked)}

    return with_batches(add, on_batch, num_seeds=1)


def _share(sizes: np.ndarray) -> np.ndarray:
    """`MASKED_SHARE` of each size, rounded as TensorFlow rounds it."""
    return np.round(np.float32(MASKED_SHARE) * sizes.astype(np.float32)).astype(np.int64)


@seqio.map_over_dataset(num_seeds=1)
def corrupt_spans(
    example: Example, seed, sequence_length=None, output_features=None
) -> dict[str, tf.Tensor]:
    """T5's span corruption (Raffel et al. 2020) of the tokens in `inputs`.

    A fifth of the tokens, in spans of three on average, is replaced by one sentinel a span; the
    targets hold each sentinel and what it replaced. As in T5, the first span is kept and the last
    one corrupted. No more is corrupted than fits into the targets, or than there are sentinels.
    """
    tokens = example["inputs"][:-1]
    vocabulary = output_features["inputs"].vocabulary
    size = tf.size(tokens)
    num_noise = tf.cast(tf.round(MASKED_SHARE * tf.cast(size, tf.float32)), tf.int32)
    num_noise = tf.clip_by_value(num_noise, 1, size - 1)
    if sequence_length is not None:
        num_noise = tf.minimum(num_noise, _most_noise(sequence_length["targets"]))
    num_spans = tf.cast(tf.round(tf.cast(num_noise, tf.float32) / MEAN_SPAN), tf.int32)
    num_spans = tf.clip_by_value(num_spans, 1, tf.minimum(SENTINELS, size - num_noise))
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    noise_lengths = _split_into(num_noise, num_spans, seeds[0])
    kept_lengths = _split_into(size - num_noise, num_spans, seeds[1])
    lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], axis=1), [-1])
    spans = tf.RaggedTensor.from_row_lengths(tokens, lengths, validate=False)
    sentinels = vocabulary.vocab_size - 1 - tf.range(num_spans)
    eos = [vocabulary.eos_id]
    marks = tf.RaggedTensor.from_row_lengths(sentinels, tf.ones_like(sentinels), validate=False)
    kept, noise = spans[::2], spans[1::2]
    return {
        **example,
        "inputs": tf.concat([_interleaved(kept, marks), eos], axis=0),
        "targets": tf.concat([_interleaved(marks, noise), eos], axis=0),
    }


def _most_noise(length: int) -> int:
    """Tokens of which not more may be hidden, for the targets to have `length` at most."""
    # n tokens in round(n / 3) spans take n + round(n / 3) + EOS tokens of the targets.
    return int((length - 2) / (1 + 1 / MEAN_SPAN))


def _interleaved(first: tf.RaggedTensor, second: tf.RaggedTensor) -> tf.Tensor:
    """first[0], second[0], first[1], second[1], … in one row."""
    return tf.concat([first, second], axis=1).flat_values


def _split_into(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`parts` positive lengths that add up to `total`, every such split equally likely."""
    starts = choose(seed, total - 1, parts - 1)
    part = tf.cumsum(tf.concat([[0], tf.cast(starts, tf.int32)], axis=0))
    return tf.math.bincount(part, minlength=parts, maxlength=parts)


def _corrupt_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
    vocabulary = output_features["inputs"].vocabulary
    size = batch["inputs"].lengths - 1
    tokens = Ragged.of_slices(batch["inputs"].values, batch["inputs"].splits[:-1], size)
    num_noise = np.maximum(np.minimum(_share(size), size - 1), 1)
    if sequence_length is not None:
        num_noise = np.minimum(num_noise, _most_noise(sequence_length["targets"]))
    num_spans = np.round(num_noise.astype(np.float32) / np.float32(MEAN_SPAN)).astype(np.int64)
    most_spans = np.minimum(SENTINELS, size - num_noise)
    num_spans = np.maximum(np.minimum(num_spans, most_spans), 1)
    noise_seeds, kept_seeds = draws.split(seeds[0])
    noise_lengths = _split_each(num_noise, num_spans, noise_seeds)
    kept_lengths = _split_each(size - num_noise, num_spans, kept_seeds)
    starts = starts_of(np.stack([kept_lengths, noise_lengths], axis=1).reshape(-1))
    kept = Ragged.of_slices(tokens.values, starts[:-1:2], kept_lengths)
    noise = Ragged.of_slices(tokens.values, starts[1:-1:2], noise_lengths)
    spans = starts_of(num_spans)
    places = np.arange(spans[-1]) - np.repeat(spans[:-1], num_spans)
    marks = Ragged.of_array((vocabulary.vocab_size - 1 - places)[:, np.newaxis])
    eos = np.array([vocabulary.eos_id])
    sides = {}
    for name, pieces in (("inputs", [kept, marks]), ("targets", [marks, noise])):
        joined = join(pieces, len(places))
        sides[name] = join([Ragged(joined.values, joined.splits[spans]), eos], len(size))
    return {**batch, **sides}


corrupt_spans = with_batches(corrupt_spans, _corrupt_batch, num_seeds=1)


def _split_each(total: np.ndarray, parts: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """`_split_into` for each example: the lengths of all parts of all examples, in a row."""
    bits = draws.uniform_bits(seeds, total - 1)
    # A place that is chosen ends a part; each example's last place ends one too.
    ends = np.flatnonzero(draws.smallest(bits, parts - 1))
    rows = np.searchsorted(bits.splits, ends, side="right") - 1
    splits = starts_of(total)
    is_end = np.zeros(splits[-1], bool)
    is_end[ends + rows] = True
    is_end[splits[1:] - 1] = True
    return np.diff(np.flatnonzero(is_end), prepend=-1)
