"""Looks up items by what people call them: short id, raw id or title."""

import difflib
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError

# How many choices an error lists.
_MAX_LISTED = 5
# One name and the comma after it; in quotes, a doubled quote stands for itself, as in CSV.
_NAME = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|[^,"'\s][^,]*|)\s*(,|\Z)""")
# Prefixes for an id that is the short id of one item and the raw id of another.
_SHORT, _RAW = "short:", "raw:"


# The most commas of a title that is looked for among unquoted names.
_MAX_COMMAS = 3


def split_names(text: str) -> list[str]:
    """The names in `I17, 50, "Godfather, The (1972)"`; keeps the quotes, for `ItemLookup.row`.

    Raises:
      UserError: a quote is not closed, or something follows it.
    """
    names, place = [], 0
    while True:
        found = _NAME.match(text, place)
        if found is None:
            raise UserError(
                f"Items '{text}': got {text[place:].strip()!r} with a quote that is not closed "
                'before a comma, expected items such as I17 or "a title", separated by commas; '
                "correct the quotes"
            )
        names.append(found[1].strip())
        place = found.end()
        if not found[2]:
            return names if any(names) else []


class Found(NamedTuple):
    """What a history's names stand for.

    Attributes:
      rows: of the catalog, in the order of the names.
      unknown: names that fit no item.
      ambiguous: names that fit several.
      repeated: names of an item that came before, where a history holds each item once.
    """

    rows: list[int]
    unknown: list[str]
    ambiguous: list[str]
    repeated: list[str]


class ItemLookup:
    """Finds items of one catalog.

    A bare name is a short id, a raw id or a whole title. A name in quotes is a title or a part of
    one: an equal title wins, then a title that differs only in case, then one that differs only in
    case and accents, then a title that contains the name in any case, with or without accents. A
    name that fits several items is an error that lists them. Our choice: a bare name is never a
    part of a title, so that a mistyped id does not match a title.

    Of an item that a history holds several times the first place counts, as in `recllm prepare`,
    unless the dataset keeps repeats.
    """

    def __init__(self, catalog: Catalog, repeats: bool = False):
        """Args:
        catalog: whose items are looked up.
        repeats: a history may hold an item several times, as in a dataset that keeps repeats.
        """
        self._catalog, self._repeats = catalog, repeats
        self._row_of_short_id = {short_id: row for row, short_id in enumerate(catalog.short_id)}
        self._row_of_item = {item: row for row, item in enumerate(catalog.item)}

    def rows(self, history: Sequence[str], what: str = "history") -> list[int]:
        """Catalog rows of the items of one history, in its order; none of an empty one.

        Args:
          history: names, oldest first.
          what: the history's name in errors.

        Raises:
          UserError: a name is unknown or fits several items, or the history is no list of names.
        """
        names = check_names(history, what)
        rows = [
            self.row(name, f"{what}, item {place}", names[place : place + _MAX_COMMAS])
            for place, name in enumerate(names, 1)
        ]
        return rows if self._repeats else list(dict.fromkeys(rows))

    def find(self, history: Sequence[str], what: str = "history") -> Found:
        """As `rows`, but names that are not one item are left out and listed.

        Raises:
          UserError: the history is no list of names.
        """
        found, seen = Found([], [], [], []), set()
        for name in check_names(history, what):
            row = self._of_id(name)
            rows = self._fitting(name) if row is None else [row]
            if len(rows) != 1:
                (found.ambiguous if rows else found.unknown).append(name)
            elif rows[0] in seen and not self._repeats:
                found.repeated.append(name)
            else:
                found.rows.append(rows[0])
                seen.add(rows[0])
        return found

    def row(self, name: str, what: str = "item", following: Sequence[str] = ()) -> int:
        """The catalog row of `name`, which errors call `what`.

        Args:
          name: of an item.
          what: its name in errors.
          following: the names after it, for errors: a title with a comma may be in pieces.

        Raises:
          UserError: the name is unknown or fits several items.
        """
        found = self._fitting(name)
        if len(found) == 1:
            return found[0]
        if found:
            choices = [self._describe(row) for row in found[:_MAX_LISTED]]
            more = f" and {len(found) - _MAX_LISTED:,} more" if len(found) > _MAX_LISTED else ""
            raise UserError(
                f"Name {name!r} for '{what}': got {len(found):,} items, expected one: "
                f"{'; '.join(choices)}{more}; give its short id, as "
                f"{_SHORT}{self._catalog.short_id[found[0]]}"
            )
        whole = self._titled_in_pieces(name, following)
        remedy = self._closest(_unquoted(name)) + "; correct it"
        if whole is not None:
            remedy = f'; a title with a comma needs quotes: give "{self._catalog.title[whole]}"'
        raise UserError(
            f"Name {name!r} for '{what}': got no such item, expected a short id "
            f"({self._short_ids()}), a raw id such as "
            f"{self._catalog.item[0]}, a title, or a part of a title in quotes{remedy}"
        )

    def _of_id(self, name: str) -> int | None:
        """The row of a bare id, if it is one item's; most names are."""
        of_short_id, of_item = self._row_of_short_id.get(name), self._row_of_item.get(name)
        if of_short_id is None or of_item is None or of_short_id == of_item:
            return of_item if of_short_id is None else of_short_id
        return None

    def _fitting(self, name: str) -> list[int]:
        """The rows that a name fits."""
        text = _unquoted(name).strip()
        if not text:
            return []
        return self._called(text) if _unquoted(name) is name else self._titled(text)

    def _short_ids(self) -> str:
        """The range of short ids, or an example of semantic ones."""
        first, last = self._catalog.short_id[0], self._catalog.short_id[-1]
        return f"{first} to {last}" if first == "I1" else f"such as {first}"

    def _called(self, name: str) -> list[int]:
        """Rows that fit a bare name."""
        short_id, item = name.removeprefix(_SHORT), name.removeprefix(_RAW)
        found = (self._row_of_short_id.get(short_id), self._row_of_item.get(item))
        return sorted({row for row in found if row is not None}) or self._with_title(name)

    def _titled(self, name: str) -> list[int]:
        """Rows that fit a name in quotes."""
        part = plain_text(name)
        return self._with_title(name) or [
            row for row, title in enumerate(self._plain_titles) if part in title
        ]

    def _with_title(self, name: str) -> list[int]:
        """Rows whose whole title is `name`; else those that differ in case; else in accents too."""
        for written, rows_of in zip(_WAYS, self._rows_of_titles):
            if rows := rows_of.get(written(name)):
                return rows
        return []

    @functools.cached_property
    def _rows_of_titles(self) -> list[dict[str, list[int]]]:
        """Rows by title, for each of _WAYS to write it."""
        found: list[dict[str, list[int]]] = []
        for written in _WAYS:
            rows_of: dict[str, list[int]] = {}
            for row, title in enumerate(self._catalog.title):
                if title:
                    rows_of.setdefault(written(title), []).append(row)
            found.append(rows_of)
        return found

    @functools.cached_property
    def _plain_titles(self) -> list[str]:
        return [plain_text(title) for title in self._catalog.title]

    def _titled_in_pieces(self, name: str, following: Sequence[str]) -> int | None:
        """The first item whose title begins with a name and the ones after it, commas between."""
        for num in range(len(following), 0, -1):
            whole = plain_text(", ".join([name, *following[:num]]))
            for row, title in enumerate(self._plain_titles):
                if title.startswith(whole):
                    return row
        return None

    def _closest(self, name: str) -> str:
        close = difflib.get_close_matches(plain_text(name), self._plain_titles, n=3, cutoff=0.5)
        rows = [self._plain_titles.index(title) for title in dict.fromkeys(close)]
        return f"; closest: {'; '.join(map(self._describe, rows))}" if rows else ""

    def _describe(self, row: int) -> str:
        catalog = self._catalog
        return f'{catalog.short_id[row]} "{catalog.title[row] or catalog.item[row]}"'


def plain_text(text: str) -> str:
    """The text without case and accents: what is left of two spellings of one title is equal."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _as_is(text: str) -> str:
    return text


# Ways to write a title, the most exact first.
_WAYS: tuple[Callable[[str], str], ...] = (_as_is, str.casefold, plain_text)


def _unquoted(name: str) -> str:
    """A name in quotes without them; another one is the same object."""
    if len(name) < 2 or name[0] != name[-1] or name[0] not in "\"'":
        return name
    return name[1:-1].replace(name[0] * 2, name[0])


def check_names(history: Any, what: str) -> list[str]:
    """The names of a history as a list.

    Raises:
      UserError: it is one text, no list, or has something else than text in it.
    """
    if isinstance(history, str):
        raise UserError(
            f"Items of '{what}': got the text {history!r}, expected a list of items; "
            f"write [{history!r}]"
        )
    if not isinstance(history, Sequence | np.ndarray) or isinstance(history, bytes):
        raise UserError(
            f"Items of '{what}': got {_shown(history)}, expected a list of items such as "
            '["I17", "50", "a title"]; correct it'
        )
    for place, name in enumerate(history, 1):
        if not isinstance(name, str):
            remedy = "write ids as text" if isinstance(name, int | np.integer) else "correct it"
            raise UserError(
                f"Item {place} of '{what}': got {_shown(name)}, expected text: a short id such as "
                f"'I17', a raw id such as '17', or a title; {remedy}"
            )
    return list(history)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:39] + '…'}"
