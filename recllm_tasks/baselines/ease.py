"""EASE, a linear model with a closed form (Steck 2019, Embarrassingly Shallow Autoencoders).

    X    1 where a user had an item in train, T x N
    P    = (X^T X + lambda I)^-1
    B    = -P / diag(P) by columns, 0 on the diagonal
    score_u(b) = sum over a in the history of B[a, b]

B is fitted on train only. A history is an input; for test it includes the validation item, as every
model's prompt does. The items of a history score each other high, so the list is mostly of them
where seen items are kept.
Lambda is chosen from LAMBDAS by NDCG@10 on the validation targets, by hill climbing: start at FIRST
and move to a neighbour while that is better. Both neighbours of the chosen value (if it has two)
are then measured and no better. Not all are tried, because each costs an inverse of N^3 operations.
Everything is float32: the condition number is a few thousand.

Letters: T users of train, U evaluated users, N items.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError

LAMBDAS = (0.4, 1.6, 6.25, 25.0, 100.0, 400.0, 1_600.0, 6_400.0)
FIRST = 25.0

# Two matrices of N x N float32, 6.4 GB each at that many.
MAX_ITEMS = 40_000


@dataclasses.dataclass(frozen=True)
class Ease:
    """A fitted model.

    Attributes:
      weights: B, float32 [N, N].
      regularization: lambda.
      validation: NDCG@10 on validation by lambda.
    """

    weights: npt.NDArray[np.float32]
    regularization: float
    validation: dict[float, float]

    def score_block(self, interactions: SplitInteractions) -> evaluation.ScoreBlock:
        history_UxN = _binary(interactions.history_items, interactions.num_items)
        return lambda block: history_UxN[block] @ self.weights


def fit(
    validation: SplitInteractions,
    lambdas: Sequence[float] = LAMBDAS,
    first: float = FIRST,
    done: Callable[[str], None] | None = None,
    exclude_seen: bool = True,
) -> Ease:
    """Fits with one lambda after the other, until no neighbour of the best is better.

    Args:
      validation: interactions of that split; its train part is fitted on.
      lambdas: at least one, ascending; of equally good ones the smaller is kept.
      first: the one to start with.
      done: receives a message after each fit.
      exclude_seen: whether lists leave out the history: lambda is chosen under the rule that is
        measured.

    Raises:
      UserError: more items than MAX_ITEMS.
    """
    if validation.num_items > MAX_ITEMS:
        raise UserError(
            f"Catalog for 'EASE': got {validation.num_items:,} items and the square of that in "
            f"weights, expected at most {MAX_ITEMS:,}; leave out the row ease"
        )
    gram_NxN = gram(validation.train_items, validation.num_items)
    measured: dict[float, float] = {}

    def fit_one(regularization: float) -> Ease:
        found = Ease(weights(gram_NxN, regularization), regularization, measured)
        ranks = evaluation.retrieval(found.score_block(validation), validation, exclude_seen)
        measured[regularization] = ranks["ndcg@10"]
        if done:
            done(f"lambda {regularization:g}: validation ndcg@10 {ranks['ndcg@10']:.4f}")
        return found

    best = fit_one(first)
    while (neighbour := _unmeasured_neighbour(lambdas, best)) is not None:
        best = max(best, fit_one(neighbour), key=_rank)
    return best


def _rank(model: Ease) -> tuple[float, float]:
    return model.validation[model.regularization], -model.regularization


def _unmeasured_neighbour(lambdas: Sequence[float], best: Ease) -> float | None:
    """A neighbour of the best that is not measured yet, the larger one first."""
    place = list(lambdas).index(best.regularization)
    beside = [lambdas[p] for p in (place + 1, place - 1) if 0 <= p < len(lambdas)]
    return next((value for value in beside if value not in best.validation), None)


def gram(train_items: Sequence[npt.NDArray[np.int32]], num_items: int) -> scipy.sparse.csr_array:
    """X^T X: float32 [N, N], the number of users with both items."""
    interactions_TxN = _binary(train_items, num_items)
    return (interactions_TxN.T @ interactions_TxN).tocsr()


def weights(gram_NxN: scipy.sparse.csr_array, regularization: float) -> npt.NDArray[np.float32]:
    """B of the module's docstring: float32 [N, N]."""
    inverse = gram_NxN.toarray(order="F")
    inverse[np.diag_indices_from(inverse)] += np.float32(regularization)
    # The inverse by Cholesky, in place: half the cost of LU.
    potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (inverse,))
    inverse, failed = potrf(inverse, lower=1, overwrite_a=1)
    if not failed:
        inverse, failed = potri(inverse, lower=1, overwrite_c=1)
    if failed:
        raise ValueError(
            f"X^T X + lambda I for 'EASE': got a matrix that is not positive definite with lambda "
            f"{regularization}, expected a larger lambda"
        )
    _mirror_lower(inverse)
    # P is symmetric: its transpose is contiguous by rows, as the product reads it.
    inverse = inverse.T
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0)
    return inverse


def _mirror_lower(matrix: npt.NDArray[np.float32], block: int = 1024) -> None:
    """Makes a matrix symmetric from its lower triangle, in place."""
    for start in range(0, len(matrix), block):
        stop = start + block
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        corner = matrix[start:stop, start:stop]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T


def _binary(sequences: Sequence[npt.NDArray[np.int32]], num_items: int) -> scipy.sparse.csr_array:
    """1 where a sequence contains an item: float32 [len(sequences), N]."""
    starts = np.cumsum([0, *map(len, sequences)])
    items = np.concatenate(sequences)
    shape = (len(sequences), num_items)
    counts = scipy.sparse.csr_array((np.ones(len(items), np.float32), items, starts), shape=shape)
    counts.sum_duplicates()
    counts.data[:] = 1
    return counts
