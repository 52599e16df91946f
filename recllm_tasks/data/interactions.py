"""Interactions: raw files read into one DuckDB table, or an error that names the line.

DuckDB does the reading. It is fast, yet its messages count lines wrongly or not at all; so the
file is read a second time in Python when, and only when, DuckDB met something wrong.
"""

import json
import math
from collections.abc import Callable

import duckdb

from recllm_tasks.data.sources import SourceFile, open_lines, shorten
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

# A problem with one line: (field, the value in words, what was expected).
Problem = tuple[str, str, str]

_AMAZON_SQL = """
create or replace table raw_interactions as
with parsed as (
    select row_number() over () as line, json_type(json) as kind,
        json_extract_string(json, ['$.reviewerID', '$.asin', '$.unixReviewTime', '$.overall']) as v,
        json_type(json, ['$.reviewerID', '$.asin', '$.unixReviewTime', '$.overall']) as t
    from read_ndjson_objects(?, compression = ?)
)
select line, v[1] as user_id, v[2] as item_id, try_cast(v[3] as double) as time,
    try_cast(v[4] as float) as rating,
    coalesce(kind = 'OBJECT' and t[1] = 'VARCHAR' and t[2] = 'VARCHAR'
        and trim(user_id) <> '' and trim(item_id) <> '' and t[3] = 'UBIGINT'
        and (t[4] is null or t[4] = 'NULL'
            or (t[4] in ('UBIGINT', 'BIGINT', 'DOUBLE') and isfinite(rating))), false) as ok
from parsed
"""

_RECBOLE_SQL = """
create or replace table raw_interactions as
select row_number() over () as line, c{user} as user_id, c{item} as item_id,
    try_cast(c{time} as double) as time, try_cast({rating} as float) as rating,
    coalesce(trim(user_id) <> '' and trim(item_id) <> '' and isfinite(time) and time >= 0
        and ({rating} is null or isfinite(rating)), false) as ok
from read_csv(?, delim = '\t', quote = '', escape = '', header = true, auto_detect = false,
    columns = {columns})
"""


def read_interactions(
    connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, source: SourceFile
) -> bool:
    """Reads `source` into the temporary table `raw_interactions` and checks every line.

    Columns: `line` (bigint, order in the file), `user_id`, `item_id` (varchar), `time` (double,
    seconds), `rating` (float, null where the line has none), `ok` (true). Blank lines are skipped.
    Returns whether any line has a rating. Raises `UserError` naming the first bad line.
    """
    if spec.format == "amazon":
        sql, expected = _AMAZON_SQL, source.lines
        compression = "gzip" if source.path.suffix == ".gz" else "uncompressed"
        arguments = [str(source.path), compression]
        find_problem = _amazon_problem
    else:
        columns = _recbole_columns(source)
        sql, expected = _recbole_sql(columns), source.lines - 1
        arguments = [str(source.path)]
        find_problem = _recbole_problem_finder(columns)
    message = ""
    try:
        connection.execute(sql, arguments)
        count, good, rated = connection.execute(
            "select count(*), count(*) filter (ok), count(rating) from raw_interactions"
        ).fetchone()
        if not count == good == expected:
            message = f"{good:,} sound records of {expected:,} lines"
    except duckdb.Error as error:
        message = str(error).split("\n")[0]
    if message:
        _raise_first_problem(source, find_problem)
        raise UserError(
            f"interactions for '{source.path}': got {message}, expected one record a line; "
            "fetch the file again"
        )
    if not count:
        raise UserError(
            f"interactions for '{source.path}': got a header and no line after it, expected one "
            "record a line; fetch the file again"
        )
    return rated > 0


def _raise_first_problem(source: SourceFile, find_problem: Callable[[str, int], Problem | None]):
    for line, raw in open_lines(source.path):
        if not raw.strip():
            continue
        try:
            problem = find_problem(raw.decode("utf-8"), line)
        except UnicodeDecodeError as error:
            problem = (
                "the line",
                f"byte 0x{raw[error.start]:02x} at position {error.start}",
                "UTF-8 text",
            )
        if problem:
            field, got, expected = problem
            raise UserError(
                f"interactions for '{source.path}', line {line}: got {got} in {field}, expected "
                f"{expected}; correct or remove line {line}, or fetch the file again"
            )


def _amazon_problem(text: str, line: int) -> Problem | None:
    del line
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return "the line", shorten(text), "a JSON object"
    if not isinstance(record, dict):
        return "the line", shorten(text), "a JSON object"
    for field in ("reviewerID", "asin"):
        value = record.get(field)
        if not isinstance(value, str) or not value.strip():
            return field, _in_words(record, field), "a string that is not empty"
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return field, shorten(value), "whole Unicode characters"
    time, rating = record.get("unixReviewTime"), record.get("overall")
    if type(time) is not int or not 0 <= time < 2**63:
        return "unixReviewTime", _in_words(record, "unixReviewTime"), "whole seconds since 1970"
    if rating is not None and not (type(rating) in (int, float) and _is_finite(rating)):
        return "overall", shorten(rating), "a number of stars"
    return None


def _in_words(record: dict, field: str) -> str:
    return shorten(record[field]) if field in record else "nothing"


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def _recbole_columns(source: SourceFile) -> list[str]:
    """Names of the columns in the file's order, from a header such as `user_id:token`."""
    _, header = next(open_lines(source.path))
    columns = [name.split(":")[0].strip() for name in header.decode("utf-8", "replace").split("\t")]
    for needed in ("user_id", "item_id", "timestamp"):
        if columns.count(needed) != 1:
            raise UserError(
                f"interactions for '{source.path}', line 1: got the columns {shorten(columns)}, "
                f"expected {needed} once; give the file a header such as "
                "user_id:token, item_id:token, rating:float, timestamp:float (tab separated)"
            )
    return columns


def _recbole_sql(columns: list[str]) -> str:
    rating = f"c{columns.index('rating')}" if "rating" in columns else "null"
    return _RECBOLE_SQL.format(
        user=columns.index("user_id"),
        item=columns.index("item_id"),
        time=columns.index("timestamp"),
        rating=rating,
        columns="{" + ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(columns))) + "}",
    )


def _recbole_problem_finder(columns: list[str]) -> Callable[[str, int], Problem | None]:
    def find_problem(text: str, line: int) -> Problem | None:
        if line == 1:
            return None
        values = text.split("\t")
        if len(values) != len(columns):
            return "the line", f"{len(values)} fields", f"{len(columns)}, as in the header"
        record = dict(zip(columns, values))
        for field in ("user_id", "item_id"):
            if not record[field].strip():
                return field, shorten(record[field]), "a token that is not empty"
        time = _number(record["timestamp"])
        if time is None or time < 0:
            return "timestamp", shorten(record["timestamp"]), "seconds since 1970"
        if record.get("rating") and _number(record["rating"]) is None:
            return "rating", shorten(record["rating"]), "a number of stars"
        return None

    return find_problem


def _number(text: str) -> float | None:
    try:
        return float(text) if _is_finite(float(text)) else None
    except ValueError:
        return None
