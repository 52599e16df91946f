"""Ragged rows against plain lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recllm_tasks.audit.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


def ragged(rows):
    values = np.array([value for row in rows for value in row], np.int64)
    return Ragged.of_lengths(values, np.array([len(row) for row in rows], np.int64))


def lists(found):
    return [found[row].tolist() for row in range(len(found))]


@given(ROWS, st.randoms(use_true_random=False))
def test_rows(rows, random):
    found = ragged(rows)
    order = random.sample(range(len(rows)), len(rows))
    assert lists(found) == rows
    assert lists(found.take(np.array(order, np.int64))) == [rows[number] for number in order]
    assert lists(Ragged.concatenate([found, ragged([[1]]), found])) == [*rows, [1], *rows]
    assert lists(found.without_last(2)) == [row[:-2] for row in rows]
    assert found.rows.tolist() == [number for number, row in enumerate(rows) for _ in row]
    assert found.positions.tolist() == [place for row in rows for place in range(len(row))]


@given(ROWS.filter(any))
def test_last_columns(rows):
    expected = [[-1, -1, *row][-2:] for row in rows]
    assert ragged(rows).last_columns(2).tolist() == expected


def test_rows_of_one_length():
    assert lists(Ragged.of_array(np.arange(6).reshape(3, 2))) == [[0, 1], [2, 3], [4, 5]]
    assert lists(Ragged.concatenate([])) == []
