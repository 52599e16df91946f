"""Leave-one-out evaluation of a baseline that scores all items, in blocks of bounded memory.

Letters: U users of the evaluated split, B users of a block, N items, C negatives.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from recllm_tasks import metrics
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError

# 256 users x 12,101 items x 8 bytes are 25 MB.
BLOCK = 256

# From a block of evaluated users to a new array of float64 scores [B, N], higher is better.
ScoreBlock = Callable[[slice], npt.NDArray[np.float64]]


def retrieval(
    score_block: ScoreBlock, interactions: SplitInteractions, exclude_seen: bool
) -> dict[str, float]:
    """`metrics.rank_metrics` of the targets among all items.

    Args:
      score_block: scores the users of a slice of the evaluated split.
      interactions: of one split.
      exclude_seen: whether the items of a user's history are left out of the list. A target that
        stands in its own history is then a miss.
    """
    ranks = []
    for block in _blocks(len(interactions.targets)):
        scores_BxN = score_block(block)
        if exclude_seen:
            for row, history in enumerate(interactions.history_items[block]):
                scores_BxN[row, history] = -np.inf
        ranks.append(metrics.ranks_from_scores(scores_BxN, interactions.targets[block]))
    return metrics.rank_metrics(np.concatenate(ranks))


def ranking(score_block: ScoreBlock, interactions: SplitInteractions) -> dict[str, float]:
    """`metrics.rank_metrics` of the targets among themselves and their C stored negatives.

    A negative drawn twice takes two positions, as in the prompt's list of candidates.

    Raises:
      UserError: if the split has no negatives.
    """
    if interactions.negatives is None:
        raise UserError(
            "negatives for 'ranking baseline': got none, expected some in each record; "
            "evaluate the validation or the test split"
        )
    # Catalog order, in which the place of the target says nothing of its being the target.
    candidates_Ux1C = np.sort(
        np.column_stack([interactions.targets, interactions.negatives]), axis=1
    )
    place_U = np.argmax(candidates_Ux1C == interactions.targets[:, None], axis=1)
    ranks = [
        metrics.ranks_from_scores(
            np.take_along_axis(score_block(block), candidates_Ux1C[block], axis=1), place_U[block]
        )
        for block in _blocks(len(place_U))
    ]
    return metrics.rank_metrics(np.concatenate(ranks))


def _blocks(num_users: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, num_users)) for start in range(0, num_users, BLOCK)]
