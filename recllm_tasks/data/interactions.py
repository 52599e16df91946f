"""Interactions: raw files read into one DuckDB table, or an error that names the line.

DuckDB reads fast, but its errors give wrong line numbers or none, and it stops at the first
problem. So Python splits a file into records only if DuckDB found a problem. What the records'
texts mean is judged by the same SQL either way.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.formats import Layout, layout_of, named
from recllm_tasks.data.readers import delimited, json_lines, parquet
from recllm_tasks.data.readers.record import Record
from recllm_tasks.data.readers.values import check_time_format, checked, problem_of
from recllm_tasks.data.sources import SourceFile, as_utf8, shorten
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

READERS = {"json": json_lines, "text": delimited, "parquet": parquet}

_COLUMNS = "line, user_id, item_id, time, rating"
_VERDICTS = {role: f"{role}_ok" for role in ("user", "item", "time", "rating")}
_OK = " and ".join(_VERDICTS.values())
_INSERT = "insert into raw_interactions select {columns}, {ok} as ok from ({checked})"

# Columns of what Python read, in the place of `relation`'s.
_TEXTS = pa.schema(
    [
        ("line", pa.int64()),
        *((name, pa.string()) for name in ("user_id", "item_id", "time_text", "rating_text")),
    ]
)
_BATCH = 100_000
# Of a refused record's neighbours, whose times tell how the file writes them.
_SHOWN_TIMES = 1000


def read_interactions(
    connection: duckdb.DuckDBPyConnection,
    spec: DatasetSpec,
    sources: Sequence[SourceFile],
    bad: BadRecords | None = None,
    scratch: str | Path | None = None,
    most: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> bool:
    """Reads the files into the table `raw_interactions` and checks every record.

    Columns: `line` (bigint, order in the files), `user_id`, `item_id` (varchar), `time` (double,
    seconds, or the line where the files' order counts), `rating` (float, null where there is none),
    `ok` (true). Blank lines are skipped. Returns whether any record has a rating.

    Args:
      connection: to DuckDB.
      spec: of the dataset.
      sources: the files.
      bad: sets bad lines aside.
      scratch: folder for copies of files that are not UTF-8.
      most: records to read of each file; None is all.
      note: called with what was found out about each file.

    Raises:
      UserError: for the first bad line, unless `bad` sets bad lines aside, and for files without a
        valid record.
    """
    bad = bad or BadRecords()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("""
        create or replace table raw_interactions (
            line bigint, user_id varchar, item_id varchar, time double, rating float, ok boolean)
    """)
    for source in sources:
        layout = layout_of(spec.format.interactions, source.path)
        if layout.time_format:
            check_time_format(layout.time_format)
        last = connection.execute("select coalesce(max(line), 0) from raw_interactions")
        (before,) = last.fetchall()[0]
        with as_utf8(source, layout.encoding, scratch) as readable:
            settled = READERS[layout.container].settled(readable, layout)
            note(_about(readable, settled, layout))
            if most is None and _read_quickly(connection, readable, settled, before):
                continue
            connection.execute("delete from raw_interactions where line > ?", [before])
            _read_thoroughly(connection, readable, settled, before, bad, most)
    count, rated = connection.execute(
        "select count(*), count(rating) from raw_interactions"
    ).fetchall()[0]
    if not count:
        raise UserError(
            f"interactions for '{', '.join(str(source.path) for source in sources)}': got "
            f"{bad.count:,} bad lines and no valid record{', such as ' * bool(bad.example)}"
            f"{bad.example}, expected one record per line, after the header if there is one; "
            "correct --columns, or download the file again"
        )
    return rated > 0


def _about(source: SourceFile, layout: Layout, stated: Layout) -> str:
    """How a file is read: what was found out, and what its first record becomes."""
    facts = []
    if stated.delimiter is None and layout.delimiter:
        facts.append(f"fields between {named(layout.delimiter)}")
    if source.old_mac:
        facts.append("lines that end with carriage returns")
    if source.is_utf8_instead:
        facts.append(f"valid UTF-8, so not read as {stated.encoding}")
    elif stated.encoding != "utf-8" and source.copy:
        facts.append(stated.encoding)
    for record in READERS[layout.container].interactions(source, layout):
        if record.problem is None:
            for role, value in record.values.items():
                if value is not None:
                    column = " or ".join(layout.columns.get(role, ()))
                    facts.append(f"{role} from {shorten(column)}: {shorten(value)}")
        break
    return f"{source.path.name}: {'; '.join(facts)}"


def _read_quickly(
    connection: duckdb.DuckDBPyConnection, source: SourceFile, layout: Layout, before: int
) -> bool:
    """Returns whether DuckDB read the whole file without a problem."""
    relation, arguments = READERS[layout.container].relation(source, layout)
    typed = layout.container == "parquet"
    try:
        _insert(connection, relation, layout, before, arguments, typed)
        count, good = connection.execute(
            "select count(*), count(*) filter (ok) from raw_interactions where line > ?", [before]
        ).fetchall()[0]
    except duckdb.Error:
        return False
    header = layout.container == "text" and layout.header
    return count == good and (source.lines < 0 or count == source.lines - header)


def _insert(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    layout: Layout,
    before: int,
    arguments: Sequence = (),
    typed: bool = False,
) -> None:
    """Judges the records of `relation`, whose lines follow after `before`, and keeps them."""
    texts = f"select * replace (line + {before} as line) from ({relation})"
    sql = _INSERT.format(columns=_COLUMNS, ok=_OK, checked=checked(texts, layout, typed))
    connection.execute(sql, list(arguments))


def _read_thoroughly(
    connection: duckdb.DuckDBPyConnection,
    source: SourceFile,
    layout: Layout,
    before: int,
    bad: BadRecords,
    most: int | None,
) -> None:
    """Splits the file in Python: slow, but names every problem."""
    reader = READERS[layout.container]
    records = itertools.islice(reader.interactions(source, layout), most)
    while batch := list(itertools.islice(records, _BATCH)):
        problems = {n: record.problem for n, record in enumerate(batch) if record.problem}
        rows = [n for n in range(len(batch)) if n not in problems]
        texts = _table([batch[n] for n in rows])
        connection.register("texts_read", texts)
        # By row, because records of several lines may share their first one.
        judged = connection.execute(
            f"select {', '.join(_VERDICTS.values())} from ({checked('from texts_read', layout)})"
        ).fetchall()
        times = [str(batch[n].values.get("time") or "").strip() for n in rows[:_SHOWN_TIMES]]
        for n, verdict in zip(rows, judged):
            if not all(verdict):
                verdicts = dict(zip(_VERDICTS, verdict))
                values = reader.as_written(batch[n], layout)
                problems[n] = problem_of(values, verdicts, layout, times)
        for n in sorted(problems):
            bad.add("interactions", source, batch[n], problems[n])
        if len(problems) < len(batch):
            _insert(connection, "from texts_read", layout, before)
        connection.unregister("texts_read")
    connection.execute("delete from raw_interactions where not ok")


def _table(records: Sequence[Record]) -> pa.Table:
    roles = ("user", "item", "time", "rating")
    columns = [[record.line for record in records]]
    columns += [[record.values.get(role) for record in records] for role in roles]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _TEXTS)], schema=_TEXTS
    )
