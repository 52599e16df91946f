"""The item-to-item prior of a task's answers, fitted on train and on the items' texts.

Its scores are those of the row `item_to_item_texts` (data/item_to_item.py) without its popularity;
models/prior.py smooths them. Our choice: on validation, three seeds, texts raise NDCG@10 of a model
with the prior from .0830 to .0887 on Toys and from .0825 to .0865 on Beauty, where half of all
users buy what never occurred with their history.

Letters: N items, A answers.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from recllm_tasks.data.item_to_item import SLOW, joint_scores, similarity
from recllm_tasks.data.text_similarity import text_similarity
from recllm_tasks.engine.answer_tries import Answers
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.models.prior import Prior
from recllm_tasks.prompts.source import CatalogSource, kept
from recllm_tasks.prompts.windows import Sequences, stored_records


class ItemPrior:
    """p(answer | history), where an answer that several items share has the scores of all."""

    def __init__(self, source: CatalogSource, answers: Answers):
        """Args:
        source: the dataset.
        answers: the task's, each of them an item's text.
        """
        self._trie = answers.trie
        num_items = len(answers.text_of_answer)
        items = np.flatnonzero(answers.text_of_answer >= 0)
        of_answer = (np.ones(len(items)), (items, answers.text_of_answer[items]))
        shape = (num_items, len(answers.texts))
        self._of_answer_NxA: Any = scipy.sparse.csr_array(of_answer, shape)
        self._similarities = similarities_of(source)
        self._width = 1

    def reserve(self) -> None:
        """Makes the arrays of `of` as wide as any history can need, so that all have one shape."""
        size = self._of_answer_NxA.shape[1]
        longest = (SLOW.recent or size) * sum(
            int(np.diff(similarity_NxN.indptr).max(initial=0))
            for similarity_NxN in self._similarities
        )
        longest = min(longest, size)
        self._width = max(self._width, 1 << max(longest - 1, 0).bit_length())

    def of(
        self,
        histories: Sequence[np.ndarray],
        candidates_BxM: np.ndarray | None,
        excluded_BxM: np.ndarray | None,
        mask: ItemMask | None = None,
    ) -> Prior:
        """The prior of a batch, with NumPy arrays.

        Args:
          histories: B of int32 [n], catalog rows, oldest first; may be empty.
          candidates_BxM: indices of answers, as in `Prior.of`.
          excluded_BxM: the same.
          mask: as in `Prior.of`.
        """
        scores_BxA = (joint_scores(histories, self._similarities) @ self._of_answer_NxA).tocsr()
        starts = scores_BxA.indptr[1:-1]
        rows, scores = np.split(scores_BxA.indices, starts), np.split(scores_BxA.data, starts)
        # Powers of two that never shrink: few programs to compile.
        longest = max(map(len, rows))
        self._width = max(self._width, 1 << max(longest - 1, 0).bit_length())
        return Prior.of(self._trie, rows, scores, candidates_BxM, excluded_BxM, self._width, mask)


class Reason(NamedTuple):
    """Why an item may follow a history.

    Attributes:
      rank: of the item by the prior, among all that are not in the history; 1 is the first. None if
        it has nothing in common with the history.
      nearest: (place in the history, share) of the history's items that the item has most in
        common with; shares of all of them sum to 1.
    """

    rank: int | None
    nearest: list[tuple[int, float]]


class Reasons:
    """Explains items by what they have in common with a history's: the scores of the prior."""

    def __init__(self, source: CatalogSource):
        self._similarities = similarities_of(source)

    def of(self, history: Sequence[int], rows: Sequence[int], most: int = 3) -> list[Reason]:
        """The reason of each catalog row in `rows`, with at most `most` items of the history."""
        place_of = np.asarray(history, np.int32)[-(SLOW.recent or len(history)) :]
        start = len(history) - len(place_of)
        weights = SLOW.of_ages(np.arange(len(place_of))[::-1])
        scores_N = joint_scores([place_of], self._similarities).toarray()[0]
        parts_nxR = np.zeros((len(place_of), len(rows)))
        for similarity_NxN in self._similarities:
            of_history: Any = similarity_NxN[place_of]
            scores = weights @ of_history
            unseen = scores.sum() - scores[np.unique(place_of)].sum()
            if unseen > 0:
                part: Any = of_history[:, rows].toarray()
                parts_nxR += weights[:, None] * part / unseen
        others_N = np.delete(scores_N, np.unique(place_of))
        found = []
        for row, part_n in zip(rows, parts_nxR.T):
            order = np.argsort(-part_n, kind="stable")[:most]
            total = part_n.sum()
            nearest = [(start + int(at), float(part_n[at] / total)) for at in order if part_n[at]]
            rank = int((others_N > scores_N[row]).sum()) + 1 if scores_N[row] > 0 else None
            found.append(Reason(rank, nearest))
        return found


def similarities_of(source: CatalogSource) -> tuple[scipy.sparse.csr_array, ...]:
    """What items have in common, in the users of train and in their texts: float64 [N, N] each."""
    catalog = source.catalog()
    return (
        _co_occurrence(source.dataset_dir(), len(catalog)),
        _of_texts(catalog, source.dataset_name),
    )


_of_texts = functools.lru_cache(maxsize=2)(text_similarity)


@kept(2)
def _co_occurrence(directory: str, num_items: int) -> scipy.sparse.csr_array:
    """S of data/item_to_item.py, of the train split in a prepared dataset's folder."""
    parts = [Sequences.parse(records).items for records in stored_records(directory, "train")]
    items = [
        row
        for part in parts
        for row in np.split(part.values.numpy(), part.row_splits.numpy()[1:-1])
    ]
    return similarity(items, num_items, SLOW)
