"""Which items of a training sequence each kind of task has as targets, a setting in gin.

In the paper a window's target is its last item: a user of twenty interactions gives one retrieval
example (Table 10). Sequential recommenders train on every interaction. The setting chooses, kind by
kind, one of `windows.TARGETS`:

    last    the paper's windows.
    every   every item after the first of a sequence, once an epoch, its history the up to w items
            before it. A sequence of one item keeps its example, with an empty history.
    random  each of the paper's windows ends at a random item, another one each epoch.
    whole   windows that follow each other, so that each item after the first is in one of them,
            with items before it: for tasks that learn to write the history too.
"""

from collections.abc import Callable, Mapping

import gin
import tensorflow as tf

from recllm_tasks.errors import UserError
from recllm_tasks.prompts.batches import (
    Batch,
    join,
    lengths_of,
    map_batches,
    of_columns,
    slices,
    starts_of,
)
from recllm_tasks.prompts.source import SequenceSource, check_targets
from recllm_tasks.prompts.windows import EVERY, LAST, RANDOM, WHOLE, uniform_below

# Our choice: tasks whose prompts hold ids alone train on every item, because how training pairs are
# made changes the results by more than the model does (GenPAS, arXiv 2509.13648). The paper's tasks
# have the paper's windows.
DEFAULTS = {
    "retrieval": LAST,
    "ranking": LAST,
    "rating": LAST,
    "bpr": LAST,
    "ids_retrieval": EVERY,
    "ids_sequence": WHOLE,
    "ids_ranking": EVERY,
    "ids_rating": EVERY,
    "ids_sequence_rating": WHOLE,
    "ids_bpr": EVERY,
}


def _allowed(kind: str) -> tuple[str, ...]:
    every = WHOLE if kind.startswith("ids_sequence") else EVERY
    # A random item may have no rating.
    return (LAST, every) if kind.endswith("rating") else (LAST, every, RANDOM)


@gin.configurable(module="targets")
def targets(of: Mapping[str, str] | None = None) -> dict[str, str]:
    """The targets of each kind of task, where P5's are of the kinds without `p5_`.

    Args:
      of: by kind; those of kinds that are not named are `DEFAULTS`. Rating has no random; sequences
        have whole in the place of every.

    Raises:
      UserError: an unknown kind or value.
    """
    given = {} if of is None else of
    if not isinstance(given, Mapping) or not set(given) <= set(DEFAULTS):
        raise UserError(
            f"targets.of: got {given!r}, expected targets by kind of task, such as "
            f"{{'retrieval': 'every'}}, with kinds among {', '.join(DEFAULTS)}; correct it"
        )
    for kind, value in given.items():
        check_targets(f"targets.of[{kind!r}]", value, _allowed(kind))
    return {**DEFAULTS, **given}


def targets_of(kind: str) -> Callable[[], str]:
    """A function that looks up the setting of a kind, for `SequenceSource`."""
    return lambda: targets()[kind]


def end_at_random(source: SequenceSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: with `random` targets, training windows end at a random item.

    Every item of history and target except the first is equally likely. Windows of one item, and
    those of evaluation, which have stored negatives, are unchanged, and so are all windows with
    other targets.
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
        return cut(dataset) if is_training and source.targets == RANDOM else dataset

    return preprocess
