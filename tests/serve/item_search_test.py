"""Searching the catalog by a part of a title."""

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.serve.item_search import ItemSearch

TITLES = ["Großer Käse 1", "Milder Kase", "Crème brûlée", ""]


def test_case_and_accents_do_not_matter():
    items = [str(row) for row in range(len(TITLES))]
    texts = dict(zip(items, map(ItemText, TITLES)))
    search = ItemSearch(Catalog.build(items, texts, np.array([1, 5, 2, 9])))
    assert search.rows("grosser KASE", 9) == [0]
    assert search.rows("käse", 9) == [1, 0]
    assert search.rows("creme  brulee", 9) == [2]
    assert search.rows("i4", 9) == [3]
    assert search.rows("", 2) == [3, 1]
