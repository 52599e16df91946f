"""Results by length of history, popularity of the target, and co-occurrence with the history.

Letters: U users, G groups of users, B replicates.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recllm_tasks import metrics
from recllm_tasks.data.co_occurrence import CO_OCCURS, GROUPS, NEW, NO_CO_OCCURRENCE
from recllm_tasks.report import methods
from recllm_tasks.report.bootstrap import interval
from recllm_tasks.report.estimates import MAIN_METRIC, Measured
from recllm_tasks.report.result_tables import column_title, shown
from recllm_tasks.report.table import Cell, Row, Table
from recllm_tasks.report.user_results import RankedUsers, RatedUsers

NUM_GROUPS = 5
_NAMES = {
    CO_OCCURS: "together in train",
    NO_CO_OCCURRENCE: "never together",
    NEW: "not in train",
}


@dataclasses.dataclass(frozen=True)
class Point:
    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """One metric of every run with per-user results, over groups of users.

    Attributes:
      title: of the table.
      by: what users are grouped by.
      groups: names, in order.
      sizes: users of each group.
      metric: its key.
      lines: (label, part of the table, one point per group).
      note: the condition.
    """

    title: str
    by: str
    groups: Sequence[str]
    sizes: Sequence[int]
    metric: str
    lines: Sequence[tuple[str, str, Sequence[Point]]]
    note: str

    def table(self) -> Table:
        show = shown(self.metric)
        rows = [Row("users", [Cell(f"{size:,}") for size in self.sizes], "users")]
        for label, part, points in self.lines:
            cells = []
            for point in points:
                bounds = (show(point.low), show(point.high))
                cells.append(Cell(show(point.value), bounds if all(bounds) else None))
            rows.append(Row(label, cells, part))
        title = f"{self.title}, {column_title(self.metric)}"
        return Table(title, self.groups, rows, [(self.by, len(self.groups))], [self.note])


def by_history(measured: Measured) -> Breakdown | None:
    if not measured.users:
        return None
    history_U = next(iter(measured.users.values())).history
    by = "interactions before the target"
    return _breakdown(measured, *groups_of(history_U), "length of history", by)


def by_popularity(measured: Measured, train_count: np.ndarray | None) -> Breakdown | None:
    """None without the catalog or per-user results."""
    if not measured.users or train_count is None:
        return None
    targets_U = next(iter(measured.users.values())).targets
    by = "interactions of the target in train"
    groups = groups_of(train_count[targets_U])
    return _breakdown(measured, *groups, "popularity of the target", by)


def by_co_occurrence(measured: Measured) -> Breakdown | None:
    """None without per-user results that have groups, and where all users are of one group."""
    known = [found.groups for found in measured.users.values() if (found.groups >= 0).all()]
    if not known:
        return None
    present, group_U = np.unique(known[0], return_inverse=True)
    if len(present) < 2:
        return None
    names = [_NAMES[GROUPS[place]] for place in present]
    title, by = "co-occurrence of target and history", "the target, with any item of the history"
    return _breakdown(measured, group_U, names, title, by)


def groups_of(
    values_U: npt.NDArray[np.integer], num_groups: int = NUM_GROUPS
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """(group of each user [U], names): groups of nearly equal size, none empty."""
    edges = np.quantile(values_U, np.arange(1, num_groups) / num_groups, method="inverted_cdf")
    edges = np.unique(edges)
    group_U = np.searchsorted(edges, values_U, side="left")
    present, group_U = np.unique(group_U, return_inverse=True)
    names = []
    for group in range(len(present)):
        inside = values_U[group_U == group]
        low, high = int(inside.min()), int(inside.max())
        names.append(f"{low:,}" if low == high else f"{low:,}–{high:,}")
    return group_U, names


def _breakdown(
    measured: Measured, group_U: np.ndarray, names: Sequence[str], title: str, by: str
) -> Breakdown:
    metric = MAIN_METRIC[measured.kind]
    if measured.kind == "rating":
        points = {
            place: _aucs(found, group_U)
            for place, found in measured.users.items()
            if isinstance(found, RatedUsers)
        }
    else:
        points = _means(measured, metric, group_U)
    lines = [
        (measured.labels[place], methods.part(measured.runs[place], measured.kind), of)
        for place, of in points.items()
    ]
    sizes = np.bincount(group_U).tolist()
    title = f"{measured.kind.capitalize()} by {title}, {measured.condition.rule}"
    return Breakdown(title, by, names, sizes, metric, lines, measured.condition.text)


def _means(measured: Measured, metric: str, group_U: np.ndarray) -> dict[int, list[Point]]:
    """Means by group of every run, resampled together."""
    num_groups = group_U.max() + 1
    ranked = {
        place: values_U
        for place, found in measured.users.items()
        if isinstance(found, RankedUsers) and (values_U := found.values(metric)) is not None
    }
    columns, points = [], {}
    for values_U in ranked.values():
        columns += [np.where(group_U == group, values_U, np.nan) for group in range(num_groups)]
    replicates = measured.resampling.means(np.stack(columns, axis=1))
    for row, place in enumerate(ranked):
        points[place] = [
            Point(float(np.nanmean(columns[column])), *interval(replicates[:, column]))
            for column in range(row * num_groups, (row + 1) * num_groups)
        ]
    return points


def _aucs(found: RatedUsers, group_U: np.ndarray) -> list[Point]:
    return [
        Point(metrics.auc(found.liked[inside], found.scores[inside]))
        for inside in (group_U == group for group in range(group_U.max() + 1))
    ]
