"""Files of histories, in the forms that shops export, brought into one form.

    text  one history a line, names separated by commas; a user is called by the line's number
    wide  one user a row: a user and its items, a list or names separated by commas
    long  one event a row: a user, an item, and a time or the order of the file

The last two are CSV or TSV with a header, JSON lines or Parquet; the last one is read as
interactions are. Memory does not grow with the file: DuckDB sorts it on disk.
"""

import collections
import contextlib
import csv
import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.formats import BY_FILE, Format, Reading, custom_format, extension
from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.item_lookup import split_names
from recllm_tasks.data.sources import MAX_LINE_BYTES, as_utf8, check_source, open_lines, shorten
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.data.stages import keep_output_clean
from recllm_tasks.errors import UserError
from recllm_tasks.files import from_object, read_json, write_json

# Names of columns by role, in any case; the first that a file has is taken.
ROLES = {
    "user": ("user", "user_id", "userid", "customer", "customer_id"),
    "items": ("items", "item_ids", "history"),
    "item": ("item", "item_id", "itemid"),
    "time": ("time", "timestamp", "date", "datetime"),
}
ROWS, EVENTS, FACTS = "rows.parquet", "events.parquet", "histories.json"
_WIDE = pa.schema([("line", pa.int64()), ("user", pa.string()), ("items", pa.list_(pa.string()))])
_BATCH = 8192
_MEMORY_LIMIT = "2GB"
_SEPARATORS = ",\t;|"
csv.field_size_limit(MAX_LINE_BYTES)


class History(NamedTuple):
    """One user's items, oldest first; `where` names the place for people."""

    user: str
    items: list[str]
    where: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file was found to hold.

    Attributes:
      path: of the file, for messages.
      form: text, wide or long.
      users: histories.
      bad: rows that were left out, and why the first one was.
      replaced: rows of users that a later row of the same user replaces, and the first such user.
    """

    path: str
    form: str
    users: int
    bad: int = 0
    bad_example: str = ""
    replaced: int = 0
    replaced_example: str = ""

    def lines(self) -> list[str]:
        """What was left out, in lines for people."""
        found = []
        if self.bad:
            found.append(f"{self.bad:,} bad rows left out, the first: {self.bad_example}")
        if self.replaced:
            found.append(
                f"{self.replaced:,} rows replaced by a later one of the same user, the first of "
                f"user {self.replaced_example!r}"
            )
        return found


class _Bad(NamedTuple):
    """Why a row is left out."""

    problem: str


class _Row(NamedTuple):
    """A row of a file with lists of items."""

    user: str | None
    items: list[str]


class _Events(NamedTuple):
    """A file with one event a row, and its columns by role; the separator is of text."""

    path: Path
    container: str
    columns: Mapping[str, str | None]
    separator: str | None = None


Rows = Iterator[tuple[int, "_Row | _Bad"]]


def parse_columns(columns: str | None) -> dict[str, str]:
    """Column names by role, of `user=customer,items=basket`.

    Raises:
      UserError: it cannot be parsed, or a role is unknown or given twice.
    """
    named: dict[str, str] = {}
    for part in filter(None, (columns or "").split(",")):
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals or not name or role not in ROLES or role in named:
            close = difflib.get_close_matches(role, ROLES, n=1)
            hint = f"did you mean '{close[0]}'?" if close and close[0] != role else "correct it"
            raise UserError(
                f"--columns: got '{part}' in '{columns}', expected role=name once for each of "
                f"{', '.join(ROLES)}; {hint}"
            )
        named[role] = name
    return named


def take_in(
    path: Path,
    folder: Path,
    *,
    shown: str = "",
    columns: str | None = None,
    reading: Reading | None = None,
    strict: bool = False,
) -> Facts:
    """Reads a file of histories into `folder`, for `read`; a folder that has it is left as it is.

    Our choice: of several rows of one user in the wide form the last one counts, as the newest, so
    that every user gets one list.

    Args:
      path: of the file.
      folder: an existing one.
      shown: the file's name in messages.
      columns: see `parse_columns`.
      reading: how text and times are written.
      strict: a bad or replaced row is an error.

    Raises:
      UserError: the file cannot be read, has no history, or lacks a column.
    """
    known = read_json(folder / FACTS)
    if known is not None:
        return from_object(Facts, known)
    shown, reading = shown or str(path), reading or Reading()
    reading.check()
    settings: dict[str, Any] = {
        "temp_directory": str(folder),
        "memory_limit": _MEMORY_LIMIT,
        "autoinstall_known_extensions": "false",
    }
    with (
        _readable(path, shown, reading, folder) as readable,
        duckdb.connect(config=settings) as connection,
    ):
        keep_output_clean(connection)
        form, found = _open(readable, shown, parse_columns(columns), reading)
        replaced: tuple = ()
        if isinstance(found, _Events):
            users, bad = _read_events(found, folder, shown, reading, connection)
            count, example = bad.count, bad.example
        else:
            count, example = _write_lists(found, folder, shown)
            users, replaced = _keep_last(connection, folder)
    if strict and count:
        raise UserError(f"Histories in {example}; correct it, or leave out --strict")
    if strict and replaced:
        raise UserError(
            f"Histories in '{shown}': got user {replaced[0]!r} twice, expected one row a user; "
            "remove one, or leave out --strict"
        )
    if not users:
        such_as = f", and left out {example}" if example else ""
        raise UserError(
            f"Histories in '{shown}': got none{such_as}, expected at least one; correct the file"
        )
    facts = Facts(
        path=shown,
        form=form,
        users=users,
        bad=count,
        bad_example=example,
        replaced=replaced[1] if replaced else 0,
        replaced_example=replaced[0] if replaced else "",
    )
    write_json(folder / FACTS, dataclasses.asdict(facts))
    return facts


@contextlib.contextmanager
def _readable(path: Path, shown: str, reading: Reading, folder: Path) -> Iterator[Path]:
    """The file as UTF-8; Parquet as it is."""
    try:
        with path.open("rb") as f:
            start = f.read(4)
    except OSError as error:
        raise UserError(f"Histories in '{shown}': {error.strerror}; correct --histories") from error
    if start == b"PAR1" or not start:
        yield path
        return
    with as_utf8(check_source(path, whole=False), reading.encoding or "utf-8", folder) as source:
        yield source.content


def _write_lists(rows: Rows, folder: Path, shown: str) -> tuple[int, str]:
    """(rows left out, why the first one was); writes ROWS."""
    bad: collections.Counter[str] = collections.Counter()
    first = ""
    with pq.ParquetWriter(folder / ROWS, _WIDE) as writer:
        while batch := list(itertools.islice(rows, _BATCH)):
            good = []
            for line, row in batch:
                if isinstance(row, _Bad):
                    bad["rows"] += 1
                    first = first or f"'{shown}, row {line}': {row.problem}"
                else:
                    good.append((line, row))
            lines = [line for line, _ in good]
            # Without a user's name, a history is called by its line.
            users = [str(line) if row.user is None else row.user for line, row in good]
            items = [row.items for _, row in good]
            writer.write_batch(pa.record_batch([lines, users, items], schema=_WIDE))
    return bad.total(), first


def read(folder: Path, facts: Facts) -> Iterator[History]:
    """The histories that `take_in` left in a folder, in the order of the file."""
    if facts.form != "long":
        for row in _stored(folder / (EVENTS if facts.replaced else ROWS)):
            yield History(row["user"], row["items"], f"{facts.path}, row {row['line']}")
        return
    events = _stored(folder / EVENTS)
    for user, rows in itertools.groupby(events, key=lambda row: row["user"]):
        yield History(user, [row["item"] for row in rows], f"{facts.path}, user {user}")


def _stored(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            yield from batch.to_pylist()


def _keep_last(connection: duckdb.DuckDBPyConnection, folder: Path) -> tuple[int, tuple]:
    """(users, nothing or (the first user with several rows, rows too many)); writes EVENTS then."""
    rows = connection.read_parquet(str(folder / ROWS))
    rows.create_view("rows")
    connection.execute(
        "create temp table last as select user, max(line) as line, count(*) as n, min(line) as "
        "first from rows group by user"
    )
    users, total = connection.execute("select count(*), sum(n) from last").fetchall()[0]
    if not users or total == users:
        return users, ()
    (example,) = connection.execute(
        "select user from last where n > 1 order by first limit 1"
    ).fetchall()[0]
    _copy(
        connection,
        "select rows.line, rows.user, items from rows join last using (line) order by line",
        folder,
    )
    return users, (example, int(total - users))


def _read_events(
    events: _Events, folder: Path, shown: str, reading: Reading, connection
) -> tuple[int, BadRecords]:
    """(users, rows left out); writes EVENTS: users in order of appearance, events oldest first.

    Rows are read and judged as `prepare` reads interactions.
    """
    roles = {role: (name,) for role, name in events.columns.items() if name is not None}
    if "time" not in roles:
        reading = dataclasses.replace(reading, order=BY_FILE)
    ending = {"parquet": ".parquet", "json": ".jsonl", "text": ".csv"}[events.container]
    layout = custom_format(None, reading).interactions[ending]
    layout = dataclasses.replace(
        layout,
        columns=roles,
        needed=tuple(roles),
        delimiter=events.separator or layout.delimiter,
    )
    source = dataclasses.replace(check_source(events.path), path=events.path)
    spec = custom_spec("histories", [str(events.path)])
    spec = dataclasses.replace(
        spec, format=Format({extension(events.path).lower(): layout}, {}), title=shown
    )
    bad = BadRecords(counted=True)
    read_interactions(connection, spec, [source], bad, folder)
    _copy(
        connection,
        """select line, user_id as user, item_id as item from raw_interactions join (
            select user_id, min(line) as first from raw_interactions group by user_id
        ) using (user_id) order by first, time, line""",
        folder,
    )
    (users,) = connection.execute(
        "select count(distinct user_id) from raw_interactions"
    ).fetchall()[0]
    return users, bad


def _copy(connection: duckdb.DuckDBPyConnection, query: str, folder: Path) -> None:
    path = str(folder / EVENTS).replace("'", "''")
    connection.execute(f"copy ({query}) to '{path}' (format parquet)")


def _open(
    path: Path, shown: str, named: Mapping[str, str], reading: Reading
) -> tuple[str, "Rows | _Events"]:
    """(form, rows or events) of a file, by its content."""
    with path.open("rb") as f:
        is_parquet = f.read(4) == b"PAR1"
    if is_parquet:
        return _open_parquet(path, shown, named)
    lines = open_lines(path)
    first = next(((line, text) for line, text in lines if text.strip()), None)
    if first is None:
        return "text", iter(())
    begin = first[1].strip()
    if begin.startswith(b"{"):
        return _open_json(path, shown, named)
    try:
        header = begin.decode()
    except UnicodeDecodeError:
        header = ""
    separator = reading.separator_text() or max(_SEPARATORS, key=header.count)
    columns = next(csv.reader([header], delimiter=separator)) if len(separator) == 1 else []
    columns = columns or header.split(separator)
    if _find(columns, "user", named) is not None:
        return _open_csv(path, shown, columns, separator, named)
    endings = (".csv", ".tsv")
    if named or shown.removesuffix(".gz").removesuffix(".zst").lower().endswith(endings):
        raise _no_column(shown, columns, "user", named)
    return "text", _text_rows(path)


def _find(columns: Sequence[str], role: str, named: Mapping[str, str]) -> str | None:
    """The column of a role, or None."""
    wanted = (named[role],) if role in named else ROLES[role]
    of = {column.strip().lower(): column for column in reversed(columns)}
    return next((of[name.lower()] for name in wanted if name.lower() in of), None)


def _no_column(shown: str, columns: Sequence[str], role: str, named: Mapping) -> UserError:
    wanted = named.get(role) or " or ".join(ROLES[role])
    return UserError(
        f"Histories in '{shown}': got the columns {', '.join(map(str, columns))}, expected one "
        f"called {wanted}; name it with --columns {role}=NAME"
    )


def _roles(
    columns: Sequence[str], shown: str, named: Mapping[str, str]
) -> tuple[str, dict[str, str | None]]:
    """(form, columns by role) of a file with named columns."""
    found = {role: _find(columns, role, named) for role in ROLES}
    for role in named:
        if found[role] is None:
            raise _no_column(shown, columns, role, named)
    if found["items"] is None and found["item"] is None:
        raise UserError(
            f"Histories in '{shown}': got the columns {', '.join(map(str, columns))}, expected "
            f"one of {', '.join((*ROLES['items'], *ROLES['item']))}; name it with --columns "
            "items=NAME (a list a user) or --columns item=NAME (an event a row)"
        )
    is_long = found["items"] is None or ("item" in named and "items" not in named)
    if is_long and found["user"] is None:
        raise _no_column(shown, columns, "user", named)
    return ("long" if is_long else "wide"), found


def _of_event(roles: Mapping[str, str | None]) -> dict[str, str | None]:
    return {role: roles[role] for role in ("user", "item", "time")}


def _row_of(values: Mapping[str, Any], roles: Mapping[str, str | None]) -> _Row | _Bad:
    """The row of a file with named columns."""

    def value(role: str) -> Any:
        column = roles[role]
        return None if column is None else values.get(column)

    user = _name(value("user"))
    if roles["user"] is not None and not user:
        return _Bad(f"got {_shown(value('user'))}, expected a user")
    items = value("items")
    if items is None or _is_nan(items):
        return _Row(user, [])
    if isinstance(items, str):
        try:
            return _Row(user, split_names(items))
        except UserError as error:
            return _Bad(str(error))
    if not isinstance(items, list):
        return _Bad(f"got {_shown(items)}, expected a list of items")
    names = [_name(item) for item in items]
    if None in names:
        return _Bad(f"got {_shown(items[names.index(None)])}, expected an item")
    return _Row(user, [name for name in names if name is not None])


def _name(value: Any) -> str | None:
    """An id or title as text; None for what is neither text nor a whole number."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    # Whole numbers become fractions where a column has gaps.
    return str(int(value)) if value == int(value) else None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else shorten(value, 60)


def _text_rows(path: Path) -> Rows:
    for line, raw in open_lines(path):
        row: _Row | _Bad
        try:
            row = _Row(None, split_names(raw.decode()))
        except UnicodeDecodeError as error:
            row = _not_utf8(error)
        except UserError as error:
            row = _Bad(str(error))
        yield line, row


def _not_utf8(error: UnicodeDecodeError) -> _Bad:
    return _Bad(f"got byte 0x{error.object[error.start]:02x}, expected UTF-8 text")


def _open_json(path: Path, shown: str, named: Mapping[str, str]) -> tuple[str, "Rows | _Events"]:
    def objects() -> Iterator[tuple[int, dict | _Bad]]:
        for line, raw in open_lines(path):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw)
            except (ValueError, RecursionError) as error:
                yield line, _Bad(f"got {shorten(raw, 60)}, expected a JSON object: {error}")
                continue
            is_object = isinstance(value, dict)
            yield line, value if is_object else _Bad(f"got {_shown(value)}, expected an object")

    first = next((value for _, value in objects() if isinstance(value, dict)), None)
    if first is None:
        return "wide", ((line, value) for line, value in objects() if isinstance(value, _Bad))
    form, roles = _roles(list(first), shown, named)
    if form == "long":
        return form, _Events(path, "json", _of_event(roles))

    def rows() -> Rows:
        for line, value in objects():
            yield line, value if isinstance(value, _Bad) else _row_of(value, roles)

    return form, rows()


def _open_csv(
    path: Path, shown: str, columns: Sequence[str], separator: str, named: Mapping[str, str]
) -> tuple[str, "Rows | _Events"]:
    form, roles = _roles(columns, shown, named)
    if form == "long":
        return form, _Events(path, "text", _of_event(roles), separator)

    def rows() -> Rows:
        undecoded: list[tuple[int, _Bad]] = []

        def lines() -> Iterator[str]:
            for line, raw in open_lines(path):
                try:
                    yield raw.decode() + "\n"
                except UnicodeDecodeError as error:
                    undecoded.append((line, _not_utf8(error)))

        reader, header = csv.reader(lines(), delimiter=separator), True
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                # Where the file has lines that are not text, the reader does not see them.
                yield reader.line_num + len(undecoded), _Bad(f"got {error}, expected CSV")
                continue
            number = reader.line_num + len(undecoded)
            if not fields:
                continue
            if header:
                header = False
            elif len(fields) != len(columns):
                problem = f"got {len(fields)} fields, expected {len(columns)} as the header"
                yield number, _Bad(f"{problem}; quote items that are separated by commas")
            else:
                yield number, _row_of(dict(zip(columns, fields)), roles)
        yield from undecoded

    return form, rows()


def _open_parquet(path: Path, shown: str, named: Mapping[str, str]) -> tuple[str, "Rows | _Events"]:
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"Histories in '{shown}': got {str(error).splitlines()[0]}, expected a Parquet file; "
            "write it again"
        ) from error
    form, roles = _roles(names, shown, named)
    if form == "long":
        return form, _Events(path, "parquet", _of_event(roles))

    def rows() -> Rows:
        wanted = [column for column in roles.values() if column is not None]
        line = itertools.count(1)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=wanted):
                for values in batch.to_pylist():
                    yield next(line), _row_of(values, roles)

    return form, rows()
