"""Popularity: the same list for everybody, by how often an item stands in train.

Letters: B users of a block, N items.
"""

import numpy as np
import numpy.typing as npt

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions


def retrieval(interactions: SplitInteractions, exclude_seen: bool = False) -> dict[str, float]:
    """Metrics over all items; `exclude_seen` leaves the user's history out of the list."""
    return evaluation.retrieval(score_block(interactions), interactions, exclude_seen)


def ranking(interactions: SplitInteractions) -> dict[str, float]:
    """Metrics among the target and its stored negatives."""
    return evaluation.ranking(score_block(interactions), interactions)


def score_block(interactions: SplitInteractions) -> evaluation.ScoreBlock:
    """Scores of the evaluated users, fitted on train."""
    counts_N = interactions.train_counts().astype(np.float64)

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        return np.tile(counts_N, (block.stop - block.start, 1))

    return of_block
