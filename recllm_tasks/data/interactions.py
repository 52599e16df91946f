"""Interactions: raw files read into one DuckDB table, or an error that names the line.

DuckDB reads fast, but its errors give wrong line numbers or none, and it stops at the first
problem. So Python reads a file, line by line, only if DuckDB found a problem, and its verdict
counts.
"""

import itertools
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.formats import UNIT_BOUNDARY, UNITS, Layout, layout_of
from recllm_tasks.data.readers import delimited, json_lines, parquet
from recllm_tasks.data.readers.record import BLANKS, Interaction, Problem, interaction_of
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

READERS = {"json": json_lines, "text": delimited, "parquet": parquet}

_INSERT = """
insert into raw_interactions
select line + ? as line, user_id, item_id,
    case when number >= {least} and number < {below} then number / {scale} else date end as time,
    rating,
    coalesce(rating_known and trim(user_id, '{blanks}') <> '' and trim(item_id, '{blanks}') <> ''
        and time >= 0 and time < {boundary}
        and (rating is null or (rating >= {worst}::float and rating <= {best}::float)), false) as ok
from ({relation})
"""
_BATCH = 100_000


def read_interactions(
    connection: duckdb.DuckDBPyConnection,
    spec: DatasetSpec,
    sources: Sequence[SourceFile],
    bad: BadRecords | None = None,
) -> bool:
    """Reads the files into the table `raw_interactions` and checks every record.

    Columns: `line` (bigint, order in the files), `user_id`, `item_id` (varchar), `time` (double,
    seconds), `rating` (float, null where there is none), `ok` (true). Blank lines are skipped.
    Returns whether any record has a rating. Raises `UserError` for the first bad line, unless `bad`
    sets bad lines aside, and for files without a valid record.
    """
    bad = bad or BadRecords()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("""
        create or replace table raw_interactions (
            line bigint, user_id varchar, item_id varchar, time double, rating float, ok boolean)
    """)
    for source in sources:
        layout = layout_of(spec.format.interactions, source.path)
        last = connection.execute("select coalesce(max(line), 0) from raw_interactions")
        (before,) = last.fetchall()[0]
        if not _read_quickly(connection, source, layout, before):
            connection.execute("delete from raw_interactions where line > ?", [before])
            _read_thoroughly(connection, source, layout, before, bad)
    count, rated = connection.execute(
        "select count(*), count(rating) from raw_interactions"
    ).fetchall()[0]
    if not count:
        raise UserError(
            f"interactions for '{', '.join(str(source.path) for source in sources)}': got "
            f"{bad.count:,} bad lines and no valid record, expected one record per line, after the "
            "header if there is one; download the file again, or correct --columns"
        )
    return rated > 0


def _read_quickly(
    connection: duckdb.DuckDBPyConnection, source: SourceFile, layout: Layout, before: int
) -> bool:
    """Returns whether DuckDB read the whole file without a problem."""
    relation, arguments = READERS[layout.container].relation(source, layout)
    scale = UNITS[layout.unit]
    worst, best = layout.ratings
    sql = _INSERT.format(
        relation=relation,
        least=0 if scale == 1 else UNIT_BOUNDARY,
        below=UNIT_BOUNDARY * scale,
        scale=scale,
        boundary=UNIT_BOUNDARY,
        blanks=BLANKS,
        worst=max(worst, -3.4e38),
        best=min(best, 3.4e38),
    )
    try:
        connection.execute(sql, [before, *arguments])
        count, good = connection.execute(
            "select count(*), count(*) filter (ok) from raw_interactions where line > ?", [before]
        ).fetchall()[0]
    except duckdb.Error:
        return False
    header = layout.container == "text" and layout.header
    return count == good and (source.lines < 0 or count == source.lines - header)


def _read_thoroughly(
    connection: duckdb.DuckDBPyConnection,
    source: SourceFile,
    layout: Layout,
    before: int,
    bad: BadRecords,
) -> None:
    """Reads record by record in Python: slow, but names every problem."""
    found = _check_each(source, layout, bad)
    names = ("line", "user_id", "item_id", "time", "rating")
    kinds = (pa.int64(), pa.string(), pa.string(), pa.float64(), pa.float32())
    schema = pa.schema(list(zip(names, kinds)))
    while batch := list(itertools.islice(found, _BATCH)):
        columns = zip(*((before + n, i.user, i.item, i.time, i.rating) for n, i in batch))
        rows = pa.table([pa.array(c, k) for c, k in zip(columns, kinds)], schema=schema)
        connection.register("checked_rows", rows)
        connection.execute("insert into raw_interactions select *, true from checked_rows")
        connection.unregister("checked_rows")


def _check_each(
    source: SourceFile, layout: Layout, bad: BadRecords
) -> Iterator[tuple[int, Interaction]]:
    for record in READERS[layout.container].records(source, layout):
        found = interaction_of(record, layout)
        if isinstance(found, Problem):
            bad.add("interactions", source, record, found)
        else:
            yield record.line, found
