import math
from collections import Counter

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.data import sequences
from recllm_tasks.errors import UserError


def run(interactions, k_core):
    """(user, item, time, rating) tuples -> (duplicates, items, Sequences)."""
    with duckdb.connect() as connection:
        connection.execute(
            "create temp table raw_interactions (line bigint, user_id varchar, item_id varchar, "
            "time double, rating float, ok boolean)"
        )
        rows = [(line, *row, True) for line, row in enumerate(interactions, start=1)]
        connection.executemany("insert into raw_interactions values (?, ?, ?, ?, ?, ?)", rows)
        duplicates = sequences.build_core(connection, "tiny", k_core)
        items = sorted(sequences.list_items(connection))
        return duplicates, items, sequences.order_sequences(connection, items)


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


def test_core_unravels_to_the_fixed_point():
    """A square of 3 x 3, and a chain in which each removal makes the next one due."""
    rows = [(f"u{u}", f"i{i}", 1, None) for u in range(3) for i in range(3)]
    rows += [("u0", "x1", 1, None), ("u1", "x1", 1, None), ("v1", "x1", 1, None)]
    rows += [("v1", "i0", 1, None), ("v1", "x2", 1, None), ("v2", "x2", 1, None)]
    _, items, result = run(rows, 3)
    assert items == ["i0", "i1", "i2"]
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
        users=["u", "v"],
        offsets=np.array([0, 3, 7]),
        items=np.int32([4, 5, 6, 0, 1, 2, 3]),
        ratings=np.zeros(7, np.float32),
    )
    held = {s: list(result.items[result.of_split(1, s)]) for s in sequences.HELD_OUT}
    assert held == {"train": [0, 1], "validation": [0, 1, 2], "test": [0, 1, 2, 3]}
    assert list(result.lengths) == [3, 4]
    assert list(result.count_train(8)) == [1, 1, 0, 0, 1, 0, 0, 0]
