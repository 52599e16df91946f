"""Items whose title has a text in it, without regard to case and accents, by popularity."""

import bisect
import itertools

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.item_lookup import plain_text

# Places of a short text that are looked at; the best of them may not be the best of all.
_MOST_PLACES = 5000


class ItemSearch:
    """One long text of all titles, so that a search is one pass in C."""

    def __init__(self, catalog: Catalog):
        self._catalog = catalog
        self.row_of_short_id = {short_id: row for row, short_id in enumerate(catalog.short_id)}
        self._row_of_item = {item: row for row, item in enumerate(catalog.item)}
        folded = [_folded(title) for title in catalog.title]
        self._text = "\n".join(folded)
        self._starts = [0, *itertools.accumulate(len(title) + 1 for title in folded)]
        self._popular = np.argsort(-catalog.train_count, kind="stable").tolist()

    def rows(self, query: str, most: int) -> list[int]:
        """Catalog rows: the items of which the query is an id, then titles that have it in them.

        An empty query gets the most popular items.
        """
        text = query.strip()
        if not text:
            return self._popular[:most]
        ids = (self.row_of_short_id.get(text.upper()), self._row_of_item.get(text))
        ids = (*ids, self.row_of_short_id.get(text))
        first = list(dict.fromkeys(row for row in ids if row is not None))
        found, place, part = set(), -1, _folded(text)
        for _ in range(_MOST_PLACES):
            place = self._text.find(part, place + 1)
            if place < 0:
                break
            row = bisect.bisect_right(self._starts, place) - 1
            found.add(row)
            place = self._starts[row + 1] - 1
        counts = self._catalog.train_count
        ranked = sorted(found - set(first), key=lambda row: (-counts[row], row))
        return [*first, *ranked][:most]


def _folded(text: str) -> str:
    return " ".join(plain_text(text).split())
