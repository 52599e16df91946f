"""First-order Markov chain: what followed the user's last item in train.

    P(b | a) = (count(a, b) + SMOOTHING * p(b)) / (count(a) + SMOOTHING)

count(a, b) is how often b directly follows a in train, count(a) its sum over b, and p(b) the share
of b in train. Our choice: one pseudo-count (Dirichlet smoothing towards popularity; MacKay and Peto
1995). Successors are ranked by count, equal counts and all other items by popularity.

Letters: B users of a block, N items.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions

SMOOTHING = 1.0


def successors(
    train_items: Sequence[npt.NDArray[np.int32]], num_items: int
) -> scipy.sparse.csr_array:
    """count(a, b): float64 [N, N], from an item (row) to the next one."""
    flat = np.concatenate(train_items)
    user = np.repeat(np.arange(len(train_items)), [len(items) for items in train_items])
    pair = user[:-1] == user[1:]
    earlier, later = flat[:-1][pair], flat[1:][pair]
    ones = np.ones(len(earlier))
    return scipy.sparse.csr_array((ones, (earlier, later)), shape=(num_items, num_items))


def score_block(interactions: SplitInteractions) -> evaluation.ScoreBlock:
    """P(b | last item) for the evaluated users, fitted on train; p(b) without a history."""
    num_items = interactions.num_items
    counts_NxN = successors(interactions.train_items, num_items)
    counts_N = interactions.train_counts()
    popularity_N = counts_N / max(counts_N.sum(), 1)
    follows_N = counts_NxN.sum(axis=1)

    def of_block(block: slice) -> npt.NDArray[np.float64]:
        scores_BxN = np.tile(popularity_N, (block.stop - block.start, 1))
        for scores, history in zip(scores_BxN, interactions.history_items[block]):
            if len(history):
                last = history[-1]
                scores *= SMOOTHING
                row = slice(counts_NxN.indptr[last], counts_NxN.indptr[last + 1])
                np.add.at(scores, counts_NxN.indices[row], counts_NxN.data[row])
                scores /= follows_N[last] + SMOOTHING
        return scores_BxN

    return of_block
