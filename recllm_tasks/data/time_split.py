"""Global time split: the dates that cut a log into train, validation and test.

Train records hold what is earlier than `validation_from`. A validation example has as its target
the user's first interaction from `validation_from` on and before `test_from`, and as its history
all before the target; a test example the same from `test_from` on. Our choice: one target a user
and split, as in leave-one-out, so that tasks, metrics and tables are the same; later interactions
of the same period are not used. All that shapes training (k-core, popularity, negatives) looks at
the time before `validation_from` alone.
"""

import dataclasses
from typing import Any

import duckdb

from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.data.options import TIME, Options, written
from recllm_tasks.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The first moments of validation and of test, in seconds since 1970."""

    validation: float
    test: float

    def sizes(self) -> dict[str, str]:
        """SQL: items of each split's record of a user, 0 for none, of `counts` and `length`."""
        return {
            "train": "before_validation",
            "validation": "case when before_validation > 0 and before_test > before_validation "
            "then before_validation + 1 else 0 end",
            "test": "case when before_test > 0 and length > before_test "
            "then before_test + 1 else 0 end",
        }

    def as_options(self) -> dict[str, Any]:
        """The cuts as the options that would give them."""
        return {"validation_from": self.validation, "test_from": self.test}

    @property
    def counts(self) -> str:
        """SQL: a user's interactions before each cut."""
        return (
            f"count(*) filter (time < {self.validation!r}) as before_validation, "
            f"count(*) filter (time < {self.test!r}) as before_test"
        )


def find_cuts(connection: duckdb.DuckDBPyConnection, name: str, options: Options) -> Cuts | None:
    """The cuts of the table `raw_interactions`; None for another split than by time.

    A share counts interactions. Interactions at one time stay together, so a share is at least what
    was asked for.

    Raises:
      UserError: a date is outside of the log's range, or a share leaves nothing before it.
    """
    if options.split != TIME:
        return None
    first, last = connection.execute(
        "select min(time), max(time) from raw_interactions"
    ).fetchall()[0]
    dates: dict[str, Any] = {
        "validation_from": options.validation_from,
        "test_from": options.test_from,
    }
    if options.test_share:
        for flag, share in (
            ("validation_from", options.validation_share + options.test_share),
            ("test_from", options.test_share),
        ):
            (dates[flag],) = connection.execute(
                "select quantile_disc(time, ?) from raw_interactions", [1 - share]
            ).fetchall()[0]
    cuts = Cuts(dates["validation_from"], dates["test_from"])
    for flag, cut in (("validation_from", cuts.validation), ("test_from", cuts.test)):
        given = flag.replace("from", "share") if options.test_share else flag
        if not first < cut <= last:
            raise UserError(
                f"{given} for '{name}': got the date {written(cut)}, expected one after the log's "
                f"first interaction, {written(first)}, and up to its last, {written(last)}; "
                f"correct --{given}"
            )
    if cuts.validation >= cuts.test:
        raise UserError(
            f"validation_share for '{name}': got {options.validation_share:g}, which leaves no "
            f"time before the test from {written(cuts.test)}, expected a larger share; raise "
            "--validation_share, or give --validation_from and --test_from"
        )
    return cuts


def count_new_users(connection: duckdb.DuckDBPyConnection, cuts: Cuts) -> dict[str, int]:
    """Users of `core` who have interactions in a period but none before it, by split."""
    found = connection.execute(f"""
        with counted as (select count(*) as length, {cuts.counts} from core group by "user")
        select count(*) filter (before_validation = 0 and before_test > 0),
            count(*) filter (before_test = 0)
        from counted
    """).fetchall()[0]
    return dict(zip(("validation", "test"), map(int, found)))


def drop_users_without_record(connection: duckdb.DuckDBPyConnection, cuts: Cuts) -> int:
    """Removes the users of `core` whom no split holds; returns how many."""
    sizes = " + ".join(cuts.sizes().values())
    connection.execute(f"""
        create or replace temp table without_record as
        select "user" from (
            select "user", count(*) as length, {cuts.counts} from core group by "user"
        ) where {sizes} = 0
    """)
    connection.execute('delete from core where "user" in (from without_record)')
    (count,) = connection.execute("select count(*) from without_record").fetchall()[0]
    return count


def describe(info: DatasetInfo) -> list[str]:
    """What a split by time or withheld items leave out, in lines for people."""
    counts = info.split_counts
    if counts is None or not info.hides_items:
        return []
    users, new_users = counts.users, counts.new_users
    new_items = (
        f"{counts.new_items:,} items without an interaction in train; they are the target of "
        f"{counts.new_targets['validation']:,} validation and {counts.new_targets['test']:,} test "
        "examples"
    )
    if counts.withheld:
        new_items = f"{counts.withheld:,} items withheld from training; {new_items}"
    if info.split != TIME:
        return [new_items]
    return [
        f"split by time: validation from {written(info.validation_from or 0)}, test from "
        f"{written(info.test_from or 0)}; {users['train']:,} train, "
        f"{users['validation']:,} validation and {users['test']:,} test users",
        f"without an earlier interaction, so without an example: {new_users['validation']:,} "
        f"users of the validation period, {new_users['test']:,} of the test period",
        new_items,
        f"{counts.unused:,} interactions unused: after a user's targets, or of users without a "
        "record",
    ]


def check_examples(name: str, cuts: Cuts, users: dict[str, int]) -> None:
    """Raises `UserError` if a split has no example."""
    for split, flag, cut in (
        ("validation", "validation_from", cuts.validation),
        ("test", "test_from", cuts.test),
    ):
        if not users[split]:
            raise UserError(
                f"{flag} for '{name}': got {written(cut)}, which leaves no {split} example, "
                "expected users with an interaction in that period and one before it; give other "
                "dates, or larger shares"
            )
