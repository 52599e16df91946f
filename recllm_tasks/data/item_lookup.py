"""From what a person calls an item (short id, raw id, title) to its row in the catalog."""

import difflib
import functools
import re
from collections.abc import Sequence

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError

# Choices that an error lists.
_MAX_LISTED = 10
# One name and the comma after it; in quotes, a doubled quote stands for itself, as in CSV.
_NAME = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|[^,"'\s][^,]*|)\s*(,|\Z)""")
# Before an id: it says which one is meant, where an item's short id is the raw id of another.
_SHORT, _RAW = "short:", "raw:"


def split_names(text: str) -> list[str]:
    """The names in `I17, 50, "Godfather, The (1972)"`; quotes stay on, for `ItemLookup.row`.

    Raises:
      UserError: a quote is not closed, or something follows it.
    """
    names, place = [], 0
    while True:
        found = _NAME.match(text, place)
        if found is None:
            raise UserError(
                f"Items '{text}': got {text[place:].strip()!r} with a quote that does not end "
                'before a comma, expected items such as I17 or "a title", separated by commas; '
                "correct the quotes"
            )
        names.append(found[1].strip())
        place = found.end()
        if not found[2]:
            return names if any(names) else []


class ItemLookup:
    """Finds items of one catalog.

    A bare name is a short id, a raw id or a whole title. A name in quotes is a title or a part of
    one: an equal title counts first, then one that differs in case only, then the one title that
    holds the name in whatever case. A name that fits several items is an error that lists them.
    Our choice: a bare name is never a part of a title, so that a mistyped id is no film.
    """

    def __init__(self, catalog: Catalog):
        self._catalog = catalog
        self._row_of_short_id = {short_id: row for row, short_id in enumerate(catalog.short_id)}
        self._row_of_item = {item: row for row, item in enumerate(catalog.item)}

    def rows(self, history: Sequence[str], what: str = "history") -> list[int]:
        """Catalog rows of the items of one history, in its order.

        Args:
          history: names, oldest first.
          what: the history's name in errors.

        Raises:
          UserError: no item, an item twice (prepared data never has it so), an unknown item, or a
            name that fits several.
        """
        if isinstance(history, str):
            raise UserError(
                f"Items of '{what}': got the text {history!r}, expected a list of items; "
                "split it with item_lookup.split_names"
            )
        if not len(history):
            raise UserError(
                f"Items of '{what}': got none, expected at least one; name what the user has chosen"
            )
        rows: list[int] = []
        for place, name in enumerate(history, 1):
            row = self.row(name, f"{what}, item {place}")
            if row in rows:
                raise UserError(
                    f"Items of '{what}': got {self._describe(row)} at places {rows.index(row) + 1} "
                    f"and {place}, expected each item once; remove one"
                )
            rows.append(row)
        return rows

    def row(self, name: str, what: str = "item") -> int:
        """The catalog row of `name`; `what` is its place in errors."""
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
        """Which ones there are; semantic ones are in no order."""
        first, last = self._catalog.short_id[0], self._catalog.short_id[-1]
        return f"{first} to {last}" if first == "I1" else f"such as {first}"

    def _called(self, name: str) -> list[int]:
        """Rows of a bare name."""
        short_id, item = name.removeprefix(_SHORT), name.removeprefix(_RAW)
        found = {self._row_of_short_id.get(short_id), self._row_of_item.get(item)} - {None}
        return sorted(found) or self._with_title(name)

    def _titled(self, name: str) -> list[int]:
        """Rows of a name in quotes."""
        part = name.casefold()
        return self._with_title(name) or [
            row for row, title in enumerate(self._folded_titles) if part in title
        ]

    def _with_title(self, name: str) -> list[int]:
        """Rows whose whole title is `name`, or else is it but for case."""
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
