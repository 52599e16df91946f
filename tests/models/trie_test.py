import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.errors import UserError
from recllm_tasks.models import trie as trie_module
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


@settings(max_examples=40, deadline=None)
@given(_catalogs, st.integers(0, 2**32 - 1))
def test_sums_below_children_are_those_of_their_items(catalog, seed):
    trie = Trie.build(catalog, eos_id=3)
    rng = np.random.default_rng(seed)
    # Positions of N or more are no items.
    positions = rng.integers(0, trie.num_items + 3, (2, 5)).astype(np.int32)
    values = rng.integers(1, 100, positions.shape).astype(np.int32)
    nodes = rng.integers(0, trie.num_nodes, (2, 3))
    width = max(trie.max_children) + 2
    found = np.asarray(trie.sums_of_children(nodes, width, positions, values))
    for b, j in np.ndindex(nodes.shape):
        edges = range(trie.child_start[nodes[b, j]], trie.child_start[nodes[b, j] + 1])
        for child in range(width):
            expected = 0
            if child < len(edges):
                node = edges[child] + 1
                lo, hi = trie.node_lo[node], trie.node_hi[node]
                expected = values[b][(positions[b] >= lo) & (positions[b] < hi)].sum()
            assert found[b, j, child] == expected


def _naive(catalog, eos):
    """Every array by its definition, from the set of all prefixes."""
    ended = [(*sequence, eos) for sequence in catalog]
    items = sorted(range(len(ended)), key=ended.__getitem__)
    nodes = sorted({s[:n] for s in ended for n in range(len(s) + 1)}, key=lambda p: (len(p), p))
    below = {p: [i for i, row in enumerate(items) if ended[row][: len(p)] == p] for p in nodes}
    children = [sum(q[:-1] == p for q in nodes if q) for p in nodes]
    depths = range(max(map(len, ended)))
    return {
        "child_start": [sum(children[:i]) for i in range(len(nodes) + 1)],
        "child_token": [p[-1] for p in nodes if p],
        "node_lo": [below[p][0] for p in nodes],
        "node_hi": [below[p][-1] + 1 for p in nodes],
        "end_row": [ended.index((*p, eos)) if (*p, eos) in ended else -1 for p in nodes],
        "item_rows": items,
        "item_positions": [items.index(row) for row in range(len(ended))],
        "max_children": [max(c for c, p in zip(children, nodes) if len(p) == d) for d in depths],
        "max_depth": len(depths),
        "eos_id": eos,
    }


@settings(max_examples=100, deadline=None)
@given(_catalogs, st.sampled_from([1, 3, 1 << 20]))
def test_every_array_is_that_of_a_naive_trie(catalog, block):
    eos = 3  # between the other tokens
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_BLOCK", block)
        trie = Trie.build(catalog, eos_id=eos)
    for name, expected in _naive(catalog, eos).items():
        found = np.asarray(getattr(trie, name))
        assert found.tolist() == expected, name
        assert name in ("max_children", "max_depth", "eos_id") or found.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_tokens_may_have_any_width(dtype):
    top = min(np.iinfo(dtype).max, (1 << 31) - 1)
    trie = Trie.from_tokens(np.array([top, 5, top, 7], dtype), np.array([0, 1, 3, 4]))
    assert _walk(trie, [5, top, 1]) is not None
    assert trie.item_rows.tolist() == [1, 2, 0]


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


def test_a_token_of_the_wrong_sign_is_found_in_its_row():
    with pytest.raises(UserError, match=r"'catalog row 2': got -4 at place 1"):
        Trie.build([[4, 5], [6], [7, -4]])


def test_twenty_thousand_items_take_less_than_a_second():
    digits = [[10, *(int(d) + 20 for d in str(n))] for n in range(20_000)]
    start = time.perf_counter()
    trie = Trie.build(digits)
    assert time.perf_counter() - start < 1
    assert trie.num_items == 20_000
