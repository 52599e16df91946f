"""Popularity: the same list for everybody, by interactions in train; or by the user's own ones.

    own(u, b) = how often b is in the history + count(b) / (1 + the largest count)

Our choice: equal items of a history, and all others, stand in the order of popularity in train.
Next-basket research calls this GP-TopFreq (Li et al. 2023, A Next Basket Recommendation Reality
Check). A history is an input; for test it includes the validation item, as every model's prompt
does.

Letters: B users of a block, N items.
"""

import numpy as np
import numpy.typing as npt

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions


def score_block(interactions: SplitInteractions) -> evaluation.ScoreBlock:
    """Scores for the evaluated users, fitted on train."""
    counts_N = interactions.train_counts().astype(np.float64)

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        return np.tile(counts_N, (block.stop - block.start, 1))

    return of_block


def own_score_block(interactions: SplitInteractions) -> evaluation.ScoreBlock:
    """Scores for the evaluated users by their own histories, the rest fitted on train."""
    counts_N = interactions.train_counts().astype(np.float64)
    rest_N = counts_N / (1 + counts_N.max(initial=0))

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        histories = interactions.history_items[block]
        own = [np.bincount(items, minlength=interactions.num_items) for items in histories]
        return np.stack(own) + rest_N

    return of_block
