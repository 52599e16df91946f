import time

import numpy as np
import pytest

from recllm_tasks import metrics
from recllm_tasks.baselines import evaluation, item_to_item
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.data.item_to_item import FAST, SLOW


def retrieval(interactions, exclude_seen=True):
    scores = item_to_item.score_block(interactions)
    return evaluation.retrieval(scores, interactions, exclude_seen)


def test_retrieval(shop):
    # bob (0 1 4): of 2, 3, 5 what follows 1 and 0 is 2, then 3. ann (0 1 2 4): 3 follows 0, 5
    # nothing. new (5): met nothing, so popularity: 0, then the target.
    assert retrieval(shop) == metrics.rank_metrics([1, 1, 2])


def test_seen_items_come_back_when_asked_for(shop):
    # By hand, with counts 3 2 1 1 of items 0 to 3, D = .5 and B = .3 backwards:
    # bob (0 1 4): 2 gets D / 3^.5 / 3 + 1 / 2^.5 / 2 = .45, 1 gets 2 / 6^.5 / 3 = .27.
    # ann (0 1 2 4): 1 gets .310, 2 gets .308, 3 gets 1 / 3^.5 / 4 = .144, 0 gets .125.
    found = retrieval(shop, exclude_seen=False)
    assert found == metrics.rank_metrics([1, 3, 2])


def test_ranking(shop):
    # 2 before 3 5 5; 1 before 3 before 0 5; the new user's 1 among 0 2 4 by popularity.
    found = evaluation.rank_candidates(item_to_item.score_block(shop), shop)
    assert found.ranks.tolist() == [1, 2, 2]


def test_items_that_never_met_the_history_go_by_popularity():
    train = [
        {"user": "ann", "items": [1, 2], "ratings": [np.nan] * 2},
        {"user": "bob", "items": [3, 2], "ratings": [np.nan] * 2},
    ]
    record = {"user": "new", "items": [0, 2], "ratings": [np.nan] * 2}
    interactions = SplitInteractions.from_records([record], train, num_items=4)
    assert retrieval(interactions) == metrics.rank_metrics([1])


def test_each_block_gets_its_own_histories(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 1)
    train = [
        {"user": "ann", "items": [1, 2], "ratings": [np.nan] * 2},
        {"user": "bob", "items": [3, 4], "ratings": [np.nan] * 2},
    ]
    interactions = SplitInteractions.from_records(train, train, num_items=5)
    assert retrieval(interactions) == metrics.rank_metrics([1, 1])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("dataset", "decay", "ndcg5", "ndcg10", "hr5", "hr10"),
    [
        ("toys", FAST, 0.0517, 0.0586, 0.0694, 0.0905),
        ("beauty", FAST, 0.0418, 0.0484, 0.0559, 0.0761),
        ("movielens", FAST, 0.0870, 0.1133, 0.1304, 0.2131),
        ("toys", SLOW, 0.0533, 0.0597, 0.0726, 0.0922),
        ("beauty", SLOW, 0.0424, 0.0490, 0.0589, 0.0796),
        ("movielens", SLOW, 0.0893, 0.1171, 0.1326, 0.2195),
    ],
)
def test_published_data(dataset, decay, ndcg5, ndcg10, hr5, hr10, request):
    interactions = request.getfixturevalue(dataset)
    start = time.process_time()
    scores = item_to_item.score_block(interactions, decay)
    found = evaluation.retrieval(scores, interactions, exclude_seen=True)
    assert time.process_time() - start < 10
    expected = {"ndcg@5": ndcg5, "ndcg@10": ndcg10, "hr@5": hr5, "hr@10": hr10}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=6e-5)
