"""What is recommended: invalid answers, duplicates, coverage of the catalog, popularity.

Letters: U users, L items listed for all users together, N items of the catalog.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recllm_tasks.errors import UserError
from recllm_tasks.report import methods
from recllm_tasks.report.estimates import Measured
from recllm_tasks.report.table import Cell, Row, Table, count, percent, significant
from recllm_tasks.report.user_results import RankedUsers

# Coverage and popularity look at this many items of each list.
TOP = 10
DECILES = 10


@dataclasses.dataclass(frozen=True)
class Lists:
    """Shares are fractions.

    Attributes:
      invalid: share of answers that are not items.
      duplicates: share of items that already occur earlier in their list.
      distinct: number of different items in all users' top TOP.
      mean_popularity: mean train interactions of the items in the tops; NaN without a catalog.
      by_decile: share of the items in the tops in each tenth of the catalog, the least popular
        first, [DECILES]; None without a catalog.
    """

    invalid: float
    duplicates: float
    distinct: int
    mean_popularity: float = float("nan")
    by_decile: npt.NDArray[np.float64] | None = None


def describe(found: RankedUsers, train_count: np.ndarray | None) -> Lists:
    items_L, starts = found.items, found.starts
    lengths_U = np.diff(starts)
    user_L = np.repeat(np.arange(len(found)), lengths_U)
    place_L = np.arange(len(items_L)) - np.repeat(starts[:-1], lengths_U)
    valid_L = items_L >= 0
    # One number for each user and item; equal numbers are duplicates.
    pairs = user_L[valid_L] * (np.int64(1) << 31) + items_L[valid_L]
    num_valid = len(pairs)
    duplicates = 1 - _num_distinct(pairs) / num_valid if num_valid else float("nan")
    invalid = 1 - num_valid / len(items_L) if len(items_L) else float("nan")
    top = items_L[valid_L & (place_L < TOP)]
    distinct = _num_distinct(top)
    if train_count is None or not len(top):
        return Lists(invalid, duplicates, distinct)
    shares = np.bincount(deciles(train_count)[top], minlength=DECILES) / len(top)
    return Lists(invalid, duplicates, distinct, float(train_count[top].mean()), shares)


def _num_distinct(values: npt.NDArray[np.integer]) -> int:
    """Counts by sorting; `np.unique` hashes, which took most of a report's time."""
    return int(np.count_nonzero(np.diff(np.sort(values)))) + 1 if len(values) else 0


def deciles(train_count: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The tenth of the catalog that each item belongs to, 0 is the least popular: [N]."""
    rank_N = np.empty(len(train_count), np.int64)
    rank_N[np.argsort(train_count, kind="stable")] = np.arange(len(train_count))
    return rank_N * DECILES // max(1, len(train_count))


def check_rows(measured: Measured, train_count: np.ndarray) -> None:
    """Raises UserError if a run names a row that is not in the catalog."""
    for place, found in measured.users.items():
        columns = {"target": found.targets}
        columns |= {"items": found.items} if isinstance(found, RankedUsers) else {}
        for column, rows in columns.items():
            if len(rows) and rows.max() >= len(train_count):
                run = measured.runs[place]
                path = run.per_user_file(run.tasks[measured.kind])
                raise UserError(
                    f"'{column}' in '{path}': got catalog row {rows.max()}, expected rows below "
                    f"{len(train_count)}, the items of '{run.dataset}'; measure the run again"
                )


def tables(measured: Measured, train_count: np.ndarray | None) -> list[Table]:
    """Quality of lists and popularity by decile, for retrieval and ranking."""
    lists = {
        place: describe(found, train_count)
        for place, found in measured.users.items()
        if isinstance(found, RankedUsers)
    }
    if not lists:
        return []
    kind, notes = measured.kind.capitalize(), [measured.condition.text]
    columns = ["invalid (%)", "duplicates (%)", f"different items in the top {TOP}"]
    if train_count is not None:
        columns += ["of the catalog (%)", "mean popularity", "of the targets' (%)"]
        targets = next(iter(measured.users.values())).targets
        wanted = float(train_count[targets].mean())
        notes.append(
            f"Popularity is the number of train interactions; the targets' mean is {wanted:.1f}."
        )
    rows = []
    for place, of in lists.items():
        cells = [percent(of.invalid), percent(of.duplicates), count(of.distinct)]
        if train_count is not None:
            cells += [
                percent(of.distinct / len(train_count), 1),
                significant(of.mean_popularity),
                percent(of.mean_popularity / wanted, 0) if wanted else "",
            ]
        rows.append(_row(measured, place, cells))
    rule = measured.condition.rule
    found = [Table(f"{kind}: what is recommended, {rule}", columns, rows, notes=notes)]
    if train_count is not None:
        found.append(_decile_table(measured, lists, train_count))
    return found


def _decile_table(measured: Measured, lists, train_count: np.ndarray) -> Table:
    targets = next(iter(measured.users.values())).targets
    of_targets = np.bincount(deciles(train_count)[targets], minlength=DECILES) / len(targets)
    rows = [Row("the targets", [Cell(percent(share, 1)) for share in of_targets], "targets")]
    means = [
        significant(float(train_count[deciles(train_count) == place].mean()))
        if (deciles(train_count) == place).any()
        else ""
        for place in range(DECILES)
    ]
    rows.append(Row("mean popularity of the tenth", [Cell(text) for text in means], "targets"))
    for place, of in lists.items():
        if of.by_decile is not None:
            rows.append(_row(measured, place, [percent(share, 1) for share in of.by_decile]))
    return Table(
        f"{measured.kind.capitalize()}: share (%) of the top {TOP} by popularity, "
        f"{measured.condition.rule}",
        [str(place + 1) for place in range(DECILES)],
        rows,
        [("tenths of the catalog, the least popular first", DECILES)],
        [measured.condition.text],
    )


def _row(measured: Measured, place: int, cells: Sequence[str]) -> Row:
    part = methods.part(measured.runs[place], measured.kind)
    return Row(measured.labels[place], [Cell(text) for text in cells], part)
