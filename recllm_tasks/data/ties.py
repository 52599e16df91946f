"""Ties: interactions of one user at the same time, whose order is the file's, not the user's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Reading a dataset's facts does not load the database.
    import duckdb


@dataclasses.dataclass(frozen=True)
class TieCounts:
    """How many ties a dataset has.

    Attributes:
      order: how ties are ordered: `Options.ties`.
      interactions: those that share user and time with another interaction.
      users_with_test_tied: users whose test item has the same time as their validation item; in a
        split by time, as another item of the test period.
    """

    order: str
    interactions: int
    users_with_test_tied: int


def count_ties(
    connection: duckdb.DuckDBPyConnection, order: str, test_from: float | None = None
) -> TieCounts:
    """Counts the ties of the table `core` (see `sequences.build_core`).

    Args:
      connection: with the table.
      order: how ties are ordered.
      test_from: the cut of a split by time; None is leave-one-out.
    """
    target = 'select arg_max(num, time) as num from days group by "user"'
    if test_from is not None:
        target = f"""
            select arg_min(num, time) as num from days where time >= {test_from!r}
            and "user" in (select "user" from days where time < {test_from!r}) group by "user"
        """
    interactions, users = connection.execute(f"""
        with days as (
            select "user", time, count(*) as num from core group by "user", time
        ), target_days as ({target})
        select (select coalesce(sum(num), 0) from days where num > 1),
            (select count(*) from target_days where num > 1)
    """).fetchall()[0]
    return TieCounts(order, int(interactions), int(users))


def shuffle_ties(connection: duckdb.DuckDBPyConnection, seed: int) -> None:
    """Renumbers the lines of `raw_interactions`, so that `seed` fixes the order among ties.

    Our choice: by the MD5 of `seed:user:item`, which depends neither on the order of the files nor
    on a library's version. Repeated (user, item) pairs keep the order of the files, so that the
    first one stays first.
    """
    connection.execute(
        """
        create or replace table raw_interactions as
        select row_number() over (
            order by md5_number(? || ':' || user_id || ':' || item_id), line
        ) as line, user_id, item_id, time, rating, ok from raw_interactions
        """,
        [str(seed)],
    )
