import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks import metrics
from recllm_tasks.baselines import evaluation
from recllm_tasks.errors import UserError


def by_row(shop):
    """Scores each item by its row, for everybody: 5 is best."""
    return lambda block: np.tile(np.arange(6.0), (block.stop - block.start, 1))


def test_retrieval_ranks_all_items(shop):
    # Targets 2, 3, 1 of rows 0 to 5.
    found = evaluation.retrieval(by_row(shop), shop, exclude_seen=False)
    assert found == metrics.rank_metrics([4, 3, 5])


def test_seen_items_leave_the_list(shop):
    # Above the targets, ann and bob have seen 4, the new user 5.
    found = evaluation.retrieval(by_row(shop), shop, exclude_seen=True)
    assert found == metrics.rank_metrics([3, 2, 4])


def test_a_repeated_purchase_is_a_miss_without_seen_items(shop):
    repeated = dataclasses.replace(shop, targets=np.array([4, 4, 5], np.int32))
    found = evaluation.retrieval(by_row(shop), repeated, exclude_seen=True)
    assert found == metrics.rank_metrics([np.inf] * 3)


def test_ranking_ranks_the_target_among_its_negatives(shop):
    # 2 below 5 and 3 (5 was drawn twice and counts once); 3 below 5; 1 below 2 and 4.
    assert evaluation.rank_candidates(by_row(shop), shop).ranks.tolist() == [3, 2, 3]


def test_constant_scores_do_not_find_the_target(shop):
    # In order of rows: 2 3 5 5; 0 1 3 5; 0 1 2 4.
    found = evaluation.rank_candidates(lambda block: np.zeros((block.stop - block.start, 6)), shop)
    assert found.ranks.tolist() == [1, 3, 2]


@pytest.mark.parametrize("seed", range(5))
def test_blocks_give_what_one_block_gives(seed, shop, monkeypatch):
    scores = np.random.default_rng(seed).random((3, 6))
    whole = [
        evaluation.retrieval(lambda block: scores[block].copy(), shop, exclude_seen=True),
        evaluation.rank_candidates(lambda block: scores[block], shop).ranks.tolist(),
    ]
    monkeypatch.setattr(evaluation, "BLOCK", 2)
    sizes = []

    def score_block(block):
        sizes.append(block.stop - block.start)
        return scores[block].copy()

    in_blocks = [
        evaluation.retrieval(score_block, shop, exclude_seen=True),
        evaluation.rank_candidates(score_block, shop).ranks.tolist(),
    ]
    assert in_blocks == whole
    assert sizes == [2, 1, 2, 1]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_baselines_and_language_models_rank_by_one_definition(seed):
    """The same order of the same candidates, as scores and as a beam search's answers."""
    rng = np.random.default_rng(seed)
    candidates_Bx1C = np.sort(rng.integers(12, size=(3, 9)), axis=1)
    targets_B = candidates_Bx1C[:, 4]
    scores_BxN = rng.integers(4, size=(3, 12)).astype(float)
    scores_Bx1C = np.take_along_axis(scores_BxN, candidates_Bx1C, axis=1)
    found = evaluation.rank_offered(candidates_Bx1C, scores_Bx1C, targets_B)
    order_Bx1C = np.argsort(-scores_Bx1C, axis=1, kind="stable")
    beams = [
        [f"I{item}" for item in row[order][::-1]]
        for row, order in zip(candidates_Bx1C, order_Bx1C, strict=True)
    ]
    answers = metrics.ranks_of_targets([f"I{item}" for item in targets_B], beams)
    assert found.ranks.tolist() == answers.tolist()
    for row, scores, target, rank in zip(
        candidates_Bx1C, scores_Bx1C, targets_B, found.ranks, strict=True
    ):
        score = dict(zip(row.tolist(), scores.tolist(), strict=True))
        ahead = [item for item in score if (-score[item], item) < (-score[target], target)]
        assert rank == 1 + len(ahead)


def test_scores_of_candidates_that_are_not_numbers():
    with pytest.raises(ValueError, match="got NaN, expected numbers or -inf"):
        evaluation.rank_offered(np.array([[1, 2]]), np.array([[np.nan, 1.0]]), np.array([1]))


def test_no_negatives_no_ranking(shop):
    with pytest.raises(UserError, match="evaluate the validation or the test split"):
        evaluation.rank_candidates(by_row(shop), dataclasses.replace(shop, negatives=None))


@pytest.mark.parametrize("seed", range(5))
def test_lists_are_a_stable_sort_and_agree_with_the_ranks(seed, shop, monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 2)
    rng = np.random.default_rng(seed)
    scores = rng.integers(3, size=(3, 6)).astype(float)
    for exclude_seen in (False, True):
        found = evaluation.rank_items(lambda block: scores[block].copy(), shop, exclude_seen)
        for user, items in enumerate(found.lists):
            hidden = set(shop.history_items[user]) if exclude_seen else set()
            order = sorted(set(range(6)) - hidden, key=lambda item: (-scores[user, item], item))
            assert items.tolist() == order
            assert items[int(found.ranks[user]) - 1] == shop.targets[user]
    found = evaluation.rank_candidates(lambda block: scores[block], shop)
    for user, items in enumerate(found.lists):
        offered = sorted({shop.targets[user], *shop.negatives[user]})
        assert items.tolist() == sorted(offered, key=lambda item: -scores[user, item])
        assert items[int(found.ranks[user]) - 1] == shop.targets[user]


def test_a_list_ends_where_it_is_full():
    scores = np.array([[0, 0, 1, 0, 0], [-np.inf, 2, 2, -np.inf, 3.0]])
    found = [row.tolist() for row in evaluation.best_columns(scores, 3)]
    assert found == [[2, 0, 1], [4, 1, 2]]
    assert [len(row) for row in evaluation.best_columns(scores, 4)] == [4, 3]
    assert [len(row) for row in evaluation.best_columns(scores, 9)] == [5, 3]
