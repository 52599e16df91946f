"""What a user's history can tell of the target, by what other users had together in train.

    co_occurs          some item of the history and the target are both in one user's train sequence
    no_co_occurrence   they never are, though the target is in train
    new                the target is not in train

An item-to-item recommender can only find the targets of the first group. The history is the whole
one, not the window of a prompt. A target that stands in the history itself co-occurs with it.

Letters: T users of train, N items, U users to group, A distinct targets.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse

CO_OCCURS, NO_CO_OCCURRENCE, NEW = GROUPS = ("co_occurs", "no_co_occurrence", "new")

# Most users are settled by a few of the train users who had their target; the rest need them all.
_FEW = 32
# Items of train sequences that are joined at once, which bounds memory.
_BLOCK = 1 << 24


class CoOccurrence:
    """The train sequences, by user and by item."""

    def __init__(
        self,
        items: npt.NDArray[np.integer],
        starts: npt.NDArray[np.integer],
        num_items: int,
    ):
        """Args:
        items: catalog rows of all train sequences, one after the other.
        starts: [T + 1], where each sequence starts.
        num_items: N.
        """
        self._num_items = num_items
        shape = (len(starts) - 1, num_items)
        # Of bools, a sum is whether any is true.
        of_users = scipy.sparse.csr_array((np.ones(len(items), bool), items, starts), shape=shape)
        of_users.sum_duplicates()
        self._of_users_TxN, self._of_items_NxT = of_users, of_users.T.tocsr()

    def groups(
        self, histories: Sequence[npt.NDArray[np.integer]], targets_U: npt.NDArray[np.integer]
    ) -> list[str]:
        """The group of each user, one of GROUPS.

        Args:
          histories: U of catalog rows, the items before the target.
          targets_U: catalog rows.
        """
        num_train_U = np.diff(self._of_items_NxT.indptr)[targets_U]
        found_U = np.zeros(len(targets_U), bool)
        for most, waiting_U in ((_FEW, num_train_U > 0), (None, num_train_U > _FEW)):
            users = np.flatnonzero(waiting_U & ~found_U)
            for block, reached in self._reached(users, histories, targets_U, most):
                found_U[block] = reached
        place_U = np.where(num_train_U == 0, GROUPS.index(NEW), GROUPS.index(NO_CO_OCCURRENCE))
        place_U[found_U] = GROUPS.index(CO_OCCURS)
        return [GROUPS[place] for place in place_U]

    def _reached(
        self, users: np.ndarray, histories: Sequence[np.ndarray], targets_U: np.ndarray, most
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(some of `users`, whether the target of each co-occurs), block by block.

        `most` limits the train users of a target that are looked at.
        """
        distinct_A, place = np.unique(targets_U[users], return_inverse=True)
        users_AxT = self._of_items_NxT[distinct_A]
        if most is not None:
            users_AxT = _first_columns(users_AxT, most)
        by_target = users[np.argsort(place, kind="stable")]
        starts_A = np.searchsorted(np.sort(place), np.arange(len(distinct_A) + 1))
        num_items_T = np.diff(self._of_users_TxN.indptr)
        cost_A = np.concatenate([[0], np.cumsum(num_items_T[users_AxT.indices])])[users_AxT.indptr]
        start = 0
        while start < len(distinct_A):
            stop = int(np.searchsorted(cost_A, cost_A[start] + _BLOCK, side="right")) - 1
            stop = max(stop, start + 1)
            block = by_target[starts_A[start] : starts_A[stop]]
            together = users_AxT[start:stop] @ self._of_users_TxN
            rows = np.repeat(np.arange(stop - start), np.diff(starts_A[start : stop + 1]))
            asked = [histories[user] for user in block]
            yield block, _any_in(together, self._num_items, rows, asked)
            start = stop


def _first_columns(matrix: scipy.sparse.csr_array, most: int) -> scipy.sparse.csr_array:
    """The first `most` entries of each row."""
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    kept = place < most
    starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(matrix.indptr), most))])
    return scipy.sparse.csr_array(
        (matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape
    )


def _any_in(
    matrix: scipy.sparse.csr_array, width: int, rows: np.ndarray, columns: Sequence[np.ndarray]
) -> npt.NDArray[np.bool_]:
    """Whether row `rows[i]` of a matrix of `width` columns has an entry in any of `columns[i]`."""
    matrix.sort_indices()
    row_of_entry = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
    entries = row_of_entry * width + matrix.indices
    lengths = np.array([len(each) for each in columns], np.int64)
    asked = np.repeat(rows, lengths) * width + np.concatenate([*columns, np.zeros(0, np.int64)])
    place = np.searchsorted(entries, asked)
    hit = np.zeros(len(asked), np.int64)
    inside = place < len(entries)
    hit[inside] = entries[place[inside]] == asked[inside]
    total = np.concatenate([[0], np.cumsum(hit)])
    ends = np.cumsum(lengths)
    return total[ends] > total[ends - lengths]
