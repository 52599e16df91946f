import dataclasses
import itertools

import numpy as np
import pytest

from recllm_tasks import metrics
from recllm_tasks.baselines import evaluation, markov
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.baselines.markov import SMOOTHING


def random_split(seed: int, num_items: int = 9) -> SplitInteractions:
    rng = np.random.default_rng(seed)

    def record(user, length):
        items = rng.integers(num_items, size=length).astype(np.int32)
        return {"user": str(user), "items": items, "ratings": np.full(length, np.nan)}

    train = [record(user, length) for user, length in enumerate([5, 1, 0, 7, 2])]
    records = [record(user, length) for user, length in enumerate([6, 3, 1, 9, 4])]
    return SplitInteractions.from_records(records, train, num_items)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_the_smoothed_transition_probabilities(seed):
    split = random_split(seed)
    flat = [item for items in split.train_items for item in items]
    scores = markov.score_block(split)(slice(0, 5))
    for user, history in enumerate(split.history_items):
        expected = np.array([flat.count(b) / len(flat) for b in range(9)])
        if len(history):
            pairs = [(a, b) for items in split.train_items for a, b in itertools.pairwise(items)]
            after = [b for a, b in pairs if a == history[-1]]
            counts = np.array([after.count(b) for b in range(9)])
            expected = (counts + SMOOTHING * expected) / (len(after) + SMOOTHING)
        np.testing.assert_allclose(scores[user], expected)
        assert scores[user].sum() == pytest.approx(1)


def test_successors_do_not_cross_users():
    found = markov.successors([np.array([0, 1]), np.array([], int), np.array([2, 1, 2, 1])], 3)
    np.testing.assert_array_equal(found.toarray(), [[0, 1, 0], [0, 0, 1], [0, 2, 0]])


def test_each_block_has_its_own_histories():
    split = random_split(0)
    score_block = markov.score_block(split)
    whole = score_block(slice(0, 5))
    np.testing.assert_array_equal(score_block(slice(3, 5)), whole[3:5])


def test_retrieval(shop):
    # Train 0 1 2, 0 1, 0 3. bob's and ann's last item, 4, has no successor: by popularity, of what
    # they have not had, 2 before 3 before 5, and 3 before 5. The new user's 5 neither: 0 before 1.
    found = evaluation.retrieval(markov.score_block(shop), shop, exclude_seen=True)
    assert found == metrics.rank_metrics([1, 1, 2])
    # After 0 came 1 twice, 3 once.
    after = dataclasses.replace(shop, history_items=[np.array([0])] * 3)
    found = evaluation.retrieval(markov.score_block(after), after, exclude_seen=True)
    assert found == metrics.rank_metrics([3, 2, 1])
