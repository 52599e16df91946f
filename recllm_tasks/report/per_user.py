"""per_user/<task>-<split>.parquet: what a run did for each user, and that it is what it told.

Letters: U users, K places of the longest list.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks import metrics
from recllm_tasks.errors import UserError
from recllm_tasks.report.fields import ADVICE, clean

NOT_AN_ITEM = -1
# Where a list is shorter than the longest one.
NO_ANSWER = -2

MAX_ITEMS = 1000
# Both sides are means of the same float64 values, in another order.
TOLERANCE = 1e-6

_RANKED = {"rank": pa.float64(), "items": pa.list_(pa.int32())}
_RATED = {"liked": pa.bool_(), "score": pa.float64()}
_ALL = {"user": pa.string(), "target": pa.int32(), "history": pa.int32()}


@dataclasses.dataclass(frozen=True, eq=False)
class PerUser:
    """One task, sorted by user; of `rank` and `items`, or of `liked` and `score`, one pair is None.

    Attributes:
      path: of the file.
      user: [U] str, each once.
      target: int32 [U], rows of the catalog.
      history: int32 [U], items before the target.
      rank: float64 [U], 1 is best, inf a miss.
      items: int32 [U, K], rows of the catalog, best first, `NOT_AN_ITEM`, or `NO_ANSWER` beyond the
        end of a list.
      liked: bool [U].
      score: float64 [U].
    """

    path: pathlib.Path
    user: npt.NDArray[np.object_]
    target: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]
    rank: npt.NDArray[np.float64] | None = None
    items: npt.NDArray[np.int32] | None = None
    liked: npt.NDArray[np.bool_] | None = None
    score: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def load(cls, path: pathlib.Path, measured: Mapping[str, float], num_users: int | None) -> Self:
        """Reads and checks the file.

        Args:
          path: of the file.
          measured: the task's metrics in results.json, which must be those of these users.
          num_users: how many results.json tells, or None.

        Raises:
          UserError: not such a file, or of another run; it names the file and the column.
        """
        columns = _read(path, num_users)
        order = np.argsort(columns["user"], kind="stable")
        loaded = cls(path=path, **{name: values[order] for name, values in columns.items()})
        loaded._check_values()
        loaded._check_measured(measured)
        return loaded

    def measures(self) -> dict[str, float]:
        """The task's metrics, as metrics.py has them."""
        if self.rank is not None:
            return metrics.rank_metrics(self.rank)
        return {"auc": metrics.auc(self.liked, self.score)}

    def _check_values(self) -> None:
        repeated = self.user[1:] == self.user[:-1]
        if repeated.any():
            user = clean(self.user[1:][repeated][0])
            raise _error(self.path, "user", f"'{user}' twice", "every user once")
        checks = [
            ("target", self.target, self.target >= 0, "rows of the catalog"),
            ("history", self.history, self.history >= 0, "lengths of at least 0"),
        ]
        if self.rank is not None:
            whole = (self.rank >= 1) & (np.isinf(self.rank) | (self.rank % 1 == 0))
            checks.append(("rank", self.rank, whole, "whole ranks from 1 on, or inf"))
            checks.append(("items", self.items, self.items >= NO_ANSWER, "rows of the catalog"))
        else:
            checks.append(("score", self.score, np.isfinite(self.score), "finite numbers"))
            both = self.liked.any() and not self.liked.all()
            checks.append(("liked", self.liked, np.array([both]), "both answers"))
        for name, values, right, expected in checks:
            if not right.all():
                got = values.flat[int(np.argmin(right))] if right.size > 1 else "one answer alone"
                raise _error(self.path, name, str(got), expected)

    def _check_measured(self, measured: Mapping[str, float]) -> None:
        for key, value in self.measures().items():
            told = measured.get(key)
            if told is not None and not abs(told - value) <= TOLERANCE:
                raise _error(
                    self.path,
                    f"{key} of all users",
                    f"{value:.6f}",
                    f"{told:.6f} as in results.json: the two are not of one run",
                )


def _read(path: pathlib.Path, num_users: int | None) -> dict[str, npt.NDArray]:
    try:
        with pq.ParquetFile(path) as file:
            found, rows = file.schema_arrow, file.metadata.num_rows
            if num_users not in (None, rows) or not rows:
                expected = f"{num_users}, as in results.json" if num_users else "one at least"
                raise _error(path, "number of users", str(rows), expected)
            kind = _RATED if "score" in found.names else _RANKED
            wanted = {**_ALL, **kind}
            _check_types(path, found, wanted)
            table = file.read(columns=list(wanted))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = clean(next(iter(str(error).splitlines()), type(error).__name__))
        raise UserError(f"file for '{path}': got {message}, expected Parquet; {ADVICE}") from error
    columns = {}
    for name, kind in wanted.items():
        column = table.column(name)
        if column.null_count:
            raise _error(path, name, f"{column.null_count} nulls", "none")
        column = column.cast(kind).combine_chunks()
        columns[name] = _padded(path, column) if name == "items" else _array(column, kind)
    return columns


def _array(column: pa.Array, kind: pa.DataType) -> npt.NDArray:
    if kind == pa.string():
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy(zero_copy_only=False)


def _check_types(path: pathlib.Path, found: pa.Schema, wanted: Mapping[str, pa.DataType]) -> None:
    for name, kind in wanted.items():
        if name not in found.names:
            raise _error(path, name, "no such column", f"one of {kind}")
        got = found.field(name).type
        if got == pa.large_string() and kind == pa.string():
            continue
        is_list = pa.types.is_list(got) and pa.types.is_list(kind)
        if got != kind and not (is_list and got.value_type == kind.value_type):
            raise _error(path, name, str(got), str(kind))


def _padded(path: pathlib.Path, lists: pa.ListArray) -> npt.NDArray[np.int32]:
    """[U, K], filled up with `NO_ANSWER`."""
    lengths = np.diff(lists.offsets.to_numpy())
    if len(lengths) and lengths.max() > MAX_ITEMS:
        raise _error(path, "items", f"{lengths.max()} of a user", f"at most {MAX_ITEMS}")
    values = lists.flatten()
    if values.null_count:
        raise _error(path, "items", f"{values.null_count} nulls", "none")
    values = values.to_numpy(zero_copy_only=False)
    if len(values) and values.min() < NOT_AN_ITEM:
        raise _error(path, "items", str(values.min()), f"rows of the catalog or {NOT_AN_ITEM}")
    padded = np.full((len(lengths), max(lengths.max(initial=0), 1)), NO_ANSWER, np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
    return padded


def _error(path: pathlib.Path, column: str, got: str, expected: str) -> UserError:
    return UserError(f"{column} for '{path}': got {got}, expected {expected}; {ADVICE}")
