"""Short users: those with too few interactions for leave-one-out."""

import duckdb

from recllm_tasks.data.options import MIN_INTERACTIONS
from recllm_tasks.errors import UserError


def drop_short_users(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """Takes users of fewer than three interactions out of `core`; returns how many there were.

    Only a dataset without a k-core has any. Raises `UserError` if nobody is left.
    """
    (short,) = connection.execute(
        'select count(*) from (select "user" from core group by "user" having count(*) < ?)',
        [MIN_INTERACTIONS],
    ).fetchone()
    if short:
        connection.execute(
            'delete from core where "user" in '
            '(select "user" from core group by "user" having count(*) < ?)',
            [MIN_INTERACTIONS],
        )
        if not connection.execute("select count(*) from core").fetchone()[0]:
            raise UserError(
                f"nothing left of '{name}': got {short:,} users of fewer than {MIN_INTERACTIONS} "
                "interactions each, expected some with more, since train, validation and test each "
                "need one; check the file, or its columns"
            )
    return short
