"""The rows `item_to_item`, `item_to_item_slow` and `item_to_item_texts`.

See data/item_to_item.py for the scores.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.data.item_to_item import (
    FAST,
    Decay,
    history_weights,
    joint_scores,
    similarity,
)

# Far below any difference of scores: popularity only breaks ties, mostly among items that never
# occur near the history.
POPULARITY_WEIGHT = 1e-9


def score_block(interactions: SplitInteractions, decay: Decay = FAST) -> evaluation.ScoreBlock:
    """Scores for the evaluated users, fitted on train."""
    similarity_NxN = similarity(interactions.train_items, interactions.num_items, decay)
    weights_UxN = history_weights(interactions.history_items, interactions.num_items, decay)
    fallback_N = _fallback(interactions)

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        return (weights_UxN[block] @ similarity_NxN).toarray() + fallback_N

    return of_block


def joint_score_block(
    interactions: SplitInteractions, similarities: Sequence[scipy.sparse.csr_array]
) -> evaluation.ScoreBlock:
    """Scores for the evaluated users by several similarities, see `joint_scores`."""
    fallback_N = _fallback(interactions)

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        scores = joint_scores(interactions.history_items[block], similarities)
        return scores.toarray() + fallback_N

    return of_block


def _fallback(interactions: SplitInteractions) -> npt.NDArray[np.float64]:
    counts_N = interactions.train_counts()
    return POPULARITY_WEIGHT * counts_N / max(counts_N.max(), 1)
