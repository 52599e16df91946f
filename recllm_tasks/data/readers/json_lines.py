"""JSON lines: one object per line."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator

from recllm_tasks.data.formats import INTERACTION_ROLES, Layout, missing_column_fix
from recllm_tasks.data.readers.record import Problem, Record, identifier
from recllm_tasks.data.sources import MAX_LINE_BYTES, SourceFile, open_lines, shorten

_SQL = """
with parsed as (
    select row_number() over () as line, json_type(json) as kind,
        json_extract_string(json, ?) as v, json_type(json, ?) as t
    from read_ndjson_objects(?, compression = ?, maximum_object_size = {size})
)
select line, {user} as user_id, {item} as item_id, {time} as time_text, {rating} as rating_text
from parsed
"""


class _Number(str):
    """A JSON number as it stands in the file."""


def settled(source: SourceFile, layout: Layout) -> Layout:
    """The layout: nothing has to be found out."""
    del source
    return layout


def relation(source: SourceFile, layout: Layout) -> tuple[str, list]:
    """SQL over the file, and its arguments; see the package. DuckDB fails at a line without JSON.

    Of several keys of a role, each line uses the first that has a value.
    """
    names = [name for role in INTERACTION_ROLES for name in layout.columns.get(role, ())]
    paths = ["/" + name.replace("~", "~0").replace("/", "~1") for name in names]
    values: dict[str, str] = {}
    for role in INTERACTION_ROLES:
        places = [names.index(name) + 1 for name in layout.columns.get(role, ())]
        is_id = role in ("user", "item")
        is_ok = "kind = 'OBJECT' and t[{0}] in ('VARCHAR', 'UBIGINT', 'BIGINT')"
        value = f"case when {is_ok} then v[{{0}}] end" if is_id else "v[{0}]"
        found = [value.format(n) for n in places]
        values[role] = f"coalesce({', '.join(found)}, null)" if found else "null::varchar"
    sql = _SQL.format(size=MAX_LINE_BYTES + 2, **values)
    return sql, [paths, paths, str(source.content), source.compression]


def interactions(source: SourceFile, layout: Layout) -> Iterator[Record]:
    """Every non-blank line, with texts by role."""
    for line, raw in open_lines(source.content):
        if not raw.strip():
            continue
        text, problem = decode(raw, layout)
        found = None if problem else _parse(text, False, numbers=_Number)
        if problem is None and found is None:
            problem = Problem("the line", shorten(text), "a JSON object")
        values = {}
        for role, names in layout.columns.items():
            texts = (_as_text(role, (found or {}).get(name)) for name in names)
            values[role] = next((text for text in texts if text is not None), None)
            if found is not None and role in layout.needed and found.keys().isdisjoint(names):
                expected = f"the {role}, in a line with the keys {shorten(', '.join(found))}"
                fix = missing_column_fix(layout, list(found))
                problem = problem or Problem("|".join(names), "nothing", expected, fix)
        yield Record(line, text, values, problem)


def as_written(record: Record, layout: Layout) -> dict[str, object]:
    """The values of a refused interaction by role, for errors."""
    return _by_role(_parse(record.text, False) or {}, layout)


def _as_text(role: str, value: object) -> str | None:
    if role in ("user", "item"):
        if isinstance(value, _Number):
            return identifier(int(value)) if _WHOLE.fullmatch(value) else None
        return value if isinstance(value, str) and _can_be_encoded(value) else None
    if value is None:
        return None
    if isinstance(value, str):
        return value if _can_be_encoded(value) else repr(value)
    return json.dumps(value)


_WHOLE = re.compile(r"-?\d{1,20}", re.ASCII)


def _can_be_encoded(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def records(
    source: SourceFile, layout: Layout, skip: Callable[[str], bool] = lambda text: False
) -> Iterator[Record]:
    """Every non-blank line, except those that `skip` accepts, which are not parsed."""
    with warnings.catch_warnings():
        # Python warns about escapes in the literals of 2014.
        warnings.simplefilter("ignore")
        for line, raw in open_lines(source.content):
            if not raw.strip():
                continue
            text, problem = decode(raw, layout)
            if problem is None and skip(text):
                continue
            found = None if problem else _parse(text, layout.literals)
            if problem is None and found is None:
                kinds = "a JSON object" + " or a Python dict literal" * layout.literals
                problem = Problem("the line", shorten(text), kinds)
            yield Record(line, text, _by_role(found or {}, layout), problem)


def decode(raw: bytes, layout: Layout) -> tuple[str, Problem | None]:
    """The text of a line and its problem, if any; invalid bytes become `\\\\xe9`."""
    text = raw.decode("utf-8", "backslashreplace")
    if len(raw) > MAX_LINE_BYTES:
        return text, Problem(
            "the line",
            f"more than {MAX_LINE_BYTES:,} bytes, {shorten(text)}",
            f"at most {MAX_LINE_BYTES:,} bytes",
        )
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        fix = "correct --encoding"
        if layout.encoding.lower() in ("utf-8", "ascii"):
            fix = f"give --encoding {_likely(raw)} if the file was written so"
        return text, Problem("the line", got, f"{layout.encoding.upper()} text", fix)
    return text, None


def _likely(raw: bytes) -> str:
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _parse(
    text: str, literals: bool, numbers: Callable[[str], object] | None = None
) -> dict | None:
    """The object in JSON or in a dict literal, else None. The first of equal keys counts.

    `numbers` makes a value of a number's text.
    """
    hooks = {} if numbers is None else dict.fromkeys(_NUMBER_HOOKS, numbers)
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs)), **hooks)
    except (ValueError, RecursionError):
        if not literals:
            return None
        try:
            found = ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            return None
    return found if isinstance(found, dict) else None


_NUMBER_HOOKS = ("parse_int", "parse_float", "parse_constant")


def _by_role(found: dict, layout: Layout) -> dict[str, object]:
    values = {}
    known = {name for name, value in found.items() if value}
    for role in layout.columns:
        name = layout.find(role, known) or layout.find(role, found)
        if name is not None:
            values[role] = found[name]
    return values
