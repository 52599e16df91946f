import numpy as np
import pytest

from recllm_tasks.data import item_to_item
from recllm_tasks.data.item_to_item import FAST, SLOW

DECAY, BACKWARD, WINDOW = FAST.pair, FAST.backward, FAST.window


def rows(*sequences):
    return [np.array(items, np.int32) for items in sequences]


def test_similarity_is_decayed_and_normalised():
    # Counts 2, 2, 1.
    found = item_to_item.similarity(rows([0, 1, 2], [0, 1]), num_items=4).toarray()
    expected = np.array(
        [
            [0, 2 / 2, DECAY / 2**0.5, 0],
            [2 * BACKWARD / 2, 0, 1 / 2**0.5, 0],
            [BACKWARD * DECAY / 2**0.5, BACKWARD / 2**0.5, 0, 0],
            [0, 0, 0, 0],
        ]
    )
    np.testing.assert_allclose(found, expected)


def test_users_do_not_meet():
    found = item_to_item.similarity(rows([0, 1], [2], [], [3, 4]), num_items=5).toarray()
    assert set(zip(*np.nonzero(found))) == {(0, 1), (1, 0), (3, 4), (4, 3)}


def test_pairs_beyond_the_window_do_not_count():
    found = item_to_item.similarity(rows(range(WINDOW + 2)), num_items=WINDOW + 2).toarray()
    assert found[0, WINDOW] == pytest.approx(DECAY ** (WINDOW - 1))
    assert found[0, WINDOW + 1] == 0


def test_similarity_equals_the_double_sum():
    rng = np.random.default_rng(0)
    train = [rng.choice(12, size=n).astype(np.int32) for n in (30, 3, 0, 1, 25)]
    counts = np.bincount(np.concatenate(train), minlength=12)
    expected = np.zeros((12, 12))
    for items in train:
        for i, a in enumerate(items):
            for j, b in enumerate(items):
                if 0 < abs(j - i) <= WINDOW:
                    weight = DECAY ** (abs(j - i) - 1) * (1 if j > i else BACKWARD)
                    expected[a, b] += weight / (counts[a] * counts[b]) ** 0.5
    np.testing.assert_allclose(item_to_item.similarity(train, 12).toarray(), expected)


def test_history_weights_decay_with_age():
    found = item_to_item.history_weights(rows([2, 0], [], [1, 1]), num_items=3).toarray()
    np.testing.assert_allclose(found, [[1, 0, 1 / 2], [0, 0, 0], [0, 1 + 1 / 2, 0]])
    slow = item_to_item.history_weights(rows([2, 0, 1]), 3, SLOW).toarray()
    np.testing.assert_allclose(slow, [[0.8, 1, 0.8**2]])


def test_history_is_cut_at_its_oldest():
    history = rows(range(WINDOW + 1))
    found = item_to_item.history_weights(history, WINDOW + 1, SLOW).toarray()[0]
    assert found[0] == 0
    assert found[1] == pytest.approx(SLOW.pair ** (WINDOW - 1))
    whole = item_to_item.history_weights(history, WINDOW + 1, FAST).toarray()[0]
    assert whole[0] == pytest.approx(1 / (WINDOW + 1))
