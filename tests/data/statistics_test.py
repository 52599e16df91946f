import json

import numpy as np
import pytest

from recllm_tasks.data.statistics import Statistics, count_train_windows


def test_counts_follow_their_formulas():
    statistics = Statistics.from_lengths(np.array([5, 7, 30]), items=10)
    assert (statistics.users, statistics.items, statistics.interactions) == (3, 10, 42)
    assert statistics.sparsity == pytest.approx(100 * (1 - 42 / 30))
    assert statistics.mean_length == pytest.approx(14)
    assert statistics.std_length == pytest.approx(((9**2 + 7**2 + 16**2) / 3) ** 0.5)
    assert statistics.train_windows == 1 + 1 + (30 - 2 - 20)


@pytest.mark.parametrize(
    ("length", "windows"), [(0, 0), (1, 1), (20, 1), (21, 1), (22, 2), (41, 21)]
)
def test_windows_of_one_user(length, windows):
    assert count_train_windows(np.array([length])) == windows


def test_json_round_trip():
    statistics = Statistics.from_lengths(np.array([5, 7]), items=10)
    assert Statistics(**json.loads(json.dumps(statistics.to_json()))) == statistics
