"""Reading untrusted JSON: every value by key, type and range.

An invalid value is a UserError that names the file and the key.
"""

import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from recllm_tasks.errors import UserError
from recllm_tasks.files import parse_json

# Far above any results.json or run.json.
MAX_BYTES = 16 << 20
MAX_TEXT = 200

ADVICE = "create it again with `recllm eval` or `recllm baselines`, or leave this run out"


# Line breaks, control characters, marks of text direction, and lone surrogates.
_INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def clean(text: str) -> str:
    """One line of at most `MAX_TEXT` visible characters."""
    text = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


class Fields:
    """An object in a JSON file, with the path of keys that leads to it."""

    def __init__(self, path: pathlib.Path, content: Mapping[str, Any], within: str = ""):
        self.path, self.content, self._within = path, content, within

    @classmethod
    def read(cls, path: pathlib.Path) -> "Fields":
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
            content = parse_json(
                path.read_bytes(), parse_constant=_refuse, object_pairs_hook=_unique
            )
            if not isinstance(content, dict):
                raise ValueError(_shown(content))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise UserError(
                f"file '{path}': got {reason}, expected a JSON object with finite numbers; {ADVICE}"
            ) from error
        return cls(path, content)

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self.content)

    def is_number(self, key: str) -> bool:
        value = self.content.get(key)
        return isinstance(value, int | float) and not isinstance(value, bool)

    def error(self, key: str, expected: str, got: str = "") -> UserError:
        """The error of an invalid value; `got` is the value by default."""
        name = clean(f"{self._within}.{key}" if self._within else key)
        got = got or _shown(self.content.get(key))
        return UserError(f"'{name}' in '{self.path}': got {got}, expected {expected}; {ADVICE}")

    def text(self, key: str, default: str | None = None) -> str:
        """A non-empty string, made `clean`; without a default the key is required."""
        value = self.content.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
            raise self.error(key, f"a string of 1 to {MAX_TEXT} characters")
        return clean(value)

    def name(self, key: str, pattern: str, expected: str, default: str | None = None) -> str:
        """A string that matches a regular expression."""
        value = self.text(key, default)
        if value != default and not re.fullmatch(pattern, value):
            raise self.error(key, expected)
        return value

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A finite number in [least, most]; None if the key is missing or null."""
        value = self.content.get(key)
        if value is None:
            return None
        if not self.is_number(key) or not least <= value <= most or abs(value) > 1e18:
            raise self.error(key, f"a number from {least:g} to {most:g}")
        return value

    def whole(self, key: str, least: int = 0) -> int | None:
        """A whole number of at least `least`; None if the key is missing or null."""
        value = self.number(key, least)
        if value is not None and value != int(value):
            raise self.error(key, "a whole number")
        return None if value is None else int(value)

    def within(self, key: str) -> "Fields":
        """The object under a key; an empty one if the key is missing or null."""
        value = self.content.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return Fields(self.path, value, f"{self._within}.{key}" if self._within else key)

    def each(self, key: str) -> list["Fields"]:
        """The objects of a list; none if the key is missing or null."""
        value = self.content.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "a list of objects")
        path = f"{self._within}.{key}" if self._within else key
        return [Fields(self.path, item, f"{path}[{n}]") for n, item in enumerate(value)]


def _refuse(constant: str):
    raise ValueError(f"{constant}, which is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a duplicate key")
    return found


def _shown(value: Any) -> str:
    text = "nothing" if value is None else clean(repr(value))
    return text if len(text) <= 60 else f"{text[:59]}…"
