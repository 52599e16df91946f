"""Masks hide a fifth, everything hidden is asked for, and nothing is lost."""

import inspect

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.prompts import masking


class _Vocabulary:
    """Ids only: EOS is 1, and the last 100 of 1,100 are sentinels."""

    vocab_size, eos_id = 1100, 1


_FEATURES = {name: seqio.Feature(_Vocabulary()) for name in ("inputs", "targets")}


def _corrupt(sizes, seed, targets_length=None, inside_map=False):
    """(tokens, inputs, targets) of examples with so many tokens, corrupted as one batch."""
    lengths = None if targets_length is None else {"inputs": 2048, "targets": targets_length}
    tokens = [list(range(10, 10 + size)) for size in sizes]
    batch = {
        "inputs": tf.ragged.constant(
            [[*row, 1] for row in tokens], tf.int32, row_splits_dtype=tf.int64
        )
    }
    if inside_map:
        dataset = tf.data.Dataset.from_tensors(batch)
        with seqio.utils.map_seed_manager(seed):
            dataset = masking.corrupt_spans(
                dataset, sequence_length=lengths, output_features=_FEATURES
            )
        (corrupted,) = dataset
    else:
        corrupted = inspect.unwrap(masking.corrupt_spans)(
            batch, tf.constant([seed, 3]), lengths, _FEATURES
        )
    return list(
        zip(tokens, corrupted["inputs"].to_list(), corrupted["targets"].to_list(), strict=True)
    )


def _filled_in(inputs, targets):
    """The tokens that the spans in `targets` make of `inputs`."""
    spans, sentinel = {}, None
    for token in targets[:-1]:
        if token >= 1000:
            sentinel = token
            spans[sentinel] = []
        else:
            spans[sentinel].append(token)
    out = []
    for token in inputs[:-1]:
        out += spans.pop(token) if token >= 1000 else [token]
    assert not spans
    return out


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 700), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_corrupted_spans_fill_the_gaps(sizes, seed):
    for tokens, inputs, targets in _corrupt(sizes, seed):
        assert inputs[-1] == targets[-1] == 1
        assert _filled_in(inputs, targets) == tokens
        num_noise = sum(10 <= token < 1000 for token in targets)
        assert num_noise == max(1, min(len(tokens) - 1, round(0.2 * len(tokens))))
        sentinels = [token for token in inputs if token >= 1000]
        assert sentinels == list(range(1099, 1099 - len(sentinels), -1))
        assert len(sentinels) == max(1, min(100, round(num_noise / 3), len(tokens) - num_noise))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 900), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    length=st.integers(8, 128),
)
def test_corruption_fits_the_targets(sizes, seed, length):
    for tokens, inputs, targets in _corrupt(sizes, seed, length):
        assert len(targets) <= length
        assert _filled_in(inputs, targets) == tokens


def test_another_seed_corrupts_elsewhere():
    assert _corrupt([60], 0) == _corrupt([60], 0)
    assert _corrupt([60], 0) != _corrupt([60], 1)


def test_examples_of_a_batch_are_corrupted_in_different_places():
    made = _corrupt([60] * 20, 0)
    assert len({tuple(inputs) for _, inputs, _ in made}) > 15


@pytest.mark.parametrize("sizes", [[60], [2, 60, 300]])
def test_corruption_inside_map(sizes):
    made = _corrupt(sizes, 5, 40, inside_map=True)
    assert made == _corrupt(sizes, 5, 40, inside_map=True)
    assert made != _corrupt(sizes, 6, 40, inside_map=True)
    for tokens, inputs, targets in made:
        assert len(targets) <= 40
        assert _filled_in(inputs, targets) == tokens


def _int64(values):
    return tf.constant(values, tf.int64)


PLACES = ([1, 5, 5, 5, 0], [1, 1, 5, 0, 0])


@pytest.mark.parametrize(
    ("sizes", "nums"),
    [PLACES, ([], []), ([0], [0]), *(([size], [num]) for size, num in zip(*PLACES))],
)
def test_choose_takes_as_many_different_places_as_asked(sizes, nums):
    chosen = masking.choose(tf.constant([1, 2]), _int64(sizes), _int64(nums)).to_list()
    assert [len(places) for places in chosen] == nums
    for size, places in zip(sizes, chosen):
        assert places == sorted(set(places) & set(range(size)))


def test_choose_is_the_same_inside_map():
    sizes, nums = map(_int64, PLACES)
    seeds = tf.data.Dataset.from_tensor_slices(tf.reshape(tf.range(20), [10, 2]))
    mapped = seeds.map(lambda seed: masking.choose(seed, sizes, nums))
    for seed, chosen in zip(seeds, mapped):
        assert chosen.to_list() == masking.choose(seed, sizes, nums).to_list()


def test_choose_takes_every_place_equally_often():
    # Among examples with more places, which make the batch wider.
    sizes, nums = _int64([5, 9] * 1000), _int64([2, 3] * 1000)
    chosen = masking.choose(tf.constant([4, 0]), sizes, nums)
    counts = np.bincount(chosen[::2].values)
    # Each place is taken with probability 0.4; 5 standard deviations of the count are 77.
    assert np.abs(counts - 400).max() < 77


def test_split_into_gives_positive_lengths():
    totals, parts = [9, 1, 4, 700], [4, 1, 4, 100]
    for seed in range(30):
        made = masking.split_into(_int64(totals), _int64(parts), tf.constant([seed, 1])).to_list()
        for lengths, total, num in zip(made, totals, parts, strict=True):
            assert sum(lengths) == total
            assert len(lengths) == num
            assert min(lengths) >= 1


def test_every_split_is_equally_likely():
    num = 3000
    made = masking.split_into(_int64([5] * num), _int64([3] * num), tf.constant([0, 1]))
    splits, counts = np.unique(made.to_tensor().numpy(), axis=0, return_counts=True)
    # The six ways to make 5 of three positive numbers; 5 standard deviations are 102.
    assert len(splits) == 6
    assert np.abs(counts - num / 6).max() < 102
