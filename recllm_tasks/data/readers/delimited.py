"""Text with fields between delimiters: CSV, TSV, RecBole's atomic files, MovieLens's `::`."""

import collections
import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator

from recllm_tasks.data.formats import (
    INTERACTION_ROLES,
    ITEM_ROLES,
    SEPARATORS,
    Layout,
    missing_column_fix,
    named,
)
from recllm_tasks.data.readers.json_lines import decode
from recllm_tasks.data.readers.record import Problem, Record
from recllm_tasks.data.sources import MAX_LINE_BYTES, SourceFile, open_lines, shorten
from recllm_tasks.errors import UserError

_SQL = """
    select row_number() over () as line, {user} as user_id, {item} as item_id,
        {time} as time_text, {rating} as rating_text
    from read_csv(?, compression = ?, delim = ?, quote = ?, escape = ?, header = {header},
        auto_detect = false, max_line_size = {max_line}, columns = {columns})
"""

_QUOTE = '"'
csv.field_size_limit(MAX_LINE_BYTES)

# Lines from which the separator is found out. Our choice: enough to see it, without
# reading the file twice.
_SNIFFED_LINES = 100


def settled(source: SourceFile, layout: Layout) -> Layout:
    """The layout with the file's separator: that under which its first line has the columns.

    Without names, it is the one that all of the first lines have, as often as the first one does.
    """
    raws = (raw for _, raw in open_lines(source.content) if raw.strip())
    lines = [decode(raw, layout)[0] for raw in itertools.islice(raws, _SNIFFED_LINES)]
    layout = _with_quoting(layout, layout.delimiter or _separator(lines, layout), lines[0])
    if not layout.header:
        return layout
    names = _header_fields(lines[0], layout)
    found = {role: layout.find(role, names) for role in (*INTERACTION_ROLES, *ITEM_ROLES)}
    columns = {role: (name,) for role, name in found.items() if name is not None}
    return dataclasses.replace(layout, columns={**layout.columns, **columns})


def _separator(lines: list[str], layout: Layout) -> str:

    def fitness(delimiter: str) -> tuple[bool, int, int]:
        chosen = _with_quoting(layout, delimiter, lines[0])
        if layout.header:
            fields = _header_fields(lines[0], chosen)
            found = sum(layout.find(role, fields) is not None for role in layout.columns)
            return found > 0, found, len(fields)
        widths = [len(_split(line, chosen) or ()) for line in lines]
        is_even = min(widths) == max(widths)
        return is_even and widths[0] > 1, 0, widths[0] if is_even else 0

    best = max(SEPARATORS, key=lambda delimiter: (fitness(delimiter), delimiter == ","))
    # A line without any separator: the usual one fits the errors best.
    return best if fitness(best)[2] > 1 else ","


def _with_quoting(layout: Layout, delimiter: str, header: str) -> Layout:
    quoted = layout.quoted
    if delimiter == "\t" and quoted is None:
        names = header.split(delimiter) if layout.header else []
        quoted = True if names and all(map(_QUOTED.fullmatch, names)) else None
    elif quoted is None:
        quoted = len(delimiter) == 1
    return dataclasses.replace(layout, delimiter=delimiter, quoted=quoted)


_QUOTED = re.compile(r'"([^"]|"")*"', re.DOTALL)


def _unquoted(text: str, role: str) -> str:
    """A field between tabs, see `Layout.quoted`."""
    if not _QUOTED.fullmatch(text) or (role in _TEXT_ROLES and '""' not in text[1:-1]):
        return text
    return text[1:-1].replace('""', '"')


_TEXT_ROLES = frozenset(ITEM_ROLES) - {"item"}


def _header_fields(text: str, layout: Layout) -> list[str]:
    """Names in the first line; of RecBole's `user_id:token` it is `user_id`."""
    return [field.split(":")[0].strip() for field in _split(text, layout) or ()]


def relation(source: SourceFile, layout: Layout) -> tuple[str, list]:
    """SQL over the file, and its arguments; see the package.

    DuckDB fails if a line has more or fewer fields than the first one.
    """
    names = column_names(source, layout)

    def field(role: str) -> str:
        name = layout.find(role, names)
        if name is None:
            return "null::varchar"
        column = f"c{names.index(name)}"
        if layout.quoted is not None:
            return column
        inside = f"replace({column}[2:-2], '\"\"', '\"')"
        is_quoted = f"regexp_full_match({column}, '{_QUOTED.pattern}')"
        return f"case when {is_quoted} then {inside} else {column} end"

    sql = _SQL.format(
        **{role: field(role) for role in ("user", "item", "time", "rating")},
        header=str(layout.header).lower(),
        max_line=MAX_LINE_BYTES,
        columns="{" + ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(names))) + "}",
    )
    quote = _QUOTE if layout.quoted else ""
    return sql, [str(source.content), source.compression, layout.delimiter, quote, quote]


def column_names(source: SourceFile, layout: Layout) -> list[str]:
    """Column names in file order; "1", "2" and so on without a header.

    RecBole's `user_id:token` is called `user_id`. Raises `UserError` if a needed one is missing.
    """
    line, raw = next((line, raw) for line, raw in open_lines(source.content) if raw.strip())
    text, problem = decode(raw, layout)
    if problem:
        raise UserError(
            f"columns of '{source.path}', line {line}: {problem}; "
            f"{problem.fix or 'correct the first line'}"
        )
    fields = _split(text, layout)
    if fields is None:
        fields, got = [], shorten(text)
    elif layout.header:
        fields = _header_fields(text, layout)
        got = f"the columns {shorten(', '.join(fields))}"
    else:
        fields = [str(place + 1) for place in range(len(fields))]
        got = f"{len(fields)} fields, {shorten(text)}"
    got += f" (separated by {named(layout.delimiter or ',')})"
    for role in layout.needed:
        names = layout.columns[role]
        found = [name for name in names if name in fields]
        if not found or fields.count(found[0]) > 1:
            number = "field number " * (not layout.header)
            raise UserError(
                f"columns of '{source.path}', line {line}: got {got}, expected {number}"
                f"{' or '.join(names)} once, for the {role}; "
                f"{missing_column_fix(layout, fields, text)}"
            )
    return fields


def _split(text: str, layout: Layout) -> list[str] | None:
    if not layout.quoted:
        return text.split(layout.delimiter)
    try:
        rows = list(
            csv.reader(
                io.StringIO(text, newline=""), delimiter=layout.delimiter or ",", strict=True
            )
        )
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def interactions(source: SourceFile, layout: Layout) -> Iterator[Record]:
    """Every record after the header, with texts by role; see `records`."""
    return records(source, layout)


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
        if layout.quoted is None:
            values = {role: _unquoted(fields[place], role) for role, place in places.items()}
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
    is_open, size = False, 0
    lines = open_lines(source.content)
    while True:
        if waiting:
            line, text = waiting.popleft()
        else:
            line, raw = next(lines, (0, b""))
            text, problem = decode(raw, layout)
            if problem:
                yield line, text, [], problem
                continue
        if line and not text.strip() and not pending:
            continue
        if line:
            pending.append((line, text))
            size += len(text)
            is_open = bool(layout.quoted) and _ends_open(text, layout.delimiter or ",", is_open)
            if is_open and size <= MAX_LINE_BYTES:
                continue
        elif not pending:
            return
        (first, text), *others = pending
        pending, size = [], 0
        whole = "\n".join([text, *(text for _, text in others)])
        fields = None if is_open else _split(whole, layout)
        # As in DuckDB, a delimiter at the end of a line does not start a field.
        if fields and len(fields) == width + 1 and not fields[-1]:
            fields.pop()
        if is_open or (others and (fields is None or len(fields) != width)):
            # The quote is never closed: its line is bad, and the lines after it are read again.
            waiting.extendleft(reversed(others))
            is_open = False
            yield first, text, [], Problem("the line", shorten(text), "a closing quote", _NO_QUOTES)
            continue
        problem = None
        if fields is None:
            expected = "quotes around whole fields"
            problem = Problem("the line", shorten(whole), expected, _NO_QUOTES)
        elif len(fields) != width:
            got = f"{len(fields)} fields, {shorten(whole)},"
            fix = f"put a field that holds {named(layout.delimiter or ',')} in quotes"
            problem = Problem("the line", got, f"{width}, as in the first line", fix)
        yield first, whole, fields or [], problem


_NO_QUOTES = "give --quoting none if quotes are text in this file"


def _ends_open(text: str, delimiter: str, is_open: bool) -> bool:
    """Whether a line ends inside a quoted field; `is_open` says whether it starts in one."""
    place = 0
    while True:
        if not is_open:
            # At the start of a field: only there a quote opens one.
            if not text.startswith(_QUOTE, place):
                place = text.find(delimiter, place)
                if place < 0:
                    return False
                place += len(delimiter)
                continue
            place += 1
        while True:
            place = text.find(_QUOTE, place)
            if place < 0:
                return True
            if not text.startswith(_QUOTE, place + 1):
                break
            place += 2
        is_open = False
        place = text.find(delimiter, place + 1)
        if place < 0:
            return False
        place += len(delimiter)


def as_written(record: Record, layout: Layout) -> dict[str, object]:
    """The values of a refused interaction by role, for errors."""
    del layout
    return dict(record.values)
