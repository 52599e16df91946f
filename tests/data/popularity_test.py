import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

draw_in_graph = tf.function(draw_by_popularity)


def draw(counts, excluded, seed=(1, 2), num=99):
    rows = draw_by_popularity(
        tf.constant(np.cumsum(counts), tf.int64), tf.constant(excluded, tf.int32), seed, num
    )
    assert rows.dtype == tf.int32
    return rows.numpy()


@pytest.mark.parametrize(
    ("counts", "excluded"),
    [
        ([5, 1, 0, 3, 8, 2], []),
        ([5, 1, 0, 3, 8, 2], [4]),
        ([5, 1, 0, 3, 8, 2], [0]),
        ([5, 1, 0, 3, 8, 2], [5, 3, 2, 5]),
        ([5, 1, 0, 3, 8, 2], [1, 0, 2, 1]),
        ([0, 0, 4, 4], [3]),
        ([1, 2, 3, 0], [2, 0]),
    ],
)
def test_draws_are_proportional_to_the_counts(counts, excluded):
    num = 40_000
    left = np.array(counts, float)
    left[excluded] = 0
    probability = left / left.sum()
    drawn = np.bincount(draw(counts, excluded, num=num), minlength=len(counts))
    assert not drawn[probability == 0].any()
    possible = probability > 0
    expected = num * probability[possible]
    chi_square = ((drawn[possible] - expected) ** 2 / expected).sum()
    # The 99.9 % quantile of chi-square with 4 degrees of freedom or fewer is at most 18.5.
    assert chi_square < 18.5


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_never_draws_what_is_excluded(data):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=12))
    rows = st.integers(0, len(counts) - 1)
    excluded = data.draw(st.lists(rows, max_size=20))
    allowed = {row for row, c in enumerate(counts) if c and row not in excluded}
    if not allowed:
        with pytest.raises(tf.errors.InvalidArgumentError):
            draw(counts, excluded)
        return
    drawn = set(draw(counts, excluded, num=300))
    assert drawn <= allowed
    # Each allowed row has a probability of 1/36 or more: all but surely drawn in 300.
    assert len(drawn) >= len(allowed) - 1


def test_is_pinned_to_its_seed():
    """If this fails, every stored dataset changes: raise FORMAT_VERSION."""
    assert list(draw([5, 1, 0, 3, 8, 2], [3], seed=(7, 8), num=8)) == [4, 4, 4, 4, 0, 4, 4, 5]
    assert list(draw([5, 1, 0, 3, 8, 2], [3], seed=(7, 8))) != list(
        draw([5, 1, 0, 3, 8, 2], [3], seed=(7, 9))
    )


def test_same_in_eager_in_a_graph_and_in_map():
    cumulative = tf.constant(np.cumsum([5, 1, 0, 3, 8, 2]), tf.int64)
    excluded, seed = tf.constant([4, 0, 4]), tf.constant([3, 4])
    eager = draw_by_popularity(cumulative, excluded, seed, 99)
    graph = draw_in_graph(cumulative, excluded, seed, 99)
    mapped = tf.data.Dataset.from_tensors(excluded).map(
        lambda rows: draw_by_popularity(cumulative, rows, seed, 99)
    )
    (mapped,) = mapped.as_numpy_iterator()
    np.testing.assert_array_equal(graph, eager)
    np.testing.assert_array_equal(mapped, eager)
    assert len(set(eager.numpy())) < 99


def test_seed_depends_on_user_and_salt_alone():
    seed = user_seed(tf.constant("A1YJEY40YUW4SE"), 5)
    assert seed.dtype == tf.int32
    assert list(seed.numpy()) == [87060021, 5]
    (mapped,) = tf.data.Dataset.from_tensors("A1YJEY40YUW4SE").map(lambda u: user_seed(u, 5))
    np.testing.assert_array_equal(mapped, seed)
    assert user_seed("B", 5)[0] != seed[0]
