"""Windows: contiguous, complete, counted as in the paper; spans reach everything."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.prompts import windows


def _record(num_items, num_negatives=0):
    return {
        "user": tf.constant("u"),
        "items": tf.range(num_items) + 100,
        "ratings": tf.cast(tf.range(num_items), tf.float32),
        "negatives": tf.zeros([num_negatives], tf.int32),
    }


def _training_windows(num_items):
    dataset = tf.data.Dataset.from_tensors(_record(num_items))
    return list(windows.training_windows(dataset).as_numpy_iterator())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70))
def test_training_windows_are_contiguous_and_counted_as_in_table_10(num_items):
    found = _training_windows(num_items)
    assert len(found) == max(1, num_items - 20)
    for start, window in enumerate(found):
        history = window["history"].tolist()
        assert len(history) == min(20, num_items - 1)
        assert [*history, window["target"]] == list(range(100 + start, 101 + start + len(history)))
        assert window["history_ratings"].tolist() == [row - 100 for row in history]
        assert window["target_rating"] == window["target"] - 100
        assert window["window"] == start


def test_the_last_training_item_is_a_target_of_every_user():
    for num_items in (2, 20, 21, 22, 60):
        assert _training_windows(num_items)[-1]["target"] == 100 + num_items - 1


def test_negatives_are_kept_on_request_only():
    dataset = tf.data.Dataset.from_tensors(_record(5))
    (window,) = windows.training_windows(dataset, with_negatives=True).as_numpy_iterator()
    assert window["exclude"].tolist() == [100, 101, 102, 103, 104]
    assert "exclude" not in _training_windows(5)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60))
def test_the_last_window_ends_with_the_held_out_item(num_items):
    dataset = tf.data.Dataset.from_tensors(_record(num_items, 99))
    (window,) = windows.last_window(dataset).as_numpy_iterator()
    assert window["target"] == 100 + num_items - 1
    first = max(0, num_items - 21)
    assert window["history"].tolist() == list(range(100 + first, 100 + num_items - 1))
    assert window["negatives"].shape == (99,)


def _spans(num_history, min_items, num_seeds):
    example = {"history": tf.range(num_history), "target": tf.constant(num_history)}
    return [
        windows.sample_span(example, tf.constant([seed, 7]), tf.constant(min_items))[
            "history"
        ].numpy()
        for seed in range(num_seeds)
    ]


def test_every_span_of_two_items_or_more_is_reachable():
    spans = {tuple(span.tolist()) for span in _spans(4, 2, 400)}
    every = {tuple(range(a, b)) for a in range(5) for b in range(a + 2, 6)}
    assert spans == every


def test_a_span_has_at_most_the_windows_items():
    lengths = {len(span) for span in _spans(20, 2, 300)}
    assert lengths == set(range(2, 21))


def test_the_longest_span_of_a_full_window_drops_either_end():
    spans = _spans(20, windows.WINDOW, 40)
    assert {len(span) for span in spans} == {20}
    assert {int(span[0]) for span in spans} == {0, 1}
    assert {tuple(span.tolist()) for span in _spans(5, windows.WINDOW, 5)} == {tuple(range(6))}


def test_spans_are_contiguous_inside_map_too():
    example = {"history": tf.range(9), "target": tf.constant(9)}
    seeds = tf.data.Dataset.from_tensor_slices(tf.reshape(tf.range(40), [20, 2]))
    for seed, mapped in zip(
        seeds, seeds.map(lambda s: windows.sample_span(example, s, 2)["history"])
    ):
        assert np.all(np.diff(mapped.numpy()) == 1)
        eager = windows.sample_span(example, seed, tf.constant(2))["history"]
        assert mapped.numpy().tolist() == eager.numpy().tolist()
