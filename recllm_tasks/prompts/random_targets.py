"""Training targets anywhere in a window, beyond the paper and off by default.

In the paper a window's target is its last item: a user of twenty interactions gives one retrieval
example (Table 10). Sequential recommenders train on every interaction. With the setting below, each
epoch ends every training window at a random item, which becomes the target.
"""

from collections.abc import Callable, Sequence

import gin
import tensorflow as tf

from recllm_tasks.prompts.batches import (
    Batch,
    join,
    lengths_of,
    map_batches,
    of_columns,
    slices,
    starts_of,
)
from recllm_tasks.prompts.windows import uniform_below


@gin.configurable(module="random_targets")
def random_targets(tasks: Sequence[str] = ()) -> tuple[str, ...]:
    """Which of retrieval, ranking and bpr train on random prefixes of their windows."""
    return tuple(tasks)


def cut_at_random(kind: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: where the setting names `kind`, training windows end at a random item.

    Every item of history and target except the first is equally likely. Windows of one item, and
    those of evaluation, which have stored negatives, are unchanged.
    """

    @map_batches(num_seeds=1)
    def cut(batch: Batch, seed: tf.Tensor) -> Batch:
        num = lengths_of(batch["history"])
        first = tf.minimum(tf.constant(1, tf.int64), num)
        place = first + uniform_below(num + 1 - first, seed)
        out = dict(batch)
        for history, target in (("history", "target"), ("history_ratings", "target_rating")):
            rows = join([batch[history], of_columns(batch[target])])
            starts = starts_of(rows)
            out |= {
                history: slices(rows.values, starts, place),
                target: tf.gather(rows.values, starts + place),
            }
        return out

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        is_training = "negatives" not in dataset.element_spec
        return cut(dataset) if is_training and kind in random_targets() else dataset

    return preprocess
