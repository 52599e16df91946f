"""Training targets anywhere in a window, beyond the paper and off by default.

The paper's windows ask for their last item alone: a user of twenty interactions gives one retrieval
example (Table 10). Sequential recommenders train on every interaction. With the setting below each
epoch cuts every training window behind another of its items and asks for that one.
"""

from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.prompts import draws
from recllm_tasks.prompts.batch_steps import Batch, with_batches
from recllm_tasks.prompts.ragged import Ragged, join


@gin.configurable(module="prefixes")
def random_targets(tasks: Sequence[str] = ()) -> tuple[str, ...]:
    """Which of retrieval, ranking and bpr train on random prefixes of their windows."""
    return tuple(tasks)


def cut_at_random(kind: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: where the setting names `kind`, training examples end at a random item.

    The target is any item of history and target but the first, each as likely; a window of one item
    stays. Examples of evaluation stay too: they hold stored negatives, which training's do not.
    """

    @seqio.map_over_dataset(num_seeds=1)
    def cut(example: Mapping[str, tf.Tensor], seed) -> dict[str, tf.Tensor]:
        num = tf.size(example["history"])
        place = tf.random.stateless_uniform([], seed, tf.minimum(1, num), num + 1, tf.int32)
        if "negatives" in example:
            place = tf.where(tf.size(example["negatives"]) > 0, num, place)
        out = dict(example)
        for history, target in (("history", "target"), ("history_ratings", "target_rating")):
            items = tf.concat([example[history], example[target][tf.newaxis]], axis=0)
            out |= {history: items[:place], target: items[place]}
        return out

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return cut(dataset) if kind in random_targets() else dataset

    def on_batch(batch: Batch, seeds, sequence_length, output_features) -> Batch:
        del sequence_length, output_features
        if not seeds:
            return batch
        num = batch["history"].lengths
        place = draws.uniform_int32(seeds[0], np.minimum(1, num), num + 1)
        out = dict(batch)
        for history, target in (("history", "target"), ("history_ratings", "target_rating")):
            dtype = batch[target].dtype
            last = Ragged.of_array(batch[target][:, np.newaxis])
            items = join([batch[history], last], len(num), dtype)
            out[history] = Ragged.of_slices(items.values, items.splits[:-1], place)
            out[target] = items.values[items.splits[:-1] + place]
        return out

    return with_batches(preprocess, on_batch, lambda: int(kind in random_targets()))
