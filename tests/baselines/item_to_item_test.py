import time

import numpy as np
import pytest

from recllm_tasks import metrics
from recllm_tasks.baselines import evaluation, item_to_item
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.baselines.item_to_item import BACKWARD, DECAY, WINDOW


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
    np.testing.assert_allclose(found, [[1, 0, DECAY], [0, 0, 0], [0, 1 + DECAY, 0]])


def test_history_is_cut_at_its_oldest():
    found = item_to_item.history_weights(rows(range(WINDOW + 1)), WINDOW + 1).toarray()[0]
    assert found[0] == 0
    assert found[1] == pytest.approx(DECAY ** (WINDOW - 1))


def test_retrieval(shop):
    # bob (0 1 4): of 2, 3, 5 what follows 1 and 0 is 2, then 3. ann (0 1 2 4): 3 follows 0, 5
    # nothing. new (5): met nothing, so popularity: 0, then the target.
    assert item_to_item.retrieval(shop) == metrics.rank_metrics([1, 1, 2])


def test_seen_items_come_back_when_asked_for(shop):
    # By hand, with counts 3 2 1 1 of items 0 to 3 and D the decay:
    # bob (0 1 4): 2 gets D^2 * D / 3^.5 + D / 2^.5 = .86, 1 gets D^2 * 2 / 6^.5 = .52.
    # ann (0 1 2 4): 2 gets .69, 1 gets .59, 3 gets D^3 / 3^.5 = .30, 0 gets .27.
    found = item_to_item.retrieval(shop, exclude_seen=False)
    assert found == metrics.rank_metrics([1, 3, 2])


def test_ranking(shop):
    # 2 before 3 5 5; 1 before 3 before 0 5; the new user's 1 among 0 2 4 by popularity.
    assert item_to_item.ranking(shop) == metrics.rank_metrics([1, 2, 2])


def test_items_that_never_met_the_history_go_by_popularity():
    train = [
        {"user": "ann", "items": [1, 2], "ratings": [np.nan] * 2},
        {"user": "bob", "items": [3, 2], "ratings": [np.nan] * 2},
    ]
    record = {"user": "new", "items": [0, 2], "ratings": [np.nan] * 2}
    interactions = SplitInteractions.from_records([record], train, num_items=4)
    assert item_to_item.retrieval(interactions) == metrics.rank_metrics([1])


def test_each_block_gets_its_own_histories(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 1)
    train = [
        {"user": "ann", "items": [1, 2], "ratings": [np.nan] * 2},
        {"user": "bob", "items": [3, 4], "ratings": [np.nan] * 2},
    ]
    interactions = SplitInteractions.from_records(train, train, num_items=5)
    assert item_to_item.retrieval(interactions) == metrics.rank_metrics([1, 1])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("dataset", "ndcg5", "ndcg10", "hr5", "hr10"),
    [
        ("toys", 0.0533, 0.0597, 0.0726, 0.0922),
        ("beauty", 0.0424, 0.0490, 0.0589, 0.0796),
        ("movielens", 0.0893, 0.1171, 0.1326, 0.2195),
    ],
)
def test_published_data(dataset, ndcg5, ndcg10, hr5, hr10, request):
    interactions = request.getfixturevalue(dataset)
    start = time.process_time()
    found = item_to_item.retrieval(interactions)
    assert time.process_time() - start < 10
    expected = {"ndcg@5": ndcg5, "ndcg@10": ndcg10, "hr@5": hr5, "hr@10": hr10}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=6e-5)
