"""Interactions of one user at the same time: what order they have is the file's, not the user's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever reads a dataset's facts need not load the database
    import duckdb


@dataclasses.dataclass(frozen=True)
class TieCounts:
    """What was counted of them.

    Attributes:
      order: what they stand in: `Options.ties`.
      interactions: how many share user and time with another one.
      users_with_test_tied: whose test item has the same time as their validation item.
    """

    order: str
    interactions: int
    users_with_test_tied: int


def count_ties(connection: duckdb.DuckDBPyConnection, order: str) -> TieCounts:
    """Counts the ties of the table `core` (see `sequences.build_core`)."""
    interactions, users = connection.execute("""
        with days as (
            select "user", time, count(*) as num from core group by "user", time
        ), last_days as (
            select arg_max(num, time) as num from days group by "user"
        )
        select (select coalesce(sum(num), 0) from days where num > 1),
            (select count(*) from last_days where num > 1)
    """).fetchone()
    return TieCounts(order, int(interactions), int(users))
