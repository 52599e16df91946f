"""Masks hide a fifth, everything hidden is asked for, and nothing is lost."""

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


def _corrupt(num_tokens, seed, targets_length=None):
    lengths = None if targets_length is None else {"inputs": 2048, "targets": targets_length}
    tokens = tf.concat([tf.range(10, 10 + num_tokens), [1]], axis=0)
    corrupted = masking.corrupt_spans.__wrapped__(
        {"inputs": tokens}, tf.constant([seed, 3]), lengths, _FEATURES
    )
    return tokens.numpy()[:-1], corrupted["inputs"].numpy(), corrupted["targets"].numpy()


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
@given(num_tokens=st.integers(2, 700), seed=st.integers(0, 1000))
def test_corrupted_spans_fill_the_gaps(num_tokens, seed):
    tokens, inputs, targets = _corrupt(num_tokens, seed)
    assert inputs[-1] == targets[-1] == 1
    assert _filled_in(inputs, targets) == tokens.tolist()
    num_noise = sum(10 <= token < 1000 for token in targets)
    assert num_noise == max(1, min(num_tokens - 1, round(0.2 * num_tokens)))
    sentinels = [token for token in inputs if token >= 1000]
    assert sentinels == list(range(1099, 1099 - len(sentinels), -1))
    assert len(sentinels) == max(1, min(100, round(num_noise / 3), num_tokens - num_noise))


@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(2, 900), seed=st.integers(0, 99), length=st.integers(8, 128))
def test_corruption_fits_the_targets(num_tokens, seed, length):
    tokens, inputs, targets = _corrupt(num_tokens, seed, length)
    assert len(targets) <= length
    assert _filled_in(inputs, targets) == tokens.tolist()


def test_another_seed_corrupts_elsewhere():
    assert _corrupt(60, 0)[1].tolist() == _corrupt(60, 0)[1].tolist()
    assert _corrupt(60, 0)[1].tolist() != _corrupt(60, 1)[1].tolist()


@pytest.mark.parametrize(("size", "num"), [(1, 1), (5, 1), (5, 5), (5, 0), (0, 0)])
def test_choose_takes_as_many_as_asked(size, num):
    assert masking.choose(tf.constant([1, 2]), size, num).numpy().sum() == num


def test_choose_takes_every_place_equally_often():
    counts = np.zeros(5)
    for seed in range(1000):
        counts += masking.choose(tf.constant([seed, 0]), tf.constant(5), tf.constant(2)).numpy()
    # Each place is taken with probability 0.4; 5 standard deviations of the count are 77.
    assert np.abs(counts - 400).max() < 77


def test_split_into_gives_positive_lengths():
    for seed in range(30):
        lengths = masking._split_into(tf.constant(9), tf.constant(4), tf.constant([seed, 1]))
        assert lengths.numpy().sum() == 9
        assert lengths.numpy().min() >= 1
        assert lengths.shape == (4,)
