"""Values out of JSON that somebody else wrote: each is checked, and named by file and key."""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from recllm_tasks.errors import UserError

MAX_BYTES = 64 * 2**20
MAX_TEXT = 200
ADVICE = "put back what `recllm eval` or `recllm baselines` wrote, or leave this run out"

# SeqIO's rule for names of tasks; they are parts of file names here.
_NAME = re.compile(r"[\w.:-]+")
# Line breaks, other controls, marks that turn the direction of text, and halves of characters.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def clean(text: str) -> str:
    """One line of at most `MAX_TEXT` characters, all of which are seen."""
    text = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


class Fields:
    """An object of a JSON file. Every error is a UserError that names the file and the key."""

    def __init__(self, path: pathlib.Path, values: Any, prefix: str = ""):
        self._path, self._prefix = path, prefix
        if not isinstance(values, Mapping):
            raise self.error("", values, "an object")
        self._values = values

    @classmethod
    def read(cls, path: pathlib.Path) -> "Fields":
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES:,} bytes")
            return cls(path, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"file for '{path}': got {clean(str(error)) or 'deep nesting'}, expected JSON; "
                f"{ADVICE}"
            ) from error

    def __iter__(self):
        return iter(self._values)

    def names(self) -> list[str]:
        """The keys, each of which must be a name of a task."""
        for key in self._values:
            if not _NAME.fullmatch(key) or key.startswith("."):
                raise self.error(key, self._values[key], "a name of letters, digits, '_', '-'")
        return list(self._values)

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def error(self, key: str, value: Any, expected: str) -> UserError:
        name = clean(f"{self._prefix}{key}") or "content"
        got = "nothing" if value is None else clean(repr(value))
        return UserError(f"{name} for '{self._path}': got {got}, expected {expected}; {ADVICE}")

    def raw(self, key: str) -> Any:
        return self._values.get(key)

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, value, "a string that is not empty")
        return clean(value)

    def name(self, key: str) -> str:
        value = self.text(key)
        if not _NAME.fullmatch(value) or value.startswith("."):
            raise self.error(key, value, "a name of letters, digits, '_', '-'")
        return value

    def switch(self, key: str) -> bool:
        value = self._values.get(key)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def number(self, key: str, least: float = 0.0, most: float = math.inf) -> float:
        value = self._values.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or abs(value) > 1e300:
            span = f"in [{least:g}, {most:g}]" if most < math.inf else f"of at least {least:g}"
            raise self.error(key, value, f"a number {span}")
        return float(value)

    def whole(self, key: str, least: int = 0) -> int:
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise self.error(key, value, f"a whole number of at least {least}")
        return value

    def within(self, key: str) -> "Fields":
        """The object under a key; an empty one where there is none."""
        values = self._values.get(key)
        return Fields(self._path, {} if values is None else values, f"{self._prefix}{key}.")
