"""Sequences: duplicates dropped or kept, k-core, time order, splits.

DuckDB does the work on disk, with numbers in place of raw ids. The result is in flat files that any
process can map into memory; nothing else grows with the number of interactions.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recllm_tasks.data.options import FIRST, MIN_INTERACTIONS
from recllm_tasks.data.time_split import Cuts
from recllm_tasks.errors import UserError

HELD_OUT = {"train": 2, "validation": 1, "test": 0}
"""How many of a user's last interactions each split leaves out (leave-one-out)."""

# Rows, and users, in memory at a time.
_CHUNK = 1_000_000
_USERS = 100_000


@dataclasses.dataclass(frozen=True)
class Sequences:
    """The interactions of all users, user by user, each user's oldest first.

    User u has the raw id `users[u]` (`order_sequences` sorts by it) and the entries `offsets[u]` to
    `offsets[u + 1]` of `items` (int32, rows of the catalog) and `ratings` (float32, NaN where
    unknown). `offsets` is int64 [users + 1]. A split's record is the start of a user's
    interactions: `sizes` (int64 [users] by split) says how many, 0 for no record; it is empty in
    leave-one-out, where `HELD_OUT` says so. Of it the train record leaves out the items that are
    `withheld` (bool [N] by row of the catalog, or None).
    """

    users: Sequence[str] | pa.ChunkedArray
    offsets: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    sizes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    withheld: np.ndarray | None = None

    @classmethod
    def open(cls, folder: str | Path) -> "Sequences":
        """Maps the files that `order_sequences` wrote into memory, without reading them."""
        folder = Path(folder)
        return cls(
            users=pa.ipc.open_file(pa.memory_map(str(folder / "users.arrow"))).read_all()[
                "user_id"
            ],
            offsets=np.memmap(folder / "offsets", np.int64, "r"),
            items=np.memmap(folder / "items", np.int32, "r"),
            ratings=np.memmap(folder / "ratings", np.float32, "r"),
            sizes={
                split: np.memmap(folder / f"size_{split}", np.int64, "r")
                for split in HELD_OUT
                if (folder / f"size_{split}").exists()
            },
            withheld=np.fromfile(folder / "withheld", bool)
            if (folder / "withheld").exists()
            else None,
        )

    def take(self, numbers: np.ndarray) -> "Sequences":
        """The users with these numbers, in that order, in memory."""
        starts, lengths = self.offsets[numbers], self.offsets[numbers + 1] - self.offsets[numbers]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        entries = _entries(starts, lengths)
        return Sequences(
            users=pc.take(self.users, pa.array(numbers)).to_pylist(),
            offsets=offsets,
            items=self.items[entries],
            ratings=self.ratings[entries],
            sizes={split: sizes[numbers] for split, sizes in self.sizes.items()},
            withheld=self.withheld,
        )

    @property
    def lengths(self) -> np.ndarray:
        """Interactions per user, int64 [users]."""
        return np.diff(self.offsets)

    def of_split(self, user: int | np.integer, split: str) -> slice:
        """The entries that the record of user number `user` holds in `split`, withheld included."""
        start, stop = self.offsets[user], self.offsets[user + 1]
        return slice(
            start, start + self.sizes[split][user] if self.sizes else stop - HELD_OUT[split]
        )

    def entries(self, user: int | np.integer, split: str) -> slice | np.ndarray:
        """Where the items of the record of user number `user` in `split` stand."""
        part = self.of_split(user, split)
        if split != "train" or self.withheld is None:
            return part
        return part.start + np.flatnonzero(~self.withheld[self.items[part]])

    def record_sizes(self, split: str) -> np.ndarray:
        """Items of each user's record in `split`, 0 for none, int64 [users]."""
        sizes = self.sizes_of(split)
        if split != "train" or self.withheld is None:
            return sizes
        kept = []
        for first, entries in self._train_parts():
            part = sizes[first : first + _USERS]
            users = np.repeat(np.arange(len(part)), part)
            of = np.bincount(users, ~self.withheld[self.items[entries]], minlength=len(part))
            kept.append(of.astype(np.int64))
        return np.concatenate(kept)

    def _train_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first user, entries of the train records) of users, part by part."""
        sizes = self.sizes_of("train")
        for first in range(0, len(sizes), _USERS):
            part = slice(first, first + _USERS)
            yield first, _entries(self.offsets[:-1][part], sizes[part])

    def sizes_of(self, split: str) -> np.ndarray:
        """`record_sizes`, withheld items included."""
        return self.sizes[split] if self.sizes else self.lengths - HELD_OUT[split]

    def targets(self, split: str) -> np.ndarray:
        """The last items of the records of `split`, int32 [records]."""
        sizes = self.sizes_of(split)
        return self.items[(self.offsets[:-1] + sizes - 1)[sizes > 0]]

    def count_train(self, num_items: int) -> np.ndarray:
        """How often each item occurs in the train split, int64 [num_items]."""
        counts = np.zeros(num_items, np.int64)
        for _, entries in self._train_parts():
            counts += np.bincount(self.items[entries], minlength=num_items)
        return counts if self.withheld is None else np.where(self.withheld, 0, counts)


def _entries(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers from each start on, `sizes` of them, int64."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)


def build_core(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    k_core: int,
    repeats: str = FIRST,
    train_until: float | None = None,
) -> int:
    """Turns the table `raw_interactions` into `core`; returns the number of duplicates dropped.

    A repeated (user, item) pair keeps its first interaction in time, unless `repeats` is `keep`:
    then all stay, and each counts for the k-core. Then users and items with fewer than `k_core`
    interactions are removed until none is left. With `train_until`, a time, only interactions
    before it count, so that nothing later shapes the core; users and items without any stay. In
    `core` and in the tables `user_codes` and `item_codes`, users and items are numbers in no
    particular order.
    """
    # Lines are numbered, so the order of rows may change; keeping it costs memory.
    connection.execute("set preserve_insertion_order = false")
    for column in ("user", "item"):
        connection.execute(f"""
            create or replace table {column}_codes as
            select {column}_id, (row_number() over () - 1)::integer as {column}
            from (select distinct {column}_id from raw_interactions)
        """)
    connection.execute("""
        create or replace table core as select "user", item, line, time, rating
        from raw_interactions join user_codes using (user_id) join item_codes using (item_id)
    """)
    connection.execute("drop table raw_interactions")
    earlier = "true" if train_until is None else f"time < {train_until!r}"
    before = _count(connection, f"core where {earlier}")
    duplicates = _drop_repeats(connection) if repeats == FIRST else 0
    reduce_core(connection, k_core, train_until)
    connection.execute("reset preserve_insertion_order")
    if not _count(connection, f"core where {earlier}"):
        raise UserError(
            f"nothing left of '{name}': got 0 of {before:,} interactions after the {k_core}-core, "
            f"expected some users and items with at least {k_core} interactions; check the file, "
            "or give a smaller k_core (at least 3)"
        )
    return duplicates


def reduce_core(
    connection: duckdb.DuckDBPyConnection, k_core: int, train_until: float | None = None
) -> None:
    """Removes users and items with fewer than `k_core` interactions until none is left."""
    few = {
        column: f"(select {column} from core group by {column} having count(*) < {k_core})"
        for column in ('"user"', "item")
    }
    if train_until is not None:
        for number, column in enumerate(few):
            # Of these, one that has lost all its interactions has too few, and is not a new one.
            connection.execute(f"""
                create or replace temp table known_{number} as
                select distinct {column} from core where time < {train_until!r}
            """)
            few[column] = f"""(
                select {column} from core where {column} in (from known_{number})
                group by {column} having count(*) filter (time < {train_until!r}) < {k_core}
            )"""
    removed = True
    while removed:
        removed = sum(_delete(connection, f"{column} in {of}") for column, of in few.items())


def _drop_repeats(connection: duckdb.DuckDBPyConnection) -> int:
    # Only repeated pairs are sorted: they are few, and sorting everything would spill to disk.
    connection.execute("""
        create or replace temp table repeated as
        select "user", item from core group by "user", item having count(*) > 1
    """)
    return _delete(
        connection,
        """rowid in (
            select rowid from (
                select rowid, row_number() over (partition by "user", item order by time, line) as n
                from core where ("user", item) in (select ("user", item) from repeated)
            ) where n > 1)
        """,
    )


def count_repeats(connection: duckdb.DuckDBPyConnection) -> int:
    """How many interactions of `core` are with an item that the user had before."""
    pairs = 'select count(*) from (select distinct "user", item from core)'
    (distinct,) = connection.execute(pairs).fetchall()[0]
    return _count(connection, "core") - distinct


def drop_short_users(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """Removes users with too few interactions for leave-one-out from `core`; returns how many.

    There are none after a k-core. Raises `UserError` if nobody is left.
    """
    connection.execute(f"""
        create or replace temp table short_users as
        select "user" from core group by "user" having count(*) < {MIN_INTERACTIONS}
    """)
    count = _count(connection, "short_users")
    if count:
        connection.execute('delete from core where "user" in (from short_users)')
        if not _count(connection, "core"):
            raise UserError(
                f"nothing left of '{name}': got {count:,} users with fewer than {MIN_INTERACTIONS} "
                "interactions each, expected some with more, since train, validation and test each "
                "need one; check the file, or its columns"
            )
    return count


def count_raw(connection: duckdb.DuckDBPyConnection) -> int:
    """Interactions of `raw_interactions`."""
    return _count(connection, "raw_interactions")


def count_core(connection: duckdb.DuckDBPyConnection) -> int:
    """Interactions of `core`."""
    return _count(connection, "core")


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return connection.execute(f"select count(*) from {table}").fetchall()[0][0]


def _delete(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    return connection.execute(f"delete from core where {condition}").fetchall()[0][0]


def drop_users(connection: duckdb.DuckDBPyConnection, users: Sequence[str]) -> None:
    """Removes users, by their raw ids, from `core`."""
    connection.execute(
        'delete from core where "user" in (select "user" from user_codes where user_id in '
        "(select unnest(?::varchar[])))",
        [list(users)],
    )


def order_items(
    connection: duckdb.DuckDBPyConnection,
    seed: int,
    others: Collection[str] = (),
    known: Sequence[str] = (),
) -> list[str]:
    """The raw ids of the items of `core` in the random order of the catalog, fixed by `seed`.

    `others` are ids of items that the catalog has too. Items that are `known` come first, in that
    order, and stay even if `core` has them no more.

    Our choice: by the SHA-256 of `seed:item`, which depends neither on the order of the file nor on
    a library's version. Random ids leak no neighbourhood (Paper §A.1). Creates the table
    `item_rows` too.
    """
    connection.execute(
        """
        create or replace table item_rows as
        with items as (
            select item_id, item from item_codes where item in (select item from core)
        ), known as (
            select unnest(ids) as item_id, generate_subscripts(ids, 1) as place
            from (select ?::varchar[] as ids)
        ), others as (
            select unnest(?::varchar[]) as item_id union select item_id from known
        )
        select item_id, item, (row_number() over (
            order by place nulls last, sha256(? || ':' || item_id)) - 1)::integer as item_row
        from (
            from items union all
            select item_id, null from others where item_id not in (select item_id from items)
        ) left join known using (item_id)
        """,
        [list(known), list(others), str(seed)],
    )
    rows = connection.sql("select item_id from item_rows order by item_row")
    return rows.to_arrow_table().column(0).to_pylist()


def withheld_items(items: Sequence[str], seed: int, share: float) -> np.ndarray | None:
    """Which items of the catalog are kept out of training, bool [N]; None for a share of 0.

    Our choice: by the SHA-256 of `withheld:seed:item`, so the draw depends on nothing else, and a
    larger share holds the items of a smaller one.
    """
    if not share:
        return None
    digests = [hashlib.sha256(f"withheld:{seed}:{item}".encode()).digest() for item in items]
    order = sorted(range(len(items)), key=digests.__getitem__)
    withheld = np.zeros(len(items), bool)
    withheld[order[: max(1, round(share * len(items)))]] = True
    return withheld


def order_sequences(
    connection: duckdb.DuckDBPyConnection,
    folder: str | Path,
    cuts: Cuts | None = None,
    withheld: np.ndarray | None = None,
) -> Sequences:
    """Sorts each user's interactions of `core` and writes them to `folder`, for `Sequences.open`.

    The sort by time is stable: times are often days, and the published splits keep the file's order
    among ties. Call `order_items` first. `cuts` are those of a split by time; for `withheld` see
    `Sequences`.
    """
    folder = Path(folder)
    if withheld is not None:
        withheld.tofile(folder / "withheld")
    counts = f"count(*) as length, {cuts.counts}" if cuts else "count(*) as length"
    sizes = cuts.sizes() if cuts else {}
    connection.execute(f"""
        create or replace table users as
        select *, (row_number() over (order by user_id) - 1)::integer as n
        from user_codes join (select "user", {counts} from core group by "user") using ("user")
    """)
    for split, size in sizes.items():
        of_users = connection.sql(f"select ({size})::bigint as size from users order by n")
        of_users.fetchnumpy()["size"].astype(np.int64).tofile(folder / f"size_{split}")
    users = connection.sql("select user_id, length from users order by n")
    last = np.zeros(1, np.int64)
    with (
        (folder / "offsets").open("wb") as offsets,
        pa.OSFile(str(folder / "users.arrow"), "wb") as file,
        pa.ipc.new_file(file, pa.schema([("user_id", pa.string())])) as writer,
    ):
        offsets.write(last.tobytes())
        for batch in users.to_arrow_reader(_CHUNK):
            last = last[-1] + np.cumsum(batch["length"].to_numpy())
            offsets.write(last.tobytes())
            writer.write_table(pa.table({"user_id": batch["user_id"].cast(pa.string())}))
    rows = connection.sql("""
        select item_row, coalesce(rating, 'nan'::float) as rating
        from core join users using ("user") join item_rows using (item) order by n, time, line
    """)
    with (folder / "items").open("wb") as items, (folder / "ratings").open("wb") as ratings:
        for batch in rows.to_arrow_reader(_CHUNK):
            items.write(batch["item_row"].to_numpy().tobytes())
            ratings.write(batch["rating"].to_numpy().tobytes())
    for split in HELD_OUT:
        # As TFDS shuffles: by the MD5 of the split's name and the key, with / for backslashes.
        numbers = connection.sql(
            "select n from users order by md5(? || replace(user_id, '\\', '/')), n", params=[split]
        ).fetchnumpy()["n"]
        np.asarray(numbers, np.int32).tofile(folder / f"order_{split}")
    found = Sequences.open(folder)
    for split in HELD_OUT:
        numbers = np.array(open_record_order(folder, split))
        kept = numbers[found.record_sizes(split)[numbers] > 0]
        if len(kept) < len(numbers):
            kept.tofile(folder / f"order_{split}")
    return found


def open_record_order(folder: str | Path, split: str) -> np.ndarray:
    """The users' numbers in the order of the records of `split`, int32 [records]."""
    return np.memmap(Path(folder) / f"order_{split}", np.int32, "r")
