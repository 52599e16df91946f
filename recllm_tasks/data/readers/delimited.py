"""Text with fields between delimiters: CSV, TSV, RecBole's atomic files, MovieLens's `::`."""

import collections
import csv
import io
from collections.abc import Iterator

from recllm_tasks.data.formats import Layout
from recllm_tasks.data.readers.json_lines import decode
from recllm_tasks.data.readers.record import DATE, Problem, Record
from recllm_tasks.data.sources import MAX_LINE_BYTES, SourceFile, open_lines, shorten
from recllm_tasks.errors import UserError

_SQL = """
with fields as (
    select row_number() over () as line, {user} as user_id, {item} as item_id,
        trim({time}, ' \t') as time_text, nullif(trim({rating}, ' \t'), '') as rating_text
    from read_csv(?, compression = ?, delim = ?, quote = ?, escape = ?, header = {header},
        encoding = ?, auto_detect = false, max_line_size = {max_line}, columns = {columns})
)
select line, user_id, item_id, try_cast(time_text as double) as number,
    case when regexp_full_match(time_text, '{date}')
        then epoch(try_cast(time_text as timestamptz)) end as date,
    try_cast(rating_text as float) as rating,
    rating_text is null or rating is not null as rating_known
from fields
"""

_QUOTE = '"'
csv.field_size_limit(MAX_LINE_BYTES)


def relation(source: SourceFile, layout: Layout) -> tuple[str, list]:
    """SQL over the file, and its arguments; see the package.

    DuckDB fails if a line has more or fewer fields than the first one.
    """
    names = column_names(source, layout)

    def field(role: str) -> str:
        name = layout.find(role, names)
        return "null::varchar" if name is None else f"c{names.index(name)}"

    sql = _SQL.format(
        **{role: field(role) for role in ("user", "item", "time", "rating")},
        header=str(layout.header).lower(),
        max_line=MAX_LINE_BYTES,
        date=DATE,
        columns="{" + ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(names))) + "}",
    )
    quote = _QUOTE if layout.quoted else ""
    return sql, [
        str(source.path),
        source.compression,
        layout.delimiter,
        quote,
        quote,
        layout.encoding,
    ]


def column_names(source: SourceFile, layout: Layout) -> list[str]:
    """Column names in file order; "1", "2" and so on without a header.

    RecBole's `user_id:token` is called `user_id`. Raises `UserError` if a needed one is missing.
    """
    line, raw = next((line, raw) for line, raw in open_lines(source.path) if raw.strip())
    text, problem = decode(raw, layout.encoding)
    fields = None if problem else _split(text, layout)
    if fields is None:
        fields, got = [], f"{problem or shorten(text)}"
    elif layout.header:
        fields = [field.split(":")[0].strip() for field in fields]
        got = f"the columns {shorten(', '.join(fields))}"
    else:
        fields = [str(place + 1) for place in range(len(fields))]
        got = f"{len(fields)} fields, {shorten(text)}"
    for role in layout.needed:
        names = layout.columns[role]
        found = [name for name in names if name in fields]
        if not found or fields.count(found[0]) > 1:
            number = "field number " * (not layout.header)
            raise UserError(
                f"columns of '{source.path}', line {line}: got {got}, expected {number}"
                f"{' or '.join(names)} once, for the {role}; name the columns with --columns "
                f"({role}=…), or correct the first line"
            )
    return fields


def _split(text: str, layout: Layout) -> list[str] | None:
    if not layout.quoted:
        return text.split(layout.delimiter)
    try:
        rows = list(
            csv.reader(io.StringIO(text, newline=""), delimiter=layout.delimiter, strict=True)
        )
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def records(source: SourceFile, layout: Layout) -> Iterator[Record]:
    """Every record after the header; a quoted one may span lines, up to `MAX_LINE_BYTES`."""
    names = column_names(source, layout)
    roles = {role: layout.find(role, names) for role in layout.columns}
    places = {role: names.index(name) for role, name in roles.items() if name is not None}
    flags = {names.index(name): flag for name, flag in layout.flags.items() if name in names}
    header = layout.header
    for line, text, fields, problem in _fields(source, layout, len(names)):
        if header:
            header = False
            continue
        if problem:
            yield Record(line, text, {}, problem)
            continue
        values: dict[str, object] = {role: fields[place] for role, place in places.items()}
        if flags:
            values["categories"] = [flag for place, flag in flags.items() if fields[place] == "1"]
        yield Record(line, text, values)


def _fields(
    source: SourceFile, layout: Layout, width: int
) -> Iterator[tuple[int, str, list[str], Problem | None]]:
    """(first line, text, fields, problem) of every record, including the header.

    A record over several lines without exactly `width` fields started with a stray quote.
    """
    # Lines inside an open quote so far, and lines to read again.
    pending: list[tuple[int, str]] = []
    waiting: collections.deque[tuple[int, str]] = collections.deque()
    quoted = size = 0
    lines = open_lines(source.path)
    while True:
        if waiting:
            line, text = waiting.popleft()
        else:
            line, raw = next(lines, (0, b""))
            text, problem = decode(raw, layout.encoding)
            if problem:
                yield line, text, [], problem
                continue
        if line and not text.strip() and not pending:
            continue
        if line:
            pending.append((line, text))
            quoted, size = quoted + text.count(_QUOTE), size + len(text)
            is_open = layout.quoted and quoted % 2 == 1
            if is_open and size <= MAX_LINE_BYTES:
                continue
        elif not pending:
            return
        else:
            is_open = True
        (first, text), *others = pending
        pending, quoted, size = [], 0, 0
        whole = "\n".join([text, *(text for _, text in others)])
        fields = None if is_open else _split(whole, layout)
        # As in DuckDB, a delimiter at the end of a line does not start a field.
        if fields and len(fields) == width + 1 and not fields[-1]:
            fields.pop()
        if is_open or (others and (fields is None or len(fields) != width)):
            # The quote is never closed: its line is bad, and the lines after it are read again.
            waiting.extendleft(reversed(others))
            yield first, text, [], Problem("the line", shorten(text), "a closing quote")
            continue
        problem = None
        if fields is None:
            problem = Problem("the line", shorten(whole), "quotes around whole fields")
        elif len(fields) != width:
            got = f"{len(fields)} fields, {shorten(whole)},"
            problem = Problem("the line", got, f"{width}, as in the first line")
        yield first, whole, fields or [], problem
