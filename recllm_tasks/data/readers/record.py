"""One record as Python reads it, and the problems that it can have."""

import dataclasses
import datetime
import decimal
import math
import re
from collections.abc import Mapping

from recllm_tasks.data.formats import UNIT_BOUNDARY, UNITS, Layout
from recllm_tasks.data.sources import shorten

# ISO 8601 as `relation` and `time_of` both read it.
DATE = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?"

_DATE = re.compile(DATE, re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# An id must have other characters too; DuckDB and Python both strip exactly these.
BLANKS = " \t\n\r\v\f"
_FLOAT32_MAX = 3.4028234e38


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong: `got`, in words, in `field` instead of `expected`."""

    field: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"got {self.got} in {self.field}, expected {self.expected}"


@dataclasses.dataclass(frozen=True)
class Record:
    """A record's first line (from 1), its text, and its values by role or its problem."""

    line: int
    text: str
    values: Mapping[str, object]
    problem: Problem | None = None


@dataclasses.dataclass(frozen=True)
class Interaction:
    user: str
    item: str
    time: float
    rating: float | None


def interaction_of(record: Record, layout: Layout) -> Interaction | Problem:
    """The checked values of an interaction, or its first problem."""
    if record.problem:
        return record.problem
    values = record.values
    ids = {}
    for role in ("user", "item"):
        ids[role] = identifier(values.get(role))
        if ids[role] is None:
            return _problem(layout, values, role, "a non-empty string")
    time = _time(values.get("time"), layout)
    if time is None:
        return _problem(layout, values, "time", f"{layout.unit} since 1970, or a date", layout.unit)
    rating = values.get("rating")
    if rating is not None and not (layout.container == "text" and rating == ""):
        number = _number(rating, layout)
        least, greatest = layout.ratings
        if number is None or not least <= number <= greatest or abs(number) > _FLOAT32_MAX:
            in_range = f", from {least:g} to {greatest:g}" if greatest < _FLOAT32_MAX else ""
            return _problem(layout, values, "rating", f"a number of stars{in_range}")
        return Interaction(ids["user"], ids["item"], time, number)
    return Interaction(ids["user"], ids["item"], time, None)


def identifier(value: object) -> str | None:
    """A raw id: non-blank text that UTF-8 can encode, or a whole number as text; else None."""
    if type(value) is int and -(2**63) <= value < 2**64:
        return str(value)
    if not isinstance(value, str) or not value.strip(BLANKS):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return value


def _problem(
    layout: Layout, values: Mapping[str, object], role: str, expected: str, unit=""
) -> Problem:
    value = values.get(role)
    got = shorten(value) if role in values else "nothing"
    if role in ("user", "item") and isinstance(value, str) and value.strip(BLANKS):
        expected = "valid Unicode characters"
    number = _number(value, layout) if unit else None
    if number is not None and math.isfinite(number):
        if unit == "seconds" and UNIT_BOUNDARY <= number < UNIT_BOUNDARY * 1000:
            expected += f" before 2100 (in milliseconds it would be {_day(number / 1000)})"
        elif unit == "milliseconds" and 0 <= number < UNIT_BOUNDARY:
            expected += f" (in seconds it would be {_day(number)})"
    return Problem("|".join(layout.columns[role]), got, expected)


def _day(seconds: float) -> str:
    day = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return day.date().isoformat()


def _number(value: object, layout: Layout) -> float | None:
    """A number in JSON, Parquet or text, including NaN and infinities; else None."""
    if isinstance(value, str):
        if layout.container != "text" or not _NUMBER.fullmatch(value.strip(BLANKS)):
            return None
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, decimal.Decimal)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _time(value: object, layout: Layout) -> float | None:
    number = _number(value, layout)
    if number is not None:
        scale = UNITS[layout.unit]
        least = 0 if scale == 1 else UNIT_BOUNDARY
        return number / scale if least <= number < UNIT_BOUNDARY * scale else None
    if isinstance(value, str):
        if not _DATE.fullmatch(value.strip(BLANKS)):
            return None
        try:
            value = datetime.datetime.fromisoformat(value.strip(BLANKS))
        except ValueError:
            return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime.datetime):
        return None
    aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    seconds = aware.timestamp()
    return seconds if 0 <= seconds < UNIT_BOUNDARY else None
