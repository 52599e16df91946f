"""What a log holds and what of it is left out, in lines for people, each with an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recllm_tasks.data.formats import BY_FILE
from recllm_tasks.data.options import Options, written
from recllm_tasks.data.specs import DatasetSpec

if TYPE_CHECKING:  # Reading a dataset's facts does not load the database.
    import duckdb

# Times that all lie before are rarely times.
_EARLY = 10 * 365 * 86_400
# More stars than anybody gives.
_MANY_STARS = 10

# Two raw ids that become the same under this are probably one.
_FORMS = {
    "user": "lower(trim({id}))",
    "item": r"regexp_replace(ltrim(lower(trim({id})), '0'), '\.0+$', '')",
}


def of_interactions(
    connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, options: Options
) -> list[str]:
    """About the table `raw_interactions`: its times and ratings."""
    count, first, last, rated, least, most, likes = connection.execute(
        "select count(*), min(time), max(time), count(rating), min(rating), max(rating), "
        "count(*) filter (rating > ?) from raw_interactions",
        [options.like_threshold],
    ).fetchall()[0]
    layouts = spec.format.interactions.values()
    lines = []
    if any(layout.order == BY_FILE for layout in layouts):
        lines.append(f"{count:,} interactions in the order of the file's lines")
    else:
        lines.append(f"{count:,} interactions from {written(first)} to {written(last)} (UTC)")
        if last < _EARLY:
            lines.append(
                "all times are in the first years after 1970: if they are no seconds, give "
                "--time_unit or --time_format; if they only count the lines, all is well"
            )
    if not rated:
        return [*lines, "no ratings, so the rating task is not offered"]
    lines.append(f"ratings from {least:g} to {most:g}; {count - rated:,} interactions without one")
    if likes in (0, rated):
        above = "above" if likes else "not above"
        lines.append(
            f"all ratings are {above} {options.like_threshold:g}, so all are "
            f"{'likes' if likes else 'dislikes'}: the rating task learns nothing and has no AUC; "
            "give another --like_threshold, or --columns rating=- if they are no ratings"
        )
    if most > _MANY_STARS:
        lines.append(
            f"ratings up to {most:g} look like counts or other numbers rather than stars; "
            "--columns rating=- leaves them out"
        )
    return lines


def of_ids(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """About the raw ids in `user_codes` and `item_codes`: those that differ only in form."""
    lines = []
    for column, form in _FORMS.items():
        name = f"{column}_id"
        count, one, other = connection.execute(f"""
            select coalesce(sum(num), 0), arg_min(least, least), arg_min(most, least) from (
                select count(*) as num, min({name}) as least, max({name}) as most
                from {column}_codes group by {form.format(id=name)} having count(*) > 1)
        """).fetchall()[0]
        if count:
            lines.append(
                f"{count:,} {column} ids differ from another one only in form, such as {one!r} "
                f"and {other!r}; write them alike if they are the same {column}"
            )
    return lines


def of_core(connection: duckdb.DuckDBPyConnection, before: int, options: Options) -> list[str]:
    """What the k-core left out of `before` interactions."""
    interactions, users_left, items_left = connection.execute(
        'select count(*), count(distinct "user"), count(distinct item) from core'
    ).fetchall()[0]
    if interactions == before:
        return []
    users, items = connection.execute(
        "select (select count(*) from user_codes), (select count(*) from item_codes)"
    ).fetchall()[0]
    examples = []
    for column in ("user", "item"):
        found = connection.execute(
            f'select min({column}_id) from {column}_codes where "{column}" not in '
            f'(select "{column}" from core)'
        ).fetchall()[0][0]
        if found is not None:
            examples.append(f"{column} {found!r}")
    return [
        f"the {options.k_core}-core leaves out {users - users_left:,} of {users:,} users, "
        f"{items - items_left:,} of {items:,} items and {before - interactions:,} of "
        f"{before:,} interactions, such as those of {' and '.join(examples)}"
    ]


def examples(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """One repeated pair of user and item, and one user who was too short, where there are any."""
    found = {}
    for name, table, columns in (
        ("repeat", "repeated", ("user", "item")),
        ("short user", "short_users", ("user",)),
    ):
        if not connection.execute(
            "select count(*) from duckdb_tables() where table_name = ?", [table]
        ).fetchall()[0][0]:
            continue
        ids = ", ".join(f"{column}_id" for column in columns)
        joins = " ".join(f'join {column}_codes using ("{column}")' for column in columns)
        rows = connection.execute(f"select {ids} from {table} {joins} order by all limit 1")
        for row in rows.fetchall():
            found[name] = " and ".join(f"{c} {value!r}" for c, value in zip(columns, row))
    return found


def of_degenerate(lengths: np.ndarray) -> list[str]:
    """About training sequences of one item; int [users], the items of each."""
    single = int(np.count_nonzero(lengths == 1))
    if not single:
        return []
    return [
        f"{single:,} of {np.count_nonzero(lengths):,} users have a single item to train on: their "
        "examples have an empty history; --gin.windows.empty_histories.use='drop' trains without"
    ]
