import hashlib
import math
import tempfile
from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.core import hashing

from recllm_tasks.data import sequences
from recllm_tasks.data.negatives import check_enough_items
from recllm_tasks.errors import UserError


def connect(interactions):
    """A connection with (user, item, time, rating) tuples as `raw_interactions`."""
    connection = duckdb.connect()
    rows = [(line, *row, True) for line, row in enumerate(interactions, start=1)]
    names = ("line", "user_id", "item_id", "time", "rating", "ok")
    raw = pa.table({name: list(column) for name, column in zip(names, zip(*rows))})
    connection.register("raw", raw)
    connection.execute("""
        create table raw_interactions as
        select line, user_id, item_id, time::double as time, rating::float as rating, ok from raw
    """)
    return connection


def run(interactions, k_core, repeats="first"):
    """(user, item, time, rating) tuples -> (duplicates, items, Sequences)."""
    with connect(interactions) as connection, tempfile.TemporaryDirectory() as folder:
        duplicates = sequences.build_core(connection, "tiny", k_core, repeats)
        items = sequences.order_items(connection, 0)
        result = sequences.order_sequences(connection, folder)
        return duplicates, items, result.take(np.arange(len(result.users)))


def in_words(items, result):
    return {
        user: [items[row] for row in result.items[result.of_split(number, "test")]]
        for number, user in enumerate(result.users)
    }


def test_ties_keep_the_order_of_the_file():
    names = ["c", "a", "d", "b"]
    rows = [(user, item, 5, None) for item in names for user in ("u", "v", "w")]
    rows += [(user, "e", 1, None) for user in ("u", "v", "w")]
    _, items, result = run(rows, 3)
    assert in_words(items, result) == {user: ["e", *names] for user in ("u", "v", "w")}


def test_duplicates_keep_the_first_in_time():
    rows = [(user, item, 5, 1.0) for item in "abc" for user in ("u", "v", "w")]
    rows += [("u", "a", 9, 2.0), ("u", "c", 1, 3.0), ("u", "b", 5, 4.0)]
    duplicates, items, result = run(rows, 3)
    assert duplicates == 3
    assert in_words(items, result)["u"] == ["c", "a", "b"]
    np.testing.assert_array_equal(result.ratings[:3], np.float32([3, 1, 1]))


def test_unknown_ratings_are_nan():
    rows = [(user, item, 5, None) for item in "abc" for user in ("u", "v", "w")]
    _, _, result = run(rows, 3)
    assert result.ratings.dtype == np.float32
    assert result.items.dtype == np.int32
    assert all(math.isnan(rating) for rating in result.ratings)


def test_the_core_is_a_fixed_point():
    """A 3 x 3 square, and a chain in which each removal causes the next one."""
    rows = [(f"u{u}", f"i{i}", 1, None) for u in range(3) for i in range(3)]
    rows += [("u0", "x1", 1, None), ("u1", "x1", 1, None), ("v1", "x1", 1, None)]
    rows += [("v1", "i0", 1, None), ("v1", "x2", 1, None), ("v2", "x2", 1, None)]
    _, items, result = run(rows, 3)
    assert sorted(items) == ["i0", "i1", "i2"]
    assert result.users == ["u0", "u1", "u2"]


pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60)


@settings(max_examples=30, deadline=None)
@given(pairs)
def test_core_equals_removal_one_by_one(edges):
    left = set(edges)
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        weak = next((e for e in sorted(left) if users[e[0]] < 3 or items[e[1]] < 3), None)
        if weak is None:
            break
        left.remove(weak)
    rows = [(f"u{u}", f"i{i}", 1, None) for u, i in edges]
    if not left:
        with pytest.raises(UserError, match="nothing left"):
            run(rows, 3)
        return
    duplicates, items, result = run(rows, 3)
    assert duplicates == len(edges) - len(set(edges))
    words = in_words(items, result)
    assert {(u, i) for u, row in words.items() for i in row} == {
        (f"u{u}", f"i{i}") for u, i in left
    }


def test_nothing_left_names_the_dataset():
    with pytest.raises(UserError, match=r"'tiny': got 0 of 1 interactions after the 5-core"):
        run([("u", "i", 1, None)], 5)


def test_leave_one_out():
    result = sequences.Sequences(
        users=pa.chunked_array([["u", "v"]]),
        offsets=np.array([0, 3, 7]),
        items=np.int32([4, 5, 6, 0, 1, 2, 3]),
        ratings=np.zeros(7, np.float32),
    )
    held = {s: list(result.items[result.of_split(1, s)]) for s in sequences.HELD_OUT}
    assert held == {"train": [0, 1], "validation": [0, 1, 2], "test": [0, 1, 2, 3]}
    assert list(result.lengths) == [3, 4]
    assert list(result.count_train(8)) == [1, 1, 0, 0, 1, 0, 0, 0]


def square(num_users, num_items, name="A"):
    """Each user has each item."""
    return [(f"u{u}", f"{name}{i}", 1, None) for u in range(num_users) for i in range(num_items)]


def test_order_of_items_is_pinned():
    """The order of `for i in 0 1 2 3 4 5; do printf 0:A$i | sha256sum; done` when sorted."""
    with connect(square(3, 6)) as connection:
        sequences.build_core(connection, "tiny", 3)
        assert sequences.order_items(connection, 0) == ["A3", "A4", "A1", "A2", "A0", "A5"]


@pytest.mark.parametrize("seed", [0, 7])
def test_order_of_many_items_depends_on_the_seed_and_not_on_the_file(seed):
    """More than one of DuckDB's batches, whose order may vary."""
    rows = square(3, 12_000, name="ü\\ '")
    by_hand = sorted(
        {item for _, item, _, _ in rows},
        key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).hexdigest(),
    )
    for order in (rows, rows[::-1]):
        with connect(order) as connection:
            sequences.build_core(connection, "tiny", 3)
            assert sequences.order_items(connection, seed) == by_hand


def test_many_users_keep_their_own_items(tmp_path):
    rows = [(f"u{u}", f"i{(u + k) % 5_000}", k, float(k)) for u in range(5_000) for k in range(5)]
    with connect(rows) as connection:
        sequences.build_core(connection, "tiny", 5)
        items = sequences.order_items(connection, 0)
        result = sequences.order_sequences(connection, tmp_path)
    users = result.users.to_pylist()
    assert users == sorted(f"u{u}" for u in range(5_000))
    for number, user in enumerate(users):
        own = result.items[result.of_split(number, "test")]
        assert [items[row] for row in own] == [f"i{(int(user[1:]) + k) % 5_000}" for k in range(5)]
    assert list(result.ratings) == [0, 1, 2, 3, 4] * 5_000


@pytest.mark.parametrize("split", sequences.HELD_OUT)
def test_record_order_is_that_of_tfds(tmp_path, split):
    rows = [(user, f"i{i}", 1, None) for user in ("a\\b", "a/c", "ü", "😀", "d'") for i in range(3)]
    with connect(rows) as connection:
        sequences.build_core(connection, "tiny", 3)
        sequences.order_items(connection, 0)
        users = sequences.order_sequences(connection, tmp_path).users
    ordered = users.take(pa.array(sequences.open_record_order(tmp_path, split))).to_pylist()
    assert ordered == sorted(users.to_pylist(), key=hashing.Hasher(split).hash_key)


def test_take_keeps_the_given_order():
    result = sequences.Sequences(
        users=pa.chunked_array([["u", "v"], ["w"]]),
        offsets=np.array([0, 3, 7, 8]),
        items=np.int32([4, 5, 6, 0, 1, 2, 3, 9]),
        ratings=np.arange(8, dtype=np.float32),
    ).take(np.array([2, 0]))
    assert result.users == ["w", "u"]
    assert list(result.offsets) == [0, 1, 4]
    assert list(result.items) == [9, 4, 5, 6]
    assert list(result.ratings) == [7, 0, 1, 2]


logs = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=50
)


@settings(max_examples=30, deadline=None)
@given(logs, st.sampled_from([0, 3]))
def test_every_interaction_of_the_core_stays_in_order(log, k_core):
    """Against a reference: interactions count for the core, repeats too."""
    rows = [(f"u{u}", f"i{i}", t, None) for u, i, t in log]
    left = rows
    while k_core:
        weak = [
            row for row in left if any(sum(o[c] == row[c] for o in left) < k_core for c in (0, 1))
        ]
        if not weak:
            break
        left = [row for row in left if row not in weak]
    if not left:
        with pytest.raises(UserError, match="nothing left"):
            run(rows, k_core, "keep")
        return
    duplicates, items, found = run(rows, k_core, "keep")
    assert duplicates == 0
    for number, user in enumerate(found.users):
        own = found.items[found.offsets[number] : found.offsets[number + 1]]
        # Python's sort is stable too.
        expected = sorted((row for row in left if row[0] == user), key=lambda row: row[2])
        assert [items[row] for row in own] == [row[1] for row in expected]
    assert set(found.users) == {row[0] for row in left}


def test_repeats_are_counted():
    log = [("u", item, time, None) for time, item in enumerate("abaaab")]
    with connect(log) as connection:
        sequences.build_core(connection, "tiny", 0, "keep")
        assert sequences.count_repeats(connection) == 4


def test_a_user_of_one_item_many_times_does_not_have_every_item():
    _, items, found = run([("u", "a", time, None) for time in range(5)], 0, "keep")
    check_enough_items("tiny", found, np.array([3, 1]))
    with pytest.raises(UserError, match="got user 'u'"):
        check_enough_items("tiny", found, np.array([3]))
    assert items == ["a"]
