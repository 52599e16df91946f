import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.errors import UserError
from recllm_tasks.models.trie import Trie


def _walk(trie, sequence):
    """The node that `sequence` leads to, None where the trie has no such path."""
    node = 0
    for token in sequence:
        edges = range(trie.child_start[node], trie.child_start[node + 1])
        ways = [e + 1 for e in edges if trie.child_token[e] == token]
        assert len(ways) <= 1
        if not ways:
            return None
        node = ways[0]
    return node


def test_small_trie():
    # Sorted: [5] (row 2), [5, 7] (row 0), [9, 4] (row 1).
    trie = Trie.build([[5, 7], [9, 4], [5]], eos_id=1)
    # Nodes: 0 root; 1 "5", 2 "9"; 3 "5 EOS", 4 "5 7", 5 "9 4"; 6 "5 7 EOS", 7 "9 4 EOS".
    assert trie.child_start.tolist() == [0, 2, 4, 5, 5, 6, 7, 7, 7]
    assert trie.child_token.tolist() == [5, 9, 1, 7, 4, 1, 1]
    assert trie.node_lo.tolist() == [0, 0, 2, 0, 1, 2, 1, 2]
    assert trie.node_hi.tolist() == [3, 2, 3, 1, 2, 3, 2, 3]
    assert trie.item_rows.tolist() == [2, 0, 1]
    assert trie.item_positions.tolist() == [1, 2, 0]
    assert trie.end_row.tolist() == [-1, 2, -1, -1, 0, 1, -1, -1]
    assert (trie.max_children, trie.max_depth) == ((2, 2, 1), 3)
    assert (trie.num_items, trie.num_nodes) == (3, 8)


_catalogs = st.lists(
    st.lists(st.integers(1, 6).filter(lambda t: t != 3), min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=40,
    unique=True,
)


@settings(max_examples=100, deadline=None)
@given(_catalogs)
def test_every_item_and_nothing_else_is_in_the_trie(catalog):
    eos = 3  # between the other tokens
    trie = Trie.build(catalog, eos_id=eos)
    prefixes = {(*s, eos)[:n] for s in catalog for n in range(len(s) + 2)}
    assert trie.num_nodes == len(prefixes)
    for prefix in prefixes:
        node = _walk(trie, prefix)
        below = {row for row, s in enumerate(catalog) if (*s, eos)[: len(prefix)] == prefix}
        rows = trie.item_rows[trie.node_lo[node] : trie.node_hi[node]]
        assert set(rows.tolist()) == below
        assert len(rows) == len(below)
        row = catalog.index(prefix) if prefix in catalog else -1
        assert trie.end_row[node] == row
        assert trie.child_start[node + 1] - trie.child_start[node] <= max(
            trie.max_children[len(prefix)] if len(prefix) < len(trie.max_children) else 0, 0
        )
    assert trie.max_depth == max(len(s) for s in catalog) + 1
    np.testing.assert_array_equal(trie.item_rows[trie.item_positions], np.arange(len(catalog)))


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "got no items"),
        ([[4], []], "'catalog row 1': got an empty sequence"),
        ([[4, 5], [6], [4, 5]], "'catalog row 2': got the same as row 0"),
        ([[4], [5, 1]], "'catalog row 1': got 1 at place 1"),
        ([[4, 0]], "'catalog row 0': got 0 at place 1"),
    ],
)
def test_a_catalog_that_cannot_be_a_trie(sequences, message):
    with pytest.raises(UserError, match=message):
        Trie.build(sequences)


def test_twenty_thousand_items_take_less_than_a_second():
    digits = [[10, *(int(d) + 20 for d in str(n))] for n in range(20_000)]
    start = time.perf_counter()
    trie = Trie.build(digits)
    assert time.perf_counter() - start < 1
    assert trie.num_items == 20_000
