"""What a preprocessor of ours must also do for a batch of examples, to be fast in training.

SeqIO asks a preprocessor for a `tf.data.Dataset`, one example at a time; some thirty small
TensorFlow operations an example are what that costs. In training the same is done for thousands of
examples in each NumPy operation: a preprocessor that has `on_batch` gives a batch what `__call__`
gives each of its examples, bit by bit, from the same seeds (draws.py). A test compares the two on
every example of every task.

A batch maps features to arrays with the examples as their first axis: an array [B, …], or a
`Ragged` of B rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import seqio

from recllm_tasks.prompts.ragged import Ragged

Batch = Mapping[str, np.ndarray | Ragged]


class BatchStep(Protocol):
    """A SeqIO preprocessor that knows batches.

    `num_seeds` (0 where absent) is that of its `seqio.map_over_dataset`; a function where a setting
    tells. `kept` (absent where
    every example stays) tells from a batch of windows, before any step, which examples its filter
    lets pass, bool [B].
    """

    def on_batch(
        self,
        batch: Batch,
        seeds: Sequence[np.ndarray],
        sequence_length: Mapping[str, int] | None,
        output_features: Mapping[str, seqio.Feature],
    ) -> Batch:
        """Args:
        batch: B examples.
        seeds: `num_seeds` arrays, int64 [B, 2].
        sequence_length: of `inputs` and `targets`, in tokens; None cuts nothing.
        output_features: the task's.
        """


Preprocessor = TypeVar("Preprocessor", bound=Callable)


def with_batches(
    preprocessor: Preprocessor,
    on_batch: Callable[..., Batch],
    num_seeds: int | Callable[[], int] = 0,
    kept: Callable[[Batch], np.ndarray] | None = None,
) -> Preprocessor:
    """The preprocessor, which now is a `BatchStep`."""
    preprocessor.on_batch, preprocessor.num_seeds = on_batch, num_seeds
    if kept:
        preprocessor.kept = kept
    return preprocessor


def seeds_of(step: Callable) -> int:
    """How many seeds SeqIO numbers for a preprocessor of ours, with the settings of now."""
    num_seeds = getattr(step, "num_seeds", 0)
    return num_seeds() if callable(num_seeds) else num_seeds
