import itertools

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recllm_tasks.data import negatives
from recllm_tasks.data.negatives import Remaining, fold_in, uniform, user_seeds
from recllm_tasks.data.options import Options
from recllm_tasks.data.sequences import Sequences
from recllm_tasks.errors import UserError


def sequences_of(*rows, users=None):
    return Sequences(
        users=pa.chunked_array([users or [f"u{i}" for i in range(len(rows))]]),
        offsets=np.cumsum([0] + [len(row) for row in rows]),
        items=np.concatenate(rows).astype(np.int32),
        ratings=np.zeros(sum(map(len, rows)), np.float32),
    )


SEQUENCES = sequences_of([0, 1, 2], [2, 3, 4, 5], [5, 0, 1])
COUNTS = np.array([1, 2, 3, 4, 5, 6, 0])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_never_an_item_of_the_whole_sequence(split):
    drawn = negatives.draw_negatives(SEQUENCES, COUNTS, 0, split)
    assert drawn.shape == (3, 99)
    assert drawn.dtype == np.int32
    for number in range(3):
        own = SEQUENCES.items[SEQUENCES.of_split(number, "test")]
        assert set(drawn[number]) == set(range(6)) - set(own)


def test_draws_differ_by_split_seed_and_user():
    draws = [
        negatives.draw_negatives(SEQUENCES, COUNTS, seed, split)
        for seed in (0, 1)
        for split in ("validation", "test")
    ]
    assert len({draw[0].tobytes() for draw in draws}) == 4
    twins = sequences_of([0, 1, 2], [0, 1, 2])
    first, second = negatives.draw_negatives(twins, COUNTS, 0, "test")
    assert list(first) != list(second)


def test_draws_do_not_depend_on_the_other_users():
    alone = sequences_of([2, 3, 4, 5], users=["u1"])
    whole = negatives.draw_negatives(SEQUENCES, COUNTS, 0, "test")
    np.testing.assert_array_equal(negatives.draw_negatives(alone, COUNTS, 0, "test")[0], whole[1])


def test_user_who_has_everything_is_named():
    everything_that_trains = np.array([1, 1, 1, 0])
    with pytest.raises(UserError, match=r"'tiny': got user 'u1' \(1 such users in all\)"):
        negatives.check_enough_items(
            "tiny", sequences_of([0, 1, 3], [2, 0, 1]), everything_that_trains
        )
    negatives.check_enough_items("tiny", sequences_of([0, 1, 2]), np.array([1, 1, 1, 1]))


def draw(counts, excluded, seed=(1, 2), num=99):
    """`num` items for each user, whose rows `excluded` lists."""
    cumulative = tf.cumsum(tf.constant(counts, tf.int64))
    rows = tf.ragged.constant(excluded, tf.int32, ragged_rank=1, row_splits_dtype=tf.int64)
    drawn = _draw(cumulative, rows, tf.constant(seed), num)
    assert drawn.dtype == tf.int32
    return drawn.numpy()


def _draw(cumulative, excluded, seed, num):
    remaining = Remaining(cumulative, excluded)
    numbers = tf.map_fn(
        lambda bound: uniform(seed, num, bound),
        remaining.left,
        fn_output_signature=tf.TensorSpec([num], tf.int64),
    )
    return remaining.items(numbers)


COUNTS_OF_SIX = [5, 1, 0, 3, 8, 2]
EXCLUDED = [[], [4], [0], [5, 3, 2, 5], [1, 0, 2, 1]]


@pytest.mark.parametrize(
    ("counts", "excluded"),
    [
        *((COUNTS_OF_SIX, [rows]) for rows in EXCLUDED),
        (COUNTS_OF_SIX, EXCLUDED),
        ([0, 0, 4, 4], [[3]]),
        ([1, 2, 3, 0], [[2, 0]]),
    ],
)
def test_draws_are_proportional_to_the_counts(counts, excluded):
    num = 40_000
    for rows, drawn in zip(excluded, draw(counts, excluded, num=num), strict=True):
        left = np.array(counts, float)
        left[rows] = 0
        probability = left / left.sum()
        found = np.bincount(drawn, minlength=len(counts))
        assert not found[probability == 0].any()
        possible = probability > 0
        expected = num * probability[possible]
        chi_square = ((found[possible] - expected) ** 2 / expected).sum()
        # The 99.9 % quantile of chi-square with 4 degrees of freedom or fewer is at most 18.5.
        assert chi_square < 18.5


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_never_draws_what_is_excluded(data):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=12))
    rows = st.lists(st.integers(0, len(counts) - 1), max_size=20)
    excluded = data.draw(st.lists(rows, min_size=1, max_size=3))
    allowed = [{row for row, c in enumerate(counts) if c and row not in own} for own in excluded]
    if not all(allowed):
        with pytest.raises(tf.errors.InvalidArgumentError):
            draw(counts, excluded)
        return
    for drawn, own in zip(draw(counts, excluded, num=300), allowed, strict=True):
        assert set(drawn) <= own
        # Each allowed row has a probability of 1/36 or more: all but surely drawn in 300.
        assert len(set(drawn)) >= len(own) - 1


def test_is_pinned_to_its_seed():
    """If this fails, every stored dataset changes: raise FORMAT_VERSION."""
    (drawn,) = draw(COUNTS_OF_SIX, [[3]], seed=(7, 8), num=8)
    assert list(drawn) == [4, 4, 4, 4, 0, 4, 4, 5]
    (one,), (other,) = (draw(COUNTS_OF_SIX, [[3]], seed=(7, salt)) for salt in (8, 9))
    assert list(one) != list(other)


def test_same_in_eager_in_a_graph_and_in_map():
    cumulative = tf.cumsum(tf.constant(COUNTS_OF_SIX, tf.int64))
    excluded = tf.ragged.constant([[4, 0, 4], [], [1]], tf.int32, row_splits_dtype=tf.int64)
    seed = tf.constant([3, 4])
    eager = _draw(cumulative, excluded, seed, 99)
    graph = tf.function(_draw)(cumulative, excluded, seed, 99)
    dataset = tf.data.Dataset.from_tensors(excluded)
    (mapped,) = dataset.map(lambda rows: _draw(cumulative, rows, seed, 99))
    np.testing.assert_array_equal(graph, eager)
    np.testing.assert_array_equal(mapped, eager)
    assert len(set(eager[0].numpy())) < 99


def draw_distinct(counts, excluded, num, seeds=None):
    """`num` different items for each user, whose rows `excluded` lists."""
    cumulative = tf.cumsum(tf.constant(counts, tf.int64))
    rows = tf.ragged.constant(excluded, tf.int32, ragged_rank=1, row_splits_dtype=tf.int64)
    if seeds is None:
        seeds = [[user, 5] for user in range(len(excluded))]
    seeds = tf.constant(seeds, tf.int32)
    # A graph draws for many users in the time in which eager TensorFlow draws for a few.
    draw = negatives.draw_distinct if len(excluded) < 9 else tf.function(negatives.draw_distinct)
    return draw(cumulative, rows, seeds, num).numpy()


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("own", [[], [4], [3, 2, 3]])
def test_distinct_draws_have_the_exact_probabilities(num, own):
    """Of every order of items: w1 / W, then w2 / (W - w1), and so on."""
    counts, users = np.array(COUNTS_OF_SIX), 6_000
    allowed = [row for row in range(6) if counts[row] and row not in own]
    drawn = draw_distinct(counts, [own] * users, num)
    orders = list(itertools.permutations(allowed, num))
    probability = []
    for order in orders:
        left, chance = counts[allowed].sum(), 1.0
        for row in order:
            chance *= counts[row] / left
            left -= counts[row]
        probability.append(chance)
    number_of = {order: number for number, order in enumerate(orders)}
    found = np.bincount([number_of[tuple(row)] for row in drawn.tolist()], minlength=len(orders))
    expected = users * np.array(probability)
    chi_square = ((found - expected) ** 2 / expected).sum()
    assert chi_square < stats.chi2.isf(1e-3, len(orders) - 1)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_distinct_draws_are_different_and_allowed(data):
    counts = data.draw(st.lists(st.sampled_from([0, 1, 3, 10**6]), min_size=2, max_size=9))
    rows = st.lists(st.integers(0, len(counts) - 1), max_size=9)
    excluded = data.draw(st.lists(rows, min_size=1, max_size=3))
    allowed = [{row for row, c in enumerate(counts) if c and row not in own} for own in excluded]
    num = data.draw(st.integers(1, len(counts)))
    if num > min(map(len, allowed)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            draw_distinct(counts, excluded, num)
        return
    for drawn, own in zip(draw_distinct(counts, excluded, num), allowed, strict=True):
        assert len(set(drawn)) == num
        assert set(drawn) <= own


def test_distinct_draws_depend_on_the_users_seed_alone():
    """Another user who needs more rounds, such as one of whom all that is left is drawn, is none
    of their business."""
    counts = [10**6, 1, 1, 10**6, 5, 5, 7]
    excluded = [[], [0, 3, 6], [1]]
    seeds = [[3, 1], [4, 1], [5, 1]]
    together = draw_distinct(counts, excluded, 4, seeds)
    for own, seed, drawn in zip(excluded, seeds, together, strict=True):
        assert draw_distinct(counts, [own], 4, [seed]).tolist() == [drawn.tolist()]
    assert sorted(together[1]) == [1, 2, 4, 5]


def test_distinct_draws_are_pinned_to_their_seed():
    """If this fails, datasets with distinct candidates change: raise FORMAT_VERSION."""
    assert draw_distinct(COUNTS_OF_SIX, [[3], []], 4, [[7, 8], [7, 9]]).tolist() == [
        [4, 1, 0, 5],
        [1, 4, 0, 3],
    ]


def test_distinct_draws_are_the_same_in_a_graph_and_in_map():
    cumulative = tf.cumsum(tf.constant(COUNTS_OF_SIX, tf.int64))
    rows = tf.ragged.constant([[4], []], tf.int32, row_splits_dtype=tf.int64)
    seeds = tf.constant([[1, 2], [3, 4]])
    eager = negatives.draw_distinct(cumulative, rows, seeds, 3)
    graph = tf.function(negatives.draw_distinct)(cumulative, rows, seeds, 3)
    (mapped,) = tf.data.Dataset.from_tensors((rows, seeds)).map(
        lambda rows, seeds: negatives.draw_distinct(cumulative, rows, seeds, 3)
    )
    np.testing.assert_array_equal(graph, eager)
    np.testing.assert_array_equal(mapped, eager)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_stored_negatives_may_be_distinct(split):
    drawn = negatives.draw_negatives(SEQUENCES, COUNTS, 0, split, num=2, distinct=True)
    assert drawn.dtype == np.int32
    for number in range(3):
        own = SEQUENCES.items[SEQUENCES.of_split(number, "test")]
        assert len(set(drawn[number]) - set(own)) == 2
    # All that the second user does not have.
    assert set(drawn[1]) == {0, 1}


def test_user_who_leaves_too_few_distinct_items_is_named():
    counts, distinct = np.array([1, 1, 1, 1, 0]), {"candidate_sampling": "distinct"}
    sequences = sequences_of([0, 1], [2, 0, 1, 4], [3, 2, 1])
    negatives.check_enough_items("tiny", sequences, counts, Options(candidates=2, **distinct))
    message = (
        r"'tiny': got 1 items of the train split that user 'u1' does not have \(2 such users in "
        r"all, 1 at least\), expected 2 or more for 3 candidates; give --candidates 2 or "
        "--candidate_sampling with_replacement"
    )
    with pytest.raises(UserError, match=message):
        negatives.check_enough_items("tiny", sequences, counts, Options(candidates=3, **distinct))
    negatives.check_enough_items("tiny", sequences, counts, Options(candidates=3))


def test_nobody_is_drawn_for():
    assert draw_distinct(COUNTS_OF_SIX, [], 3, np.zeros([0, 2], np.int32)).shape == (0, 3)

    assert draw(COUNTS_OF_SIX, []).shape == (0, 99)


def test_seeds_depend_on_user_and_salt_alone():
    seeds = user_seeds(tf.constant(["A1YJEY40YUW4SE", "B"]), 5)
    assert seeds.dtype == tf.int32
    assert seeds[0].numpy().tolist() == [87060021, 5]
    assert seeds[1, 0] != seeds[0, 0]
    dataset = tf.data.Dataset.from_tensors(["B", "A1YJEY40YUW4SE"])
    (mapped,) = dataset.map(lambda users: user_seeds(users, tf.constant([6, 5])))
    np.testing.assert_array_equal(mapped, [[seeds[1, 0], 6], seeds[0]])


def test_draws_of_one_user_are_tensorflows():
    for seed in ([0, 0], [3, -4], [2**31 - 1, 20], [-(2**31), 1]):
        for bound in (tf.constant(7), tf.constant(10**12, tf.int64)):
            expected = tf.random.stateless_uniform([99], seed, 0, bound, bound.dtype, "philox")
            np.testing.assert_array_equal(uniform(tf.constant(seed), 99, bound), expected)
        folded = fold_in(tf.constant(seed), (1, 2))
        expected = [tf.random.fold_in(tf.constant(seed), salt, alg="philox") for salt in (1, 2)]
        np.testing.assert_array_equal(folded, expected)
