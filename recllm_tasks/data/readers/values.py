"""What the texts of an interaction mean: one rule in SQL, whoever read them.

A row is judged by its own texts alone, so what stands beside it never changes the verdict.
"""

import calendar
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence

import duckdb

from recllm_tasks.data.formats import BY_FILE, UNIT_BOUNDARY, UNITS, Layout
from recllm_tasks.data.readers.record import BLANKS, Problem
from recllm_tasks.data.sources import shorten
from recllm_tasks.errors import UserError

_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
_HOUR = r"([01]?\d|2[0-3])"
# ISO 8601, and what databases and spreadsheets make of it.
_DATE = (
    r"(\d{4}-\d{1,2}-\d{1,2}|\d{4}/\d{1,2}/\d{1,2})"
    rf"([ T]{_HOUR}:\d{{2}}(:\d{{2}}(\.\d{{1,9}})?)? ?(Z|UTC|GMT|[+-]\d{{2}}(:?\d{{2}})?)?)?"
)
_BARE_DATE = r"(19|20)\d{6}(\.0*)?"
_FLOAT32_MAX = 3.4e38

# Orders of day, month and year that errors suggest, first with slashes.
_DAY_MONTH = ("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")

# Trimming costs more than all else, so what is plain is judged without: a number's cast strips
# blanks itself, and what starts with "!" or a later character is not blank.
_SQL = """
with texts as (
    select line, user_id, item_id, time_text, rating_text, {typed} from ({relation})
), numbers as (
    select *, {time_number} as time_value, {rating_number} as rating_value from texts
), judged as (
    select line, user_id, item_id, {time} as time, {absent} as is_absent, rating_value
    from numbers
)
select line, user_id, item_id, time,
    case when not is_absent then rating_value end as rating,
    coalesce(case when user_id >= '!' then true else trim(user_id, '{blanks}') <> '' end, false)
        as user_ok,
    coalesce(case when item_id >= '!' then true else trim(item_id, '{blanks}') <> '' end, false)
        as item_ok,
    coalesce(time >= 0 and time < {boundary}, false) as time_ok,
    is_absent or coalesce(
        rating_value >= {worst}::float and rating_value <= {best}::float, false) as rating_ok
from judged
"""
# What relations of text do not have.
_UNTYPED = "null::double as time_number, null::double as moment, null::float as rating_number"


def check_time_format(time_format: str) -> None:
    """Raises `UserError` for a pattern that DuckDB does not know."""
    try:
        duckdb.execute("select try_strptime('', ?)", [time_format])
    except duckdb.Error as error:
        raise UserError(
            f"time_format: got '{time_format}' ({str(error).splitlines()[0]}), expected a pattern "
            "of strptime such as '%d/%m/%Y' or '%m/%d/%Y %H:%M'; correct --time_format"
        ) from error


def is_typed(layout: Layout) -> bool:
    """Whether typed columns may be judged as they are, since nothing is said about their texts."""
    return layout.time_format is None and not layout.unrated and layout.order != BY_FILE


def checked(relation: str, layout: Layout, typed: bool = False) -> str:
    """SQL over `relation`: `line`, `user_id`, `item_id`, `time` (double, seconds), `rating`
    (float, null for none), and `user_ok`, `item_ok`, `time_ok`, `rating_ok`.

    A `typed` relation has values besides its texts: `time_number` (double, in the layout's unit),
    `moment` (double, seconds) and `rating_number` (float).
    """
    worst, best = layout.ratings
    rating = _number("rating_text", layout, "float")
    blank = f"(rating_text is null or trim(rating_text, '{BLANKS}') = '')"
    absent = f"case when rating_value is null then {blank} else false end"
    if layout.unrated:
        numbers = [word for word in layout.unrated if re.fullmatch(_NUMBER, word, re.ASCII)]
        words = ", ".join(_quote(word) for word in layout.unrated if word not in numbers)
        listed = f"lower(trim(rating_text, '{BLANKS}')) in ({words})" if words else "false"
        known = f"rating_value in ({', '.join(numbers)})" if numbers else "false"
        absent = f"case when rating_value is null then {blank} or {listed} else {known} end"
    return _SQL.format(
        relation=relation,
        typed="time_number, moment, rating_number" if typed else _UNTYPED,
        time_number=f"coalesce(time_number, {_number('time_text', layout, 'double')})",
        rating_number=f"coalesce(rating_number, {rating})",
        time=_time(layout),
        absent=absent,
        blanks=BLANKS,
        boundary=UNIT_BOUNDARY,
        worst=max(worst, -_FLOAT32_MAX),
        best=min(best, _FLOAT32_MAX),
    )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _number(column: str, layout: Layout, kind: str) -> str:
    """A text as a number, null if it is none: DuckDB's cast, without `1_0`, `nan` and `inf`."""
    text = column
    if layout.decimal != ".":
        text = f"replace({column}, {_quote(layout.decimal)}, '.')"
    number = f"try_cast({text} as {kind})"
    return f"case when not contains({text}, '_') and isfinite({number}) then {number} end"


def _time(layout: Layout) -> str:
    if layout.order == BY_FILE:
        return "line::double"
    text = f"trim(time_text, '{BLANKS}')"
    if layout.time_format:
        return f"epoch(try_strptime({text}, {_quote(layout.time_format)}))"
    scale = UNITS[layout.unit or "seconds"]
    in_unit = f"""case when time_value >= {_least(scale)} and time_value < {UNIT_BOUNDARY * scale}
        then time_value / {scale} end"""
    if layout.unit is None:
        day = "try_strptime(time_value::bigint::varchar, '%Y%m%d')"
        in_unit = f"""case when time_value >= 19000101 and time_value < 21000000
            and time_value = floor(time_value) and {day} is not null then null else {in_unit} end"""
    # Written as DuckDB's cast takes it: an offset follows at once.
    date = f"regexp_replace({text}, ' ?(Z|UTC|GMT)$', '+00')"
    date = rf"regexp_replace({date}, ' ([+-]\d{{2}}(:?\d{{2}})?)$', '\1')"
    return f"""case when moment is not null then moment when time_value is not null then {in_unit}
        when regexp_full_match({text}, '{_DATE}') then epoch(try_cast({date} as timestamptz)) end"""


def _least(scale: int) -> int:
    return 0 if scale == 1 else UNIT_BOUNDARY * scale // 1000


def problem_of(
    values: Mapping[str, object],
    verdict: Mapping[str, bool],
    layout: Layout,
    times: Sequence[str] = (),
) -> Problem:
    """What is wrong with a refused interaction: the first of its values, in words.

    Args:
      values: by role, as they stand in the file.
      verdict: by role, whether the value is right.
      layout: of its file.
      times: some of the file, from which an error tells how they are written.
    """
    role = next(role for role in ("user", "item", "time", "rating") if not verdict[role])
    value = values.get(role)
    text = str(value if value is not None else "").strip(BLANKS)
    field = "|".join(layout.columns.get(role, (role,)))
    got = shorten(value) if role in values else "nothing"
    if role in ("user", "item"):
        is_text = isinstance(value, str) and value.strip(BLANKS)
        return Problem(field, got, "valid Unicode characters" if is_text else "a non-empty string")
    expected, fix = (
        _time_help(text, layout, times) if role == "time" else _rating_help(text, layout)
    )
    return Problem(field, got, expected, fix)


_NO_RATING = ("nan", "null", "none", "na", "n/a", "\\n", "-")


def _rating_help(text: str, layout: Layout) -> tuple[str, str]:
    worst, best = layout.ratings
    in_range = f", from {worst:g} to {best:g}" if best < _FLOAT32_MAX else ""
    fix = ""
    if text.lower() in _NO_RATING or re.fullmatch(_NUMBER, text):
        fix = f"give --unrated '{text}' if it means that there is no rating"
    if layout.decimal == "." and re.fullmatch(r"[+-]?\d+,\d+", text):
        fix = "give --decimal , for numbers with a comma"
    elif re.fullmatch(r"[+-]?\d+\.\d+", text) and layout.decimal == ",":
        fix = "leave out --decimal for numbers with a point"
    return f"a number of stars{in_range}", fix


def _time_help(text: str, layout: Layout, times: Sequence[str]) -> tuple[str, str]:
    if layout.time_format:
        others = fitting_formats([text, *times]) or fitting_formats([text])
        fits = any(_reading(each, layout.time_format) for each in times)
        fix = "" if fits else f"correct --time_format{', such as ' * bool(others)}"
        fix += "" if fits else " or ".join(f"'{format}'" for format in others)
        return f"a time written as '{layout.time_format}', from 1970 on", fix
    expected = f"{layout.unit or 'seconds'} since 1970, or a date such as 2020-12-31 or "
    expected += "2020-12-31 23:59:00+01:00"
    if not text:
        return expected, "give --order file if the lines are in the order of time"
    if re.fullmatch(_NUMBER, text):
        return _number_help(text, layout, expected)
    formats = fitting_formats([text, *times]) or fitting_formats([text])
    if len(formats) > 1:
        readings = [[_reading(each, format) for format in formats] for each in (text, *times)]
        shown = next((found for found in readings if len(set(found)) > 1), readings[0])
        choices = " or ".join(
            f"--time_format '{format}' ({reading})" for format, reading in zip(formats, shown)
        )
        return expected, f"say which is the day and which the month: give {choices}"
    if formats:
        return expected, f"give --time_format '{formats[0]}' ({_reading(text, formats[0])})"
    return expected, "give --time_format, such as '%d.%m.%Y %H:%M'"


def _number_help(text: str, layout: Layout, expected: str) -> tuple[str, str]:
    number = float(text)
    if layout.unit is None and re.fullmatch(_BARE_DATE, text):
        seconds = f"--time_unit seconds ({_day(number)})"
        return (
            f"{expected}; it reads as a date",
            f"give --time_format '%Y%m%d' ({_reading(text[:8], '%Y%m%d')}), or {seconds}",
        )
    for format in ("%Y%m%d%H%M%S", "%Y%m%d%H%M"):
        reading = _reading(text, format) if re.fullmatch(r"(19|20)\d{10}(\d\d)?", text) else None
        if reading and len(text) == len("YYYYmmddHHMMSS") - 2 * (format[-1] == "M"):
            return expected, f"give --time_format '{format}' ({reading})"
    for unit, scale in UNITS.items():
        if unit != (layout.unit or "seconds") and _least(scale) <= number < UNIT_BOUNDARY * scale:
            return (
                f"{expected}, before 2100 (in {unit} it would be {_day(number / scale)})",
                f"give --time_unit {unit}",
            )
    return f"{expected}, from 1970 to 2100", ""


def _day(seconds: float) -> str:
    day = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return day.date().isoformat()


def fitting_formats(texts: Iterable[str]) -> list[str]:
    """Formats with the year last, or a month by name, that all of the texts have."""
    texts = list(texts)
    formats = []
    for mark in "/.-":
        for order in _DAY_MONTH:
            formats += [order.replace("/", mark) + clock for clock in _CLOCKS]
    for order in ("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y"):
        formats += [order + clock for clock in _CLOCKS]
    return [format for format in formats if all(_reading(text, format) for text in texts)]


def _reading(text: str, format: str) -> str | None:
    """The moment as people read it, or None if the text is not written so."""
    try:
        moment = datetime.datetime.strptime(text, format)
    except ValueError:
        return None
    return f"{moment.day} {calendar.month_abbr[moment.month]} {moment.year}"
