"""Draws for many examples are those that TensorFlow and SeqIO draw for each on its own."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.prompts import draws
from recllm_tasks.prompts.ragged import Ragged

SEEDS_64 = np.array([[0, 0], [1, 2], [2**32 - 1, 7], [-5, 2**62], [-(2**63), -1]], np.int64)
SEEDS_32 = np.array([[0, 0], [3, -4], [2**31 - 1, 20], [-(2**31), 1]], np.int32)


@pytest.mark.parametrize("seeds", [SEEDS_64, SEEDS_32])
def test_uniform_numbers_are_tensorflows(seeds):
    lengths = np.array([7, 0, 1, 300, 4])[: len(seeds)]
    bits = draws.uniform_bits(seeds, lengths)
    for row, (seed, length) in enumerate(zip(seeds, lengths)):
        expected = tf.random.stateless_uniform([length], seed).numpy()
        np.testing.assert_array_equal(bits[row].astype(np.float32) * np.float32(2**-23), expected)
    expected = [tf.random.stateless_uniform([], seed).numpy() for seed in seeds]
    np.testing.assert_array_equal(draws.uniform(seeds), expected)


@pytest.mark.parametrize("seeds", [SEEDS_64, SEEDS_32])
def test_whole_numbers_are_tensorflows(seeds):
    low, high = np.arange(len(seeds)), 3 + 5 * np.arange(len(seeds))
    expected = [
        tf.random.stateless_uniform([], seed, lo, hi, tf.int32).numpy()
        for seed, lo, hi in zip(seeds, low, high)
    ]
    np.testing.assert_array_equal(draws.uniform_int32(seeds, low, high), expected)
    high = 10 ** (2 + np.arange(len(seeds)))
    expected = [
        tf.random.stateless_uniform([99], seed, 0, hi, tf.int64, "philox").numpy()
        for seed, hi in zip(seeds, high)
    ]
    np.testing.assert_array_equal(draws.uniform_int64(seeds, 99, high), expected)


@pytest.mark.parametrize("seeds", [SEEDS_64, SEEDS_32])
def test_seeds_made_of_seeds_are_tensorflows(seeds):
    first, second = draws.split(seeds)
    for row, seed in enumerate(seeds):
        expected = tf.random.experimental.stateless_split(seed, 2).numpy()
        np.testing.assert_array_equal([first[row], second[row]], expected)
        folded = tf.random.experimental.stateless_fold_in(seed, 2).numpy()
        np.testing.assert_array_equal(draws.fold_in(seeds, 2)[row], folded)


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1])
def test_seeds_of_examples_are_seqios(seed):
    @seqio.map_over_dataset(num_seeds=2)
    def seeds_of(example, seeds):
        return tf.stack([tf.stack(seed) for seed in seeds])

    with seqio.utils.map_seed_manager(seed):
        found = list(seeds_of(tf.data.Dataset.range(11)).as_numpy_iterator())
    for number in (0, 1):
        np.testing.assert_array_equal(
            draws.map_seeds(seed + 2 * number, np.arange(11)), [pair[number] for pair in found]
        )


@pytest.mark.parametrize("rates", [[1.0, 1.0, 1.0, 1.0], [1.0, 0.6, 2.5, 3.0, 0.1], [2.0]])
def test_choices_are_those_of_sample_from_datasets(rates):
    datasets = [tf.data.Dataset.from_tensors(i).repeat() for i in range(len(rates))]
    sampled = tf.data.Dataset.sample_from_datasets(datasets, rates, 17).take(3000)
    expected = list(sampled.as_numpy_iterator())
    rates = np.array(rates)
    np.testing.assert_array_equal(draws.choices(17, rates, np.arange(3000)), expected)
    np.testing.assert_array_equal(draws.choices(17, rates, np.arange(9, 20)), expected[9:20])


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6), data=st.data())
def test_the_smallest_are_those_that_argsort_puts_first(rows, data):
    num = np.array([data.draw(st.integers(0, len(row))) for row in rows], np.int64)
    values = np.array([value for row in rows for value in row], np.uint64)
    bits = Ragged.of_lengths(values, np.array([len(row) for row in rows], np.int64))
    expected = []
    for row, wanted in zip(rows, num):
        first = tf.argsort(tf.constant(row, tf.float32))[:wanted].numpy()
        expected += [place in first for place in range(len(row))]
    assert draws.smallest(bits, num).tolist() == expected
