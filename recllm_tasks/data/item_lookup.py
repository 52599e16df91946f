"""Looks up items by what people call them: short id, raw id or title."""

import difflib
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError

# How many choices an error lists.
_MAX_LISTED = 10
# One name and the comma after it; in quotes, a doubled quote stands for itself, as in CSV.
_NAME = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|[^,"'\s][^,]*|)\s*(,|\Z)""")
# Prefixes for an id that is the short id of one item and the raw id of another.
_SHORT, _RAW = "short:", "raw:"


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
    one: an equal title wins, then a title that differs only in case, then a title that contains the
    name in any case. A name that fits several items is an error that lists them. Our choice: a bare
    name is never a part of a title, so that a mistyped id does not match a title.
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
        """Catalog rows of the items of one history, in its order.

        Args:
          history: names, oldest first.
          what: the history's name in errors.

        Raises:
          UserError: there is no item, an item is repeated though the dataset keeps no repeats, a
            name is unknown, or it fits several items.
        """
        if isinstance(history, str):
            raise UserError(
                f"Items of '{what}': got the text {history!r}, expected a list of items; "
                "split it with item_lookup.split_names"
            )
        if not len(history):
            raise UserError(
                f"Items of '{what}': got none, expected at least one; give the user's items"
            )
        rows: list[int] = []
        for place, name in enumerate(history, 1):
            row = self.row(name, f"{what}, item {place}")
            if row in rows and not self._repeats:
                raise UserError(
                    f"Items of '{what}': got {self._describe(row)} at places {rows.index(row) + 1} "
                    f"and {place}, expected each item once; remove one"
                )
            rows.append(row)
        return rows

    def find(self, history: Sequence[str], what: str = "history") -> Found:
        """As `rows`, but names that are not one item are left out and listed."""
        found, seen = Found([], [], [], []), set()
        for name in history:
            rows = self._called(name.strip())
            if len(rows) != 1:
                (found.ambiguous if rows else found.unknown).append(name)
            elif rows[0] in seen and not self._repeats:
                found.repeated.append(name)
            else:
                found.rows.append(rows[0])
                seen.add(rows[0])
        return found

    def row(self, name: str, what: str = "item") -> int:
        """The catalog row of `name`, which errors call `what`."""
        quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
        if quoted:
            text = name[1:-1].replace(name[0] * 2, name[0])
            find = self._titled
        else:
            text, find = name, self._called
        text = text.strip()
        found = find(text) if text else []
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
        raise UserError(
            f"Name {name!r} for '{what}': got no such item, expected a short id "
            f"({self._short_ids()}), a raw id such as "
            f"{self._catalog.item[0]}, a title, or a part of a title in quotes"
            f"{self._closest(text)}; correct it"
        )

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
        part = name.casefold()
        return self._with_title(name) or [
            row for row, title in enumerate(self._folded_titles) if part in title
        ]

    def _with_title(self, name: str) -> list[int]:
        """Rows whose whole title is `name`; without any, those whose title differs only in case."""
        whole = name.casefold()
        return [row for row, title in enumerate(self._catalog.title) if title == name] or [
            row for row, title in enumerate(self._folded_titles) if title == whole
        ]

    @functools.cached_property
    def _folded_titles(self) -> list[str]:
        return [title.casefold() for title in self._catalog.title]

    def _closest(self, name: str) -> str:
        close = difflib.get_close_matches(name.casefold(), self._folded_titles, n=3, cutoff=0.5)
        rows = [self._folded_titles.index(title) for title in dict.fromkeys(close)]
        return f"; closest: {'; '.join(map(self._describe, rows))}" if rows else ""

    def _describe(self, row: int) -> str:
        catalog = self._catalog
        return f'{catalog.short_id[row]} "{catalog.title[row] or catalog.item[row]}"'
