import dataclasses

import numpy as np
import pytest

from recllm_tasks import metrics
from recllm_tasks.baselines import history
from recllm_tasks.data.options import Options
from recllm_tasks.errors import UserError

# Likes in train: ann 2 of 3, bob 0 of 2, cat 1 of 1 known; all 3 of 6. Item 0 1 of 2, item 1
# 1 of 2, item 2 0 of 1, item 3 1 of 1. Targets: bob 2 (disliked), ann 3 (liked), new 1 (liked).


def test_scores_by_the_user(shop):
    assert history.score_users(shop).tolist() == [0, 2 / 3, 3 / 6]
    assert shop.targets_liked().tolist() == [False, True, True]


def test_scores_by_the_item(shop):
    assert history.score_items(shop).tolist() == [0, 1, 1 / 2]


def test_item_without_a_rating_gets_the_share_of_all(shop):
    other = dataclasses.replace(shop, targets=np.array([5, 4, 3], np.int32))
    assert history.score_items(other).tolist() == [1 / 2, 1 / 2, 1]


def test_targets_without_a_rating_are_left_out(shop):
    unknown = np.array([2.0, np.nan, 4.0], np.float32)
    rated = dataclasses.replace(shop, target_ratings=unknown).rated()
    assert rated.targets_liked().tolist() == [False, True]
    assert history.score_users(rated).tolist() == [0, 3 / 6]


def test_three_stars_are_no_like():
    assert Options().like_threshold == 3


def auc(scores, interactions):
    return metrics.auc(interactions.targets_liked(), scores(interactions))


def test_auc(shop):
    assert auc(history.score_users, shop) == 1


def test_no_ratings_no_rating_task(shop):
    unknown = [np.full_like(ratings, np.nan) for ratings in shop.train_ratings]
    with pytest.raises(UserError, match="ratings for 'train': got none"):
        history.score_users(dataclasses.replace(shop, train_ratings=unknown))
    with pytest.raises(UserError, match="ratings for 'the evaluated split': got none"):
        dataclasses.replace(shop, target_ratings=np.full(3, np.nan)).rated()


@pytest.mark.shared
def test_movielens(movielens):
    assert auc(history.score_users, movielens) == pytest.approx(0.6725, abs=5e-5)
    assert auc(history.score_items, movielens) == pytest.approx(0.7388, abs=5e-5)
