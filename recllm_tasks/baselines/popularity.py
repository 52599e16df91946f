"""Popularity: the same list for everybody, by interactions in train.

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
