"""Windows: contiguous, complete, counted as in the paper; spans reach everything."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.prompts import windows
from recllm_tasks.prompts.windows import Sequences, TrainingWindows

SIZES = st.lists(st.integers(1, 70), min_size=1, max_size=4)


def _records(sizes, num_negatives=0):
    """Stored records of users u0, u1, …: user u has items 100 * (u + 1) and on, rated 0, 1, …."""
    records = []
    for user, size in enumerate(sizes):
        features = {
            "user": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"u%d" % user])),
            "items": _integers(range(100 * (user + 1), 100 * (user + 1) + size)),
            "ratings": tf.train.Feature(float_list=tf.train.FloatList(value=range(size))),
            "negatives": _integers([user] * num_negatives),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        records.append(example.SerializeToString())
    return tf.constant(records)


def _integers(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _training_windows(sizes, **settings):
    with pytest.MonkeyPatch.context() as patch:
        stored = tf.data.Dataset.from_tensors(_records(sizes))
        patch.setattr(windows, "stored_records", lambda directory, split: stored)
        return TrainingWindows(windows.training_sequences("nowhere"), **settings)


def _rows(batch):
    """The examples of an eager batch."""
    lists = {name: _list(value) for name, value in batch.items()}
    return [dict(zip(lists, values)) for values in zip(*lists.values(), strict=True)]


def _list(value):
    return value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()


def _cut_all(sizes, **settings):
    found = _training_windows(sizes, **settings)
    return _rows(found.cut(tf.range(len(found), dtype=tf.int64), with_negatives=False))


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_training_windows_are_contiguous_and_counted_as_in_table_10(sizes):
    found = iter(_cut_all(sizes))
    for user, size in enumerate(sizes):
        first = 100 * (user + 1)
        for start in range(max(1, size - 20)):
            window = next(found)
            history = window["history"]
            assert window["user"] == b"u%d" % user
            assert len(history) == min(20, size - 1)
            assert [*history, window["target"]] == list(
                range(first + start, first + start + len(history) + 1)
            )
            assert window["history_ratings"] == [row - first for row in history]
            assert window["target_rating"] == window["target"] - first
            assert window["window"] == start
    assert next(found, None) is None


def test_the_last_training_item_is_a_target_of_every_user():
    sizes = (2, 20, 21, 22, 60)
    for user, size in enumerate(sizes):
        own = [window for window in _cut_all(sizes) if window["user"] == b"u%d" % user]
        assert own[-1]["target"] == 100 * (user + 1) + size - 1


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from([1, 3, 20, 80]))
def test_every_item_after_the_first_is_a_target_once_with_the_items_before_it(sizes, w):
    found = iter(_cut_all(sizes, window=w, every_target=True))
    for user, size in enumerate(sizes):
        first = 100 * (user + 1)
        # A sequence of one item keeps its only example, without a history.
        for place in range(1, size) if size > 1 else [0]:
            window = next(found)
            assert window["user"] == b"u%d" % user
            assert window["target"] == first + place
            assert window["window"] == max(0, place - w)
            assert window["history"] == list(range(first + max(0, place - w), first + place))
            assert window["history_ratings"] == [row - first for row in window["history"]]
            assert window["target_rating"] == place
    assert next(found, None) is None


@settings(max_examples=20, deadline=None)
@given(SIZES)
def test_every_target_adds_examples_and_changes_none(sizes):
    paper, every = _cut_all(sizes), _cut_all(sizes, every_target=True)
    assert [window for window in every if window in paper] == paper


@settings(max_examples=20, deadline=None)
@given(SIZES, st.randoms(use_true_random=False))
def test_windows_are_cut_alike_in_any_order_one_by_one_and_inside_map(sizes, random):
    found, every = _training_windows(sizes), _cut_all(sizes)
    order = random.sample(range(len(every)), len(every))
    shuffled = found.cut(tf.constant(order, tf.int64), with_negatives=False)
    assert _rows(shuffled) == [every[number] for number in order]
    numbers = tf.data.Dataset.range(len(every)).batch(1)
    alone = numbers.map(lambda number: found.cut(number, with_negatives=False))
    assert [row for batch in alone for row in _rows(batch)] == every


def test_negatives_are_kept_on_request_only():
    found = _training_windows([5, 3])
    numbers = tf.constant([1, 0], tf.int64)
    batch = found.cut(numbers, with_negatives=True)
    assert batch["exclude"].to_list() == [[200, 201, 202], [100, 101, 102, 103, 104]]
    assert "exclude" not in found.cut(numbers, with_negatives=False)


def test_of_every_target_those_without_a_rating_or_a_history_are_left_out():
    found = _training_windows([1, 3, 22], every_target=True)
    assert len(found) == 1 + 2 + 21
    assert found.numbers(rated=False, with_history=False) is None
    assert found.numbers(rated=False, with_history=True).tolist() == list(range(1, 24))
    _forget_rating(found, 1 + 2)
    assert found.numbers(rated=True, with_history=False).tolist() == [0, 1, *range(3, 24)]


def _forget_rating(found, interaction):
    sequences = found._sequences
    ratings = sequences.ratings.values.numpy()
    ratings[interaction] = np.nan
    ratings = sequences.ratings.with_values(tf.constant(ratings))
    found._sequences = dataclasses.replace(sequences, ratings=ratings)


def test_windows_without_a_rating_or_a_history_are_left_out():
    found = _training_windows([1, 3, 22])
    assert found.numbers(rated=False, with_history=False) is None
    assert found.numbers(rated=False, with_history=True).tolist() == [1, 2, 3]
    _forget_rating(found, 1 + 2)  # of the second user's last item
    assert found.numbers(rated=True, with_history=False).tolist() == [0, 2, 3]


def test_windows_are_no_part_of_a_graph():
    found = _training_windows([5000] * 20)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def cut(numbers):
        return found.cut(numbers, with_negatives=True)

    graph = cut.get_concrete_function().graph.as_graph_def()
    assert max(node.ByteSize() for node in graph.node) < 4 * 5000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=4))
def test_the_last_window_ends_with_the_held_out_item(sizes):
    found = _rows(windows.last_windows(Sequences.parse(_records(sizes, 99))))
    for user, (size, window) in enumerate(zip(sizes, found, strict=True)):
        end = 100 * (user + 1) + size
        assert window["target"] == end - 1
        assert window["history"] == list(range(end - min(size, 21), end - 1))
        assert window["negatives"] == [user] * 99


def _spans(num_history, min_items, num):
    """Random spans of `num` examples with items 0 to `num_history`."""
    batch = _histories([num_history] * num)
    spans = windows.sample_spans(batch, tf.constant([3, 7]), min_items)["history"]
    return [tuple(span) for span in spans.to_list()]


def _histories(sizes):
    history = tf.ragged.range(tf.constant(sizes, tf.int32), row_splits_dtype=tf.int64)
    return {"history": history, "target": tf.constant(sizes)}


def test_every_span_of_two_items_or_more_is_reachable():
    every = {tuple(range(a, b)) for a in range(5) for b in range(a + 2, 6)}
    assert set(_spans(4, 2, 400)) == every


def test_a_span_has_at_most_the_windows_items():
    lengths = {len(span) for span in _spans(20, 2, 300)}
    assert lengths == set(range(2, 21))


def test_the_longest_span_of_a_full_window_drops_either_end():
    spans = _spans(20, windows.WINDOW, 40)
    assert {len(span) for span in spans} == {20}
    assert {span[0] for span in spans} == {0, 1}
    assert set(_spans(5, windows.WINDOW, 5)) == {tuple(range(6))}


def test_spans_are_contiguous_inside_map_too():
    batch = _histories([9, 0, 3])
    seeds = tf.data.Dataset.from_tensor_slices(tf.reshape(tf.range(40), [20, 2]))
    mapped = seeds.map(lambda seed: windows.sample_spans(batch, seed, 2)["history"])
    for seed, spans in zip(seeds, mapped):
        assert all(np.all(np.diff(span) == 1) for span in spans.to_list())
        assert spans.to_list() == windows.sample_spans(batch, seed, 2)["history"].to_list()


@pytest.mark.parametrize("sizes", [[5], [1, 7, 3], []])
def test_numbers_are_uniform_below_their_sizes(sizes):
    many = tf.repeat(tf.constant(sizes, tf.int64), 2000)
    drawn = windows.uniform_below(many, tf.constant([1, 2])).numpy().reshape(len(sizes), 2000)
    for size, numbers in zip(sizes, drawn):
        counts = np.bincount(numbers, minlength=size)
        assert len(counts) == size
        # Five standard deviations.
        assert np.abs(counts - 2000 / size).max() <= 5 * np.sqrt(2000 / size)
