"""Ties: interactions of one user at the same time."""

import duckdb


def shuffle_ties(connection: duckdb.DuckDBPyConnection, seed: int) -> None:
    """Renumbers the lines of `raw_interactions`, so that `seed` fixes the order among ties.

    Our choice: by the MD5 of `seed:user:item`, because that depends neither on the order of the
    files nor on the version of a library. Repeated (user, item) pairs keep the files' order, so
    that the first one stays the first.
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
