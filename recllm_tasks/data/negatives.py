"""Negatives: items drawn by their popularity in the train split, once and stored for evaluation.

Letters: N items of the catalog, B users or examples, L items to leave out, n drawn ones.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from recllm_tasks.data.options import DISTINCT, WITH_REPLACEMENT, Options
from recllm_tasks.data.sequences import Sequences
from recllm_tasks.errors import UserError

SPLITS = ("validation", "test")

_DEFAULTS = Options()

# Users whose negatives are drawn together.
_BATCH = 1024

# TensorFlow's number of the algorithm, which gives the same numbers on every device.
_PHILOX = 1


class Remaining:
    """The items that each of some users can be offered: all but their own, by popularity.

    Paper §4.1 samples by popularity; its Table 11 lists an item twice, so with replacement. The
    draw is exact: a uniform number is mapped through the inverse of the cumulative distribution
    from which the excluded items' mass is cut out, and nothing is rejected.

    Attributes:
      left: int64 [B], the train counts of each user's remaining items, added up: draw a whole
        number below it, and `items` says which item it is.
    """

    def __init__(self, cumulative_counts: tf.Tensor, excluded_rows: tf.RaggedTensor):
        """Args:
        cumulative_counts: int64 [N], inclusive cumulative sum of the train counts.
        excluded_rows: int32 [B, L], rows never drawn; any order, may repeat.

        Raises:
          tf.errors.InvalidArgumentError: nothing is left for a user. `prepare` refuses a dataset in
            which a user's items leave nothing.
        """
        self._cumulative = tf.convert_to_tensor(cumulative_counts, tf.int64)
        size, self._total = tf.size(self._cumulative, tf.int64), self._cumulative[-1]
        # User and catalog row as one number, ascending, each once.
        pairs = tf.sort(
            excluded_rows.value_rowids() * size + tf.cast(excluded_rows.values, tf.int64)
        )
        is_new = tf.concat([[True], pairs[1:] != pairs[:-1]], axis=0)[: tf.size(pairs)]
        pairs = pairs[is_new]
        user, row = pairs // size, pairs % size
        users = tf.range(excluded_rows.nrows() + 1)
        starts = tf.where(row > 0, tf.gather(self._cumulative, tf.maximum(row - 1, 0)), 0)
        counts = tf.gather(self._cumulative, row) - starts
        self._removed = tf.cumsum(tf.concat([[0], counts], axis=0))
        splits = tf.searchsorted(pairs, users * size, out_type=tf.int64)
        before = tf.gather(self._removed, splits)
        self._removed_before = before[:-1]
        # Where each excluded interval would begin if those before it were gone, shifted by user, so
        # that one search serves all.
        without = self._removed[:-1] - tf.gather(self._removed_before, user)
        self._adjusted = starts - without + user * self._total
        left = self._total - (before[1:] - before[:-1])
        with tf.control_dependencies([tf.debugging.assert_positive(left)]):
            self.left = tf.identity(left)

    def items(self, numbers: tf.Tensor) -> tf.Tensor:
        """Rows of the catalog, int32 [B, n], of whole numbers below `left`, int64 [B, n].

        Rows of count 0 are never drawn.
        """
        shape = tf.shape(numbers)
        shift = tf.range(tf.size(self.left, tf.int64))[:, tf.newaxis] * self._total
        passed = tf.searchsorted(self._adjusted, tf.reshape(numbers + shift, [-1]), side="right")
        removed = tf.reshape(tf.gather(self._removed, passed), shape)
        numbers += removed - self._removed_before[:, tf.newaxis]
        flat = tf.reshape(numbers, [-1])
        return tf.reshape(tf.searchsorted(self._cumulative, flat, side="right"), shape)


def draw_distinct(
    cumulative_counts: tf.Tensor, excluded_rows: tf.RaggedTensor, seeds: tf.Tensor, num: int
) -> tf.Tensor:
    """Draws `num` different items for each user by popularity: int32 [B, num], in order of draws.

    Each is drawn in proportion to its count among the items that remain after those before it. The
    draw is exact, and a user's items depend on that user's seed alone: a round draws `num` items
    with replacement from what remains and drops repeats, which leaves draws from the others; the
    next round excludes what was drawn. Every round finds at least one item.

    Args:
      cumulative_counts: int64 [N], as in `Remaining`.
      excluded_rows: int32 [B, L], as in `Remaining`.
      seeds: int32 [B, 2], of each user.
      num: at most the number of items that remain for each user.

    Raises:
      tf.errors.InvalidArgumentError: fewer remain. `prepare` refuses such a dataset.
    """

    def is_unfinished(unused_round: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(drawn < 0)

    def draw(number: tf.Tensor, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A finished user may have no other item left, so nothing more is excluded there.
        kept = (drawn >= 0) & tf.reduce_any(drawn < 0, axis=1, keepdims=True)
        so_far = tf.RaggedTensor.from_row_lengths(
            drawn[kept], tf.reduce_sum(tf.cast(kept, tf.int64), axis=1), validate=False
        )
        remaining = Remaining(cumulative_counts, tf.concat([excluded_rows, so_far], axis=1))
        numbers = tf.map_fn(
            lambda each: uniform(fold_in(each[0], (number,))[0], num, each[1]),
            (seeds, remaining.left),
            fn_output_signature=tf.TensorSpec([num], tf.int64),
        )
        return number + 1, _first_distinct(tf.concat([drawn, remaining.items(numbers)], axis=1))

    nothing = tf.fill([excluded_rows.nrows(), tf.constant(num, tf.int64)], -1)
    nothing = tf.ensure_shape(nothing, [None, num])
    return tf.while_loop(is_unfinished, draw, (tf.constant(0), nothing))[1]


def _first_distinct(items: tf.Tensor) -> tf.Tensor:
    """The first n different items of each row in order, then -1: int32 [B, 2 n] to [B, n].

    -1 among the items is none.
    """
    width = items.shape[1]
    # Item and place as one number: equal items become neighbours, the first place in front.
    ordered = tf.sort(tf.cast(items, tf.int64) * width + tf.range(width, dtype=tf.int64), axis=1)
    item, place = ordered // width, ordered % width
    is_first = tf.concat([item[:, :1] >= 0, item[:, 1:] > tf.maximum(item[:, :-1], -1)], axis=1)
    places = tf.sort(tf.where(is_first, place, width), axis=1)[:, : width // 2]
    return tf.gather(tf.pad(items, [[0, 0], [0, 1]], constant_values=-1), places, batch_dims=1)


def user_seeds(users: tf.Tensor, salt: tf.Tensor | int) -> tf.Tensor:
    """Seeds (int32 [B, 2]) from users' raw ids (string [B]) and a salt (int32 scalar or [B])."""
    hashes = tf.cast(tf.strings.to_hash_bucket_fast(users, 2**31 - 1), tf.int32)
    return tf.stack([hashes, tf.broadcast_to(tf.cast(salt, tf.int32), tf.shape(hashes))], axis=1)


# What one user is offered must depend on that user alone: so each has a seed, and `tf.map_fn` calls
# these two once a user. They are the raw operations, which take a third of their wrappers' time.


def uniform(seed: tf.Tensor, num: int, bound: tf.Tensor) -> tf.Tensor:
    """`tf.random.stateless_uniform([num], seed, 0, bound)`, int32 or int64 as `bound` is."""
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=[num], key=key, counter=counter, alg=_PHILOX, minval=0 * bound, maxval=bound
    )


def fold_in(seed: tf.Tensor, salts: Sequence[int | tf.Tensor]) -> list[tf.Tensor]:
    """`tf.random.fold_in(seed, salt)` for each salt, int32 [2]."""
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    word = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[1], key=key, counter=counter, alg=_PHILOX, dtype=tf.int32
    )
    return [tf.concat([word, [salt]], axis=0) for salt in salts]


def few_items_left(
    sequences: Sequences, train_count: np.ndarray, options: Options = _DEFAULTS
) -> dict[int, int]:
    """Items of the train split that are left to draw for each user who has too few of them."""
    trained, items, offsets = np.count_nonzero(train_count), sequences.items, sequences.offsets
    needed = _needed(options)
    # Only a user of that many interactions can leave fewer.
    left = {
        int(user): trained
        - np.count_nonzero(train_count[np.unique(items[offsets[user] : offsets[user + 1]])])
        for user in np.flatnonzero(sequences.lengths > trained - needed)
    }
    return {user: int(number) for user, number in left.items() if number < needed}


def _needed(options: Options) -> int:
    return options.candidates - 1 if options.candidate_sampling == DISTINCT else 1


def check_enough_items(
    name: str, sequences: Sequences, train_count: np.ndarray, options: Options = _DEFAULTS
) -> None:
    """Raises `UserError` if some user's items leave too few items of the train split to draw."""
    left, needed = few_items_left(sequences, train_count, options), _needed(options)
    exhausted = [user for user, number in left.items() if not number]
    if exhausted:
        (first,) = sequences.take(np.array(exhausted[:1])).users
        raise UserError(
            f"no negatives for '{name}': got user '{first}' "
            f"({len(exhausted)} such users in all), whose items are all that the train split has, "
            "expected at least one other item; take a larger dataset, or remove those users"
        )
    few = list(left)
    if few:
        (first,) = sequences.take(np.array(few[:1])).users
        least = min(left.values())
        raise UserError(
            f"distinct negatives for '{name}': got {left[few[0]]:,} items of the train split that "
            f"user '{first}' does not have ({len(few)} such users in all, {least:,} at least), "
            f"expected {needed:,} or more for {options.candidates:,} candidates; give --candidates "
            f"{least + 1} or --candidate_sampling {WITH_REPLACEMENT}"
        )


def draw_negatives(
    sequences: Sequences,
    train_count: np.ndarray,
    seed: int,
    split: str,
    num: int = Options.candidates - 1,
    distinct: bool = False,
) -> np.ndarray:
    """Draws the negatives of all users for `validation` or `test`: int32 [users, num].

    None is an item of the user's whole sequence, later interactions included (Paper §4.1: 99
    negatives by popularity). The draw depends on `seed`, the user's raw id, the split and the
    counts alone. With `distinct`, a user's negatives are different items.
    """
    cumulative_counts = tf.constant(np.cumsum(train_count), tf.int64)
    salt = seed * len(SPLITS) + SPLITS.index(split)
    items = tf.RaggedTensor.from_row_splits(sequences.items, sequences.offsets)

    def draw(users: tf.Tensor, items: tf.RaggedTensor) -> tf.Tensor:
        if distinct:
            return draw_distinct(cumulative_counts, items, user_seeds(users, salt), num)
        remaining = Remaining(cumulative_counts, items)
        numbers = tf.map_fn(
            lambda each: uniform(each[0], num, each[1]),
            (user_seeds(users, salt), remaining.left),
            fn_output_signature=tf.TensorSpec([num], tf.int64),
        )
        return remaining.items(numbers)

    users = tf.data.Dataset.from_tensor_slices((sequences.users, items)).batch(_BATCH)
    drawn = users.map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return np.concatenate(list(drawn.as_numpy_iterator()))
