"""P5's representation for comparison (Geng et al. 2022): users and items as numbers, no titles.

The wording is that of the paper's Figure 1(a1)-(a3). Numbers are random instead of sequential
(paper §A.1): an item's row in the catalog, a user's row among the train records. More templates
come from P5's template file (`p5_file.py`).
"""

from collections.abc import Callable

import tensorflow as tf

from recllm_tasks.prompts.batches import Batch, map_batches
from recllm_tasks.prompts.source import SequenceSource
from recllm_tasks.prompts.templates import Choice, Items, Template, User

NUMBER = "{number}"
ANSWER = Items("target", NUMBER)
# Our choice: whole stars. P5 draws its answers around the rating, such as 4.8 for a 5.
STARS = Choice("target_star", ("1.0", "2.0", "3.0", "4.0", "5.0"))


def history(after: str = "") -> Items:
    """The items of the history, separated by arrows, followed directly by `after`."""
    return Items("history", f"{NUMBER} ->", last_form=f"{NUMBER}{after}")


def candidates(after: str = "") -> Items:
    """The items to choose from, separated by commas, followed directly by `after`."""
    return Items("candidates", f"{NUMBER} ,", last_form=f"{NUMBER}{after}")


# Figure 1(a) of the paper, by kind of task.
FIGURE_1 = {
    "retrieval": Template(
        inputs=(
            "I find the purchase history list of",
            User("user_{number}:"),
            history(),
            "I wonder what is the next item to recommend to the user. Can you help me decide?",
        ),
        targets=(ANSWER,),
    ),
    "ranking": Template(
        inputs=(
            "Pick the most suitable item from the following list and recommend to",
            User("user_{number}:"),
            candidates(),
        ),
        targets=(ANSWER,),
    ),
    "rating": Template(
        inputs=(
            "What star rating do you think",
            User("user_{number}"),
            "will give",
            Items("target", "item_{number}?"),
        ),
        targets=(STARS,),
    ),
}


def answers_by_liking(
    slot: Choice, like_threshold: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The answers of a rating template that mean dislike, and those that mean like."""
    if slot.field != STARS.field:
        return slot.answers[:1], slot.answers[1:]
    first_liked = sum(star <= like_threshold for star in range(1, len(slot.answers) + 1))
    return slot.answers[:first_liked], slot.answers[first_liked:]


def number_user(source: SequenceSource) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor that adds `user_row` (int32 [B]), the user's row among the train records.

    Our choice: users without a train record, as a split by time may have, share the numbers behind
    them by a hash of their raw ids. No model has learned anything about these.
    """

    @map_batches
    def add(batch: Batch) -> Batch:
        rows, num_users = source.rows_of_users(), source.num_users()
        row, trained = rows.lookup(batch["user"]), tf.cast(rows.size(), tf.int32)
        others = tf.maximum(num_users - trained, 1)
        hashes = tf.strings.to_hash_bucket_fast(batch["user"], 2**31 - 1)
        other = tf.minimum(trained + tf.cast(hashes, tf.int32) % others, num_users - 1)
        return {**batch, "user_row": tf.where(row < 0, other, row)}

    return add
