"""Tests of a difference: against all sign flips, on a planted one, and on none."""

import itertools

import numpy as np
import pytest
from scipy import stats

from recllm_tasks.report.significance import bootstrap_p, holm, sign_flip


def test_p_is_the_share_of_all_sign_flips():
    differences = np.array([1, 1, -0.5, 0.63, 0, 0.63, 1, -0.43, 0.5])
    flips = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    exact = np.mean(np.abs(flips @ differences) >= abs(differences.sum()) - 1e-9)
    assert sign_flip(differences, 40_000) == pytest.approx(exact, abs=0.01)


def test_of_hits_it_is_the_exact_sign_test():
    """300 users, more than a word of bits: 90 won, 60 lost."""
    differences = np.repeat([1.0, -1.0, 0.0], [90, 60, 150])
    expected = stats.binomtest(90, 150).pvalue
    assert sign_flip(differences, 40_000) == pytest.approx(expected, abs=0.004)


def test_equal_rows_do_not_differ():
    assert sign_flip(np.zeros(100)) == 1
    assert bootstrap_p(np.zeros(100)) == 1


def test_p_is_even_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    found = [sign_flip(rng.choice([-1, 1], 60) * rng.random(60), 400) for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.12
    assert 0.4 < np.mean(found) < 0.6


def test_a_planted_difference_is_found_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=400) + 0.3
    assert sign_flip(differences) < 0.001
    assert sign_flip(differences) == sign_flip(differences) == sign_flip(-differences)
    assert bootstrap_p(np.full(2_000, 0.1)) == pytest.approx(2 / 2_001)


def test_holm_steps_down():
    adjusted = holm([0.01, 0.04, np.nan, 0.03])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert len(holm([])) == 0
