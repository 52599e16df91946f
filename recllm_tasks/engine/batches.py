"""Training batches: SeqIO's mixture, packed, from any step on."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError, check_whole


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raises UserError unless both features have a length of at least one token."""
    if not isinstance(lengths, Mapping) or set(lengths) != {"inputs", "targets"}:
        raise UserError(
            f"TASK_FEATURE_LENGTHS: got {lengths!r}, expected tokens of both sides, such as "
            "{'inputs': 1024, 'targets': 128}; correct it"
        )
    for name, length in lengths.items():
        check_whole(f"TASK_FEATURE_LENGTHS['{name}']", length, 1)


def training_batches(
    mixture: str, lengths: Mapping[str, int], batch_size: int, seed: int, start_step: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of packed examples, the same ones for the same seed.

    Args:
      mixture: a registered task or mixture.
      lengths: of `inputs` and `targets`, in tokens.
      batch_size: packed rows in a batch.
      seed: of the order and of all that is sampled.
      start_step: batches to leave out, to go on where a run stopped. They are made and thrown
        away: all randomness comes from the place in the stream.

    Yields:
      `encoder_input_tokens`, `decoder_target_tokens`, `decoder_input_tokens`, and their segment
      ids and positions, int32 [batch_size, length].
    """
    dataset = seqio.get_dataset(
        mixture,
        task_feature_lengths=dict(lengths),
        dataset_split="train",
        shuffle=True,
        num_epochs=None,
        feature_converter=seqio.EncDecFeatureConverter(pack=True),
        seed=seed,
    )
    dataset = dataset.batch(batch_size, drop_remainder=True).skip(start_step)
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def num_examples(batch: Mapping[str, np.ndarray]) -> int:
    """Examples that are packed into a batch."""
    return int(batch["decoder_segment_ids"].max(axis=1).sum())


def put(batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    return {name: jax.device_put(array, sharding) for name, array in batch.items()}
