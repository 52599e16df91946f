import pytest

from recllm_tasks import metrics
from recllm_tasks.baselines import evaluation, popularity

# Train counts of the shop's items are 3 2 1 1 0 0; its targets are 2, 3, 1.


def retrieval(interactions, exclude_seen):
    scores = popularity.score_block(interactions)
    return evaluation.retrieval(scores, interactions, exclude_seen)


def test_retrieval(shop):
    assert retrieval(shop, exclude_seen=False) == metrics.rank_metrics([3, 4, 2])


def test_retrieval_without_seen_items(shop):
    # bob saw 0 and 1, ann 0, 1 and 2, the new user none that is more popular.
    assert retrieval(shop, exclude_seen=True) == metrics.rank_metrics([1, 1, 2])


def test_ranking(shop):
    # 2 among 3 5 5; 3 among 0 1 5; 1 among 0 2 4.
    found = evaluation.rank_candidates(popularity.score_block(shop), shop)
    assert found.ranks.tolist() == [1, 3, 2]


# Rows in order of raw id. Over eight random orders of the rows, which break ties otherwise, no
# number of Toys or Beauty moved by more than .0002.
@pytest.mark.shared
@pytest.mark.parametrize(
    ("dataset", "exclude_seen", "ndcg5", "ndcg10", "hr5", "hr10"),
    [
        ("toys", False, 0.00382, 0.00488, 0.00551, 0.00891),
        ("toys", True, 0.00385, 0.00493, 0.00556, 0.00902),
        ("beauty", False, 0.00398, 0.00527, 0.00720, 0.01118),
        ("beauty", True, 0.00414, 0.00542, 0.00747, 0.01140),
        ("movielens", False, 0.01444, 0.02241, 0.02545, 0.04984),
        ("movielens", True, 0.03631, 0.04519, 0.05832, 0.08696),
    ],
)
def test_published_data(dataset, exclude_seen, ndcg5, ndcg10, hr5, hr10, request):
    found = retrieval(request.getfixturevalue(dataset), exclude_seen)
    expected = {"ndcg@5": ndcg5, "ndcg@10": ndcg10, "hr@5": hr5, "hr@10": hr10}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=6e-6)
