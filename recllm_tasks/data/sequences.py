"""Sequences: duplicates dropped, k-core, order of time, leave-one-out."""

import dataclasses

import duckdb
import numpy as np

from recllm_tasks.errors import UserError

HELD_OUT = {"train": 2, "validation": 1, "test": 0}
"""How many of a user's last interactions each split does not hold (leave-one-out)."""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """The interactions of all users, one after the other, each user's oldest first.

    User u is `users[u]` (raw id; ordered by it) and owns the entries `offsets[u]` to
    `offsets[u + 1]` of `items` (int32, rows of the catalog) and `ratings` (float32, NaN where
    unknown). `offsets` is int64 [users + 1].
    """

    users: list[str]
    offsets: np.ndarray
    items: np.ndarray
    ratings: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Interactions a user, int64 [users]."""
        return np.diff(self.offsets)

    def of_split(self, user: int, split: str) -> slice:
        """The entries that the record of user number `user` holds in `split`."""
        return slice(self.offsets[user], self.offsets[user + 1] - HELD_OUT[split])

    def count_train(self, num_items: int) -> np.ndarray:
        """How often each item occurs in the train split, int64 [num_items]."""
        position_from_end = np.repeat(self.offsets[1:], self.lengths) - np.arange(len(self.items))
        in_train = position_from_end > HELD_OUT["train"]
        return np.bincount(self.items[in_train], minlength=num_items).astype(np.int64)


def build_core(connection: duckdb.DuckDBPyConnection, name: str, k_core: int) -> int:
    """Makes the temporary table `core` of `raw_interactions`; returns the duplicates dropped.

    A repeated (user, item) pair keeps its first interaction in time order. Then users and items of
    fewer than `k_core` interactions go, again and again until none is left.
    """
    before = _count(connection, "raw_interactions")
    connection.execute("""
        create or replace temp table core as
        select line, user_id, item_id, time, rating from raw_interactions
        qualify row_number() over (partition by user_id, item_id order by time, line) = 1
    """)
    after = _count(connection, "core")
    duplicates, previous = before - after, None
    while after != previous:
        previous = after
        for column in ("user_id", "item_id"):
            connection.execute(
                f"create or replace temp table core as select * from core where {column} in "
                f"(select {column} from core group by {column} having count(*) >= ?)",
                [k_core],
            )
        after = _count(connection, "core")
    if not after:
        raise UserError(
            f"nothing left of '{name}': got 0 of {before:,} interactions after the {k_core}-core, "
            f"expected some users and items of at least {k_core} interactions; check the file, or "
            "give a smaller k_core (at least 3)"
        )
    return duplicates


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return connection.execute(f"select count(*) from {table}").fetchone()[0]


def list_items(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The raw ids of the items of `core`, in no order."""
    return [item for (item,) in connection.execute("select distinct item_id from core").fetchall()]


def order_sequences(connection: duckdb.DuckDBPyConnection, items: list[str]) -> Sequences:
    """Orders each user's part of `core`; item `items[r]` becomes row r.

    The sort by time is stable over the order of the file: days are ties, and the published splits
    keep the file's order among them.
    """
    connection.execute("create or replace temp table item_rows (item_id varchar, item_row integer)")
    connection.execute(
        "insert into item_rows select unnest(?::varchar[]), unnest(range(?))", [items, len(items)]
    )
    columns = connection.execute("""
        select item_row, coalesce(rating, 'nan'::float) as rating
        from core join item_rows using (item_id) order by user_id, time, line
    """).fetchnumpy()
    counts = connection.execute(
        "select user_id, count(*) from core group by user_id order by user_id"
    ).fetchall()
    return Sequences(
        users=[user for user, _ in counts],
        offsets=np.cumsum([0] + [count for _, count in counts], dtype=np.int64),
        items=np.asarray(columns["item_row"], np.int32),
        ratings=np.asarray(columns["rating"], np.float32),
    )
