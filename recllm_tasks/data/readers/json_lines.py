"""JSON lines: one object per line."""

import ast
import json
import warnings
from collections.abc import Callable, Iterator

from recllm_tasks.data.formats import INTERACTION_ROLES, Layout
from recllm_tasks.data.readers.record import DATE, Problem, Record
from recllm_tasks.data.sources import MAX_LINE_BYTES, SourceFile, open_lines, shorten

_SQL = f"""
with parsed as (
    select row_number() over () as line, json_type(json) as kind,
        json_extract_string(json, ?) as v, json_type(json, ?) as t
    from read_ndjson_objects(?, compression = ?, maximum_object_size = {MAX_LINE_BYTES + 2})
)
select line,
    case when kind = 'OBJECT' and t[1] in ('VARCHAR', 'UBIGINT', 'BIGINT') then v[1] end as user_id,
    case when t[2] in ('VARCHAR', 'UBIGINT', 'BIGINT') then v[2] end as item_id,
    case when t[3] in ('UBIGINT', 'BIGINT', 'DOUBLE') then try_cast(v[3] as double) end as number,
    case when t[3] = 'VARCHAR' and regexp_full_match(v[3], '{DATE}')
        then epoch(try_cast(v[3] as timestamptz)) end as date,
    case when t[4] in ('UBIGINT', 'BIGINT', 'DOUBLE') then try_cast(v[4] as float) end as rating,
    t[4] is null or t[4] = 'NULL' or rating is not null as rating_known
from parsed
"""


def relation(source: SourceFile, layout: Layout) -> tuple[str, list]:
    """SQL over the file, and its arguments; see the package. DuckDB fails at a line without JSON.

    If a role has several names, all lines use the one that the first line has.
    """
    raw = next(raw for _, raw in open_lines(source.path) if raw.strip())
    first = list(_parse(raw.decode("utf-8", "replace"), False) or {})
    names = [layout.find(role, first) or layout.columns[role][0] for role in INTERACTION_ROLES]
    paths = ["/" + name.replace("~", "~0").replace("/", "~1") for name in names]
    return _SQL, [paths, paths, str(source.path), source.compression]


def records(
    source: SourceFile, layout: Layout, skip: Callable[[str], bool] = lambda text: False
) -> Iterator[Record]:
    """Every non-blank line, except those that `skip` accepts, which are not parsed."""
    with warnings.catch_warnings():
        # Python warns about escapes in the literals of 2014.
        warnings.simplefilter("ignore")
        for line, raw in open_lines(source.path):
            if not raw.strip():
                continue
            text, problem = decode(raw, layout.encoding)
            if problem is None and skip(text):
                continue
            found = None if problem else _parse(text, layout.literals)
            if problem is None and found is None:
                kinds = "a JSON object" + " or a Python dict literal" * layout.literals
                problem = Problem("the line", shorten(text), kinds)
            yield Record(line, text, _by_role(found or {}, layout), problem)


def decode(raw: bytes, encoding: str) -> tuple[str, Problem | None]:
    """The text of a line and its problem, if any; invalid bytes become `\\\\xe9`."""
    text = raw.decode(encoding, "backslashreplace")
    if len(raw) > MAX_LINE_BYTES:
        return text, Problem(
            "the line",
            f"more than {MAX_LINE_BYTES:,} bytes, {shorten(text)}",
            f"at most {MAX_LINE_BYTES:,} bytes",
        )
    try:
        raw.decode(encoding)
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        return text, Problem("the line", got, f"{encoding.upper()} text")
    return text, None


def _parse(text: str, literals: bool) -> dict | None:
    """The object in JSON or in a dict literal, else None. The first of equal keys counts."""
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    except (ValueError, RecursionError):
        if not literals:
            return None
        try:
            found = ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            return None
    return found if isinstance(found, dict) else None


def _by_role(found: dict, layout: Layout) -> dict[str, object]:
    values = {}
    for role, names in layout.columns.items():
        name = next((name for name in names if found.get(name)), None)
        name = name or next((name for name in names if name in found), None)
        if name is not None:
            values[role] = found[name]
    return values
