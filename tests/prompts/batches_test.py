"""Operations on ragged rows against plain lists, eagerly and inside map."""

import itertools

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.prompts import batches

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=5), max_size=5)


def _ragged(rows):
    return tf.ragged.constant(rows, tf.int32, ragged_rank=1, row_splits_dtype=tf.int64)


def _int64(values):
    return tf.constant(values, tf.int64)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_facts_about_rows(rows):
    ragged, lengths = _ragged(rows), [len(row) for row in rows]
    assert batches.lengths_of(ragged).numpy().tolist() == lengths
    places = [place for row in rows for place in range(len(row))]
    assert batches.places_of(ragged).numpy().tolist() == places
    numbers = [10 * number for number in range(len(rows))]
    found = batches.rows_of(ragged, _int64(numbers)).numpy().tolist()
    assert found == [number for number, row in zip(numbers, rows) for _ in row]
    assert batches.row_sums(ragged).numpy().tolist() == [sum(row) for row in rows]
    totals = list(itertools.accumulate(itertools.chain([0], *rows)))
    assert batches.totals(ragged.values).numpy().tolist() == totals
    assert batches.of_lengths(ragged.values, _int64(lengths)).to_list() == rows


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parts_of_rows(data):
    rows = data.draw(ROWS)
    ragged = _ragged(rows)
    most = data.draw(st.integers(0, 6))
    assert batches.first(ragged, most).to_list() == [row[:most] for row in rows]
    kept = [data.draw(st.booleans()) for _ in rows]
    batch = {"rows": ragged, "number": _int64(range(len(rows)))}
    found = batches.keep(batch, tf.constant(kept, tf.bool))
    expected = [(number, row) for number, row in enumerate(rows) if kept[number]]
    assert list(zip(found["number"].numpy().tolist(), found["rows"].to_list())) == expected
    for name in batch:
        assert int(batches.num_examples({name: found[name]})) == len(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=3)] * 2), max_size=4))
def test_pieces_are_joined_row_by_row(pairs):
    one, other = (_ragged([pair[side] for pair in pairs]) for side in (0, 1))
    words = tf.constant([7, 8])
    joined = batches.join([words, one, other, words]).to_list()
    assert joined == [[7, 8, *first, *second, 7, 8] for first, second in pairs]


def test_columns_are_rows():
    assert batches.of_columns(tf.constant([3, 4])).to_list() == [[3], [4]]
    assert batches.of_columns(tf.constant([[1, 2], [3, 4]])).to_list() == [[1, 2], [3, 4]]
    assert batches.of_columns(tf.zeros([0, 2], tf.int32)).to_list() == []


@pytest.mark.parametrize("rows", [[[1, 2], [], [3]], [[5]], []])
def test_the_same_inside_map(rows):
    def parts(ragged):
        return {
            "first": batches.first(ragged, 1),
            "joined": batches.join([ragged, tf.constant([7]), ragged]),
            "sums": batches.of_columns(batches.places_of(ragged)),
        }

    (mapped,) = tf.data.Dataset.from_tensors(_ragged(rows)).map(parts)
    for name, eager in parts(_ragged(rows)).items():
        assert mapped[name].to_list() == eager.to_list()


def test_unbatched_examples_are_tensors():
    batch = {"rows": _ragged([[1, 2], [], [3]]), "number": _int64([0, 1, 2])}
    dataset = batches.unbatch(tf.data.Dataset.from_tensors(batch).repeat(2))
    assert dataset.element_spec["rows"] == tf.TensorSpec([None], tf.int32)
    found = [example["rows"].tolist() for example in dataset.as_numpy_iterator()]
    assert found == [[1, 2], [], [3]] * 2
