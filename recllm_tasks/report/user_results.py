"""Per-user results of a task, read and checked against the results file.

Letters: U users, in the order of their names; L items listed for all users together.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recllm_tasks import metrics
from recllm_tasks.data.co_occurrence import GROUPS
from recllm_tasks.errors import UserError
from recllm_tasks.runs import per_user

# Allowed difference between the mean over users and the results file.
TOLERANCE = 1e-6
MOST_LISTED = 100

_REMEDY = "measure the run again, or delete the file"


@dataclasses.dataclass(frozen=True, eq=False)
class UserResults:
    """The users of one task.

    Attributes:
      users: [U] sorted; strings in Arrow.
      targets: int32 [U], rows of the catalog.
      history: int32 [U], interactions before the target.
      groups: int [U], places in co_occurrence.GROUPS; -1 is unknown.
    """

    users: pa.Array
    targets: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]
    groups: npt.NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.users)


@dataclasses.dataclass(frozen=True, eq=False)
class RatedUsers(UserResults):
    """Results of a rating task.

    Attributes:
      liked: bool [U].
      scores: float64 [U], higher is more liked.
    """

    liked: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]

    def metrics(self) -> dict[str, float]:
        """The metrics of these users."""
        return {"auc": metrics.auc(self.liked, self.scores)}


@dataclasses.dataclass(frozen=True, eq=False)
class RankedUsers(UserResults):
    """Results of a retrieval or ranking task.

    Attributes:
      ranks: float64 [U], of the target; 1 is best, inf a miss.
      items: int32 [L], rows of the catalog, best first, -1 for no item.
      starts: int64 [U + 1], where each user's `items` start.
    """

    ranks: npt.NDArray[np.float64]
    items: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def values(self, metric: str) -> npt.NDArray[np.float64] | None:
        """[U] values whose mean is the metric; None if it is not a mean over users."""
        if metric == "mrr":
            return 1 / self.ranks
        name, _, cut = metric.partition("@")
        if name not in ("hr", "ndcg") or not cut.isdecimal():
            return None
        hit = self.ranks <= int(cut)
        return hit.astype(float) if name == "hr" else np.where(hit, 1 / np.log2(self.ranks + 1), 0)

    def metrics(self) -> dict[str, float]:
        """The metrics of these users."""
        return metrics.rank_metrics(self.ranks)


def load(path: pathlib.Path, kind: str, measured: Mapping[str, float]) -> RankedUsers | RatedUsers:
    """Reads the file of a task.

    Args:
      path: a Parquet file.
      kind: retrieval, ranking or rating.
      measured: metrics of the task in the results file, which the rows must reproduce.

    Raises:
      UserError: the file has another form, or gives other metrics.
    """
    schema = per_user.RATED if kind == "rating" else per_user.RANKED
    table = _sorted(path, pa.Table.from_batches(per_user.read(path, schema), schema))
    columns = {name: table.column(name).combine_chunks() for name in schema.names}
    users, targets = columns["user"], columns["target"].to_numpy()
    history = columns["history"].to_numpy()
    _check(path, "target", targets >= 0, "a catalog row")
    _check(path, "history", history >= 0, "a number of interactions")
    place = {"": -1, **{name: place for place, name in enumerate(GROUPS)}}
    groups = np.array([place.get(name, -2) for name in columns["group"].to_pylist()], np.int64)
    _check(path, "group", groups >= -1, f"one of {', '.join(GROUPS)}")
    if kind == "rating":
        scores = columns["score"].to_numpy()
        _check(path, "score", ~np.isnan(scores), "a number")
        liked = columns["liked"].to_numpy(zero_copy_only=False)
        found = RatedUsers(users, targets, history, groups, liked, scores)
    else:
        ranks, lists = columns["rank"].to_numpy(), columns["items"]
        _check(path, "rank", (ranks >= 1) & (ranks == np.floor(ranks)), "1, 2, … or inf")
        starts = lists.offsets.to_numpy().astype(np.int64)
        _check(path, "items", np.diff(starts) <= MOST_LISTED, f"at most {MOST_LISTED} items")
        items = lists.values.to_numpy(zero_copy_only=False)[starts[0] : starts[-1]]
        _check(path, "items", items >= -1, "catalog rows, or -1")
        found = RankedUsers(users, targets, history, groups, ranks, items, starts - starts[0])
    _check_metrics(path, found, measured)
    return found


def _sorted(path: pathlib.Path, table: pa.Table) -> pa.Table:
    table = table.sort_by("user")
    if len(table.column("user").unique()) < len(table):
        raise UserError(
            f"'user' in '{path}': got a user twice, expected one row per user; {_REMEDY}"
        )
    return table


def _check(path: pathlib.Path, column: str, holds: npt.NDArray[np.bool_], expected: str) -> None:
    if not holds.all():
        raise UserError(
            f"'{column}' in '{path}': got {np.count_nonzero(~holds)} invalid values, "
            f"expected {expected}; {_REMEDY}"
        )


def _check_metrics(
    path: pathlib.Path, found: RankedUsers | RatedUsers, measured: Mapping[str, float]
) -> None:
    for key, value in found.metrics().items():
        if key in measured and not abs(measured[key] - value) <= TOLERANCE:
            raise UserError(
                f"'{key}' of '{path}': got {value:.6f} over its {len(found):,} users, expected "
                f"{measured[key]:.6f} as in the results file; {_REMEDY}"
            )
