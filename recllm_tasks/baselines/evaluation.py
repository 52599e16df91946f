"""Leave-one-out evaluation of a baseline, in blocks of bounded memory.

Letters: U users of the evaluated split, B users of a block, N items, C negatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recllm_tasks import metrics
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError

# 256 users x 12,101 items x 8 bytes are 25 MB.
BLOCK = 256
LIST_LENGTH = 20

# Maps a block of evaluated users to a new array of float scores [B, N], higher is better.
ScoreBlock = Callable[[slice], npt.NDArray[np.floating]]


class Ranked(NamedTuple):
    """A baseline's lists.

    Attributes:
      ranks: float64 [U], of the target; 1 is best, inf a miss.
      lists: U of int32 catalog rows, best first, at most `LIST_LENGTH`.
    """

    ranks: npt.NDArray[np.float64]
    lists: list[npt.NDArray[np.int32]]


def rank_items(
    score_block: ScoreBlock, interactions: SplitInteractions, exclude_seen: bool
) -> Ranked:
    """Ranks the targets among all items.

    Args:
      score_block: scores the users of a slice of the evaluated split.
      interactions: of one split.
      exclude_seen: whether lists leave out the user's history. A target in the history is then a
        miss.
    """
    ranks, lists = [], []
    for block in _blocks(len(interactions.targets)):
        scores_BxN = score_block(block)
        if exclude_seen:
            for row, history in enumerate(interactions.history_items[block]):
                scores_BxN[row, history] = -np.inf
        ranks.append(metrics.ranks_from_scores(scores_BxN, interactions.targets[block]))
        lists += best_columns(scores_BxN, LIST_LENGTH)
    return Ranked(np.concatenate(ranks), lists)


def rank_candidates(score_block: ScoreBlock, interactions: SplitInteractions) -> Ranked:
    """Ranks each target among itself and its C stored negatives, as `rank_offered` does.

    Raises:
      UserError: the split has no negatives.
    """
    candidates_Ux1C = candidates_of(interactions)
    ranks, lists = [], []
    for block in _blocks(len(candidates_Ux1C)):
        candidates_Bx1C = candidates_Ux1C[block]
        scores_Bx1C = np.take_along_axis(score_block(block), candidates_Bx1C, axis=1)
        found = rank_offered(candidates_Bx1C, scores_Bx1C, interactions.targets[block])
        ranks.append(found.ranks)
        lists += found.lists
    return Ranked(np.concatenate(ranks), lists)


def rank_offered(
    candidates_Bx1C: npt.NDArray[np.integer],
    scores_Bx1C: npt.NDArray[np.floating],
    targets_B: npt.NDArray[np.integer],
) -> Ranked:
    """Ranks each target among the items offered beside it, whose copies count once.

    Args:
      candidates_Bx1C: catalog rows, ascending, the target among them. Of equal scores the earlier
        row comes first, which does not reveal the target.
      scores_Bx1C: of each candidate, higher is better.
      targets_B: catalog rows.
    """
    best = best_columns(scores_Bx1C, scores_Bx1C.shape[1])
    lists = [metrics.distinct(row[order].tolist()) for row, order in zip(candidates_Bx1C, best)]
    ranks = [metrics.rank_among(target, row) for target, row in zip(targets_B.tolist(), lists)]
    return Ranked(np.array(ranks), [np.array(row[:LIST_LENGTH], np.int32) for row in lists])


def candidates_of(interactions: SplitInteractions) -> npt.NDArray[np.int32]:
    """The target and its negatives in catalog order, int32 [U, 1 + C].

    A negative that was drawn twice stands there twice.
    """
    if interactions.negatives is None:
        raise UserError(
            "negatives for 'ranking baseline': got none, expected some in each record; "
            "evaluate the validation or the test split"
        )
    return np.sort(np.column_stack([interactions.targets, interactions.negatives]), axis=1)


def retrieval(
    score_block: ScoreBlock, interactions: SplitInteractions, exclude_seen: bool
) -> dict[str, float]:
    """`metrics.rank_metrics` of `rank_items`."""
    return metrics.rank_metrics(rank_items(score_block, interactions, exclude_seen).ranks)


def best_columns(scores_BxN: npt.NDArray[np.floating], k: int) -> list[npt.NDArray[np.int32]]:
    """The columns of the k highest scores of each row, best first, without those of -inf.

    Of equal scores the earlier column comes first, as in `metrics.ranks_from_scores`.
    """
    if np.isnan(scores_BxN).any():
        raise ValueError("scores for 'best_columns': got NaN, expected numbers or -inf")
    k = min(k, scores_BxN.shape[1])
    last_Bx1 = np.partition(scores_BxN, -k, axis=1)[:, [-k]]
    listed_BxN = (scores_BxN >= last_Bx1) & (scores_BxN > -np.inf)
    best = []
    for scores, listed in zip(scores_BxN, listed_BxN):
        columns = np.flatnonzero(listed)
        order = np.argsort(-scores[columns], kind="stable")[:k]
        best.append(columns[order].astype(np.int32))
    return best


def _blocks(num_users: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, num_users)) for start in range(0, num_users, BLOCK)]
