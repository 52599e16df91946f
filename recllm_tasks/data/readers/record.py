"""One record as Python reads it, and the problems that it can have."""

import dataclasses
from collections.abc import Mapping

# An id must have other characters too; DuckDB and Python both strip exactly these.
BLANKS = " \t\n\r\v\f"


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong: `got`, in words, in `field` instead of `expected`; `fix` may help."""

    field: str
    got: str
    expected: str
    fix: str = ""

    def __str__(self) -> str:
        return f"got {self.got} in {self.field}, expected {self.expected}"


@dataclasses.dataclass(frozen=True)
class Record:
    """A record's first line (from 1), its text, and its values by role or its problem.

    Those of an interaction are texts as they stand in the file, None where there is nothing.
    """

    line: int
    text: str
    values: Mapping[str, object]
    problem: Problem | None = None


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
