"""The rows `item_to_item` and `item_to_item_slow`: see data/item_to_item.py for the scores."""

import numpy as np
import numpy.typing as npt

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.data.item_to_item import FAST, Decay, history_weights, similarity

# Far below any difference of scores: popularity only breaks ties, mostly among items that never
# occur near the history.
POPULARITY_WEIGHT = 1e-9


def score_block(interactions: SplitInteractions, decay: Decay = FAST) -> evaluation.ScoreBlock:
    """Scores for the evaluated users, fitted on train."""
    similarity_NxN = similarity(interactions.train_items, interactions.num_items, decay)
    weights_UxN = history_weights(interactions.history_items, interactions.num_items, decay)
    counts_N = interactions.train_counts()
    fallback_N = POPULARITY_WEIGHT * counts_N / max(counts_N.max(), 1)

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        return (weights_UxN[block] @ similarity_NxN).toarray() + fallback_N

    return of_block
