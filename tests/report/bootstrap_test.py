"""Resampling: the same each time, of the right spread, and paired."""

import numpy as np
import pytest

from recllm_tasks import metrics
from recllm_tasks.report.bootstrap import Resampling, interval


def test_the_same_seed_gives_the_same_intervals():
    values = np.random.default_rng(0).random((50, 2))
    first, again = (Resampling(50, 200, seed=1).means(values) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (Resampling(50, 200, seed=2).means(values) != first).any()


def test_a_mean_is_resampled_with_its_standard_error():
    num = 1_000
    values = (np.arange(num) < 300).astype(float)
    low, high = interval(Resampling(num).means(values[:, None])[:, 0])
    expected = 1.96 * np.sqrt(0.3 * 0.7 / num)
    assert low == pytest.approx(0.3 - expected, abs=0.003)
    assert high == pytest.approx(0.3 + expected, abs=0.003)


def test_every_column_has_the_same_users():
    values = np.random.default_rng(0).random(80)
    means = Resampling(80, 100).means(np.stack([values, values + 1], axis=1))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1, atol=1e-6)


def test_nan_is_left_out_of_a_mean():
    values = np.array([[1.0], [3.0], [np.nan]])
    means = Resampling(3, 300).means(values)[:, 0]
    assert np.nanmin(means) == 1
    assert np.nanmax(means) == 3
    assert np.isnan(means).any(), "the third user alone has no mean"


@pytest.mark.parametrize("digits", [0, 8])
def test_auc_is_that_of_the_users_drawn(digits):
    """But for terms of the order of 1 / users."""
    rng, num = np.random.default_rng(0), 1_000
    liked, scores = rng.random(num) < 0.6, np.round(rng.normal(size=num), digits)
    scores += liked
    found = Resampling(num, 50).aucs(liked, scores)
    generator = np.random.Generator(np.random.Philox(0))
    drawn = [generator.integers(num, size=num) for _ in range(50)]
    expected = np.array([metrics.auc(liked[users], scores[users]) for users in drawn])
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=5 / num)


def test_auc_of_one_class_is_no_number():
    assert np.isnan(Resampling(5, 10).aucs(np.ones(5, bool), np.arange(5.0))).all()


def test_an_interval_needs_numbers():
    assert np.isnan(interval(np.array([np.nan, 1.0]))).all()
    assert interval(np.linspace(0, 1, 201)) == pytest.approx((0.025, 0.975))
