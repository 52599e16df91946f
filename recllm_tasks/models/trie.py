"""A trie over the token sequences of a catalog, in flat arrays that a jitted search can gather.

Shapes: N items, P nodes, P - 1 edges (edge e leads to node e + 1), T tokens of an item with EOS.
"""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from flax import struct

from recllm_tasks.errors import UserError

_PAD = -1


@struct.dataclass
class Trie:
    """Nodes are numbered breadth first, siblings by token; node 0 is the root.

    An item is a row of the catalog; its position is its place when items are sorted by their
    tokens. The items below a node are those at positions [node_lo, node_hi). All arrays are int32.
    """

    child_start: jax.Array  # [P + 1]; the edges of node p are child_start[p] .. child_start[p + 1]
    child_token: jax.Array  # [P - 1], EOS included
    child_node: jax.Array  # [P - 1]
    node_lo: jax.Array  # [P]
    node_hi: jax.Array  # [P]
    item_rows: jax.Array  # [N], catalog row at each position
    item_positions: jax.Array  # [N], position of each catalog row
    leaf_row: jax.Array  # [P], row of the item whose EOS leads to this node, else -1
    end_row: jax.Array  # [P], row of the item that EOS would end at this node, else -1
    max_children: tuple[int, ...] = struct.field(pytree_node=False)  # widest node of each depth
    max_depth: int = struct.field(pytree_node=False)  # tokens of the longest item, with EOS
    eos_id: int = struct.field(pytree_node=False)

    @property
    def num_items(self):
        return self.item_rows.shape[0]

    @property
    def num_nodes(self):
        return self.node_lo.shape[0]

    @classmethod
    def build(cls, sequences: Sequence[Sequence[int]], eos_id: int = 1) -> "Trie":
        """The trie of `sequences`, one a catalog row, each without EOS; EOS is appended.

        Raises UserError for an empty catalog, an empty sequence, a token that is EOS or not
        positive, and two items of the same tokens.
        """
        tokens_NxT, lengths_N = _matrix(sequences, eos_id)
        order_N = np.lexsort(tokens_NxT.T[::-1])
        tokens_NxT, lengths_N = tokens_NxT[order_N], lengths_N[order_N]
        _check_distinct(tokens_NxT, order_N)
        parents, tokens, los, his, level_sizes = _levels(tokens_NxT, lengths_N)

        num_nodes = len(los)
        children_P = np.bincount(parents, minlength=num_nodes)
        child_start = np.concatenate([[0], np.cumsum(children_P)])
        is_leaf = np.concatenate([[False], tokens == eos_id])
        leaf_row = np.where(is_leaf, order_N[los], -1)
        end_row = np.full(num_nodes, -1)
        end_row[parents[is_leaf[1:]]] = leaf_row[is_leaf]
        positions_N = np.empty_like(order_N)
        positions_N[order_N] = np.arange(len(order_N))
        depths = np.split(children_P, np.cumsum(level_sizes)[:-1])
        arrays = {
            "child_start": child_start,
            "child_token": tokens,
            "child_node": np.arange(1, num_nodes),
            "node_lo": los,
            "node_hi": his,
            "item_rows": order_N,
            "item_positions": positions_N,
            "leaf_row": leaf_row,
            "end_row": end_row,
        }
        return cls(
            **{name: array.astype(np.int32) for name, array in arrays.items()},
            max_children=tuple(int(level.max()) for level in depths[:-1]),
            max_depth=int(lengths_N.max()),
            eos_id=int(eos_id),
        )


def _matrix(sequences, eos_id):
    """Tokens [N, T], each row ended by EOS and padded with -1, and lengths [N] with EOS."""
    lengths_N = np.fromiter((len(s) for s in sequences), np.int64)
    if not len(lengths_N):
        raise UserError(
            "Trie of 'the catalog': got no items, expected at least one; check the catalog file."
        )
    if not lengths_N.all():
        row = int(np.flatnonzero(lengths_N == 0)[0])
        raise UserError(
            f"Tokens for 'catalog row {row}': got an empty sequence, expected at least one token; "
            "give the item an id that the vocabulary can write."
        )
    tokens_NxT = np.full((len(lengths_N), lengths_N.max() + 1), _PAD, np.int64)
    inside = np.arange(tokens_NxT.shape[1]) < lengths_N[:, None]
    flat = np.fromiter(itertools.chain.from_iterable(sequences), np.int64, lengths_N.sum())
    tokens_NxT[inside] = flat
    wrong = inside & ((tokens_NxT <= 0) | (tokens_NxT == eos_id))
    if wrong.any():
        row, place = (int(i) for i in np.argwhere(wrong)[0])
        raise UserError(
            f"Tokens for 'catalog row {row}': got {tokens_NxT[row, place]} at place {place}, "
            f"expected positive tokens other than EOS ({eos_id}); do not append EOS or padding."
        )
    tokens_NxT[np.arange(len(lengths_N)), lengths_N] = eos_id
    return tokens_NxT, lengths_N + 1


def _check_distinct(tokens_NxT, order_N):
    same = (tokens_NxT[1:] == tokens_NxT[:-1]).all(axis=1)
    if same.any():
        i = int(np.flatnonzero(same)[0])
        first, second = sorted(int(row) for row in order_N[i : i + 2])
        raise UserError(
            f"Tokens for 'catalog row {second}': got the same as row {first} "
            f"({tokens_NxT[i][tokens_NxT[i] > 0].tolist()} with EOS), expected distinct ids; "
            "give each item an id of its own."
        )


def _levels(tokens_NxT, lengths_N):
    """Walks sorted items level by level.

    Returns parents and tokens of the edges [P - 1], node_lo and node_hi [P], sizes of the levels.
    """
    num_items = len(tokens_NxT)
    node_of_item_N = np.zeros(num_items, np.int64)
    parents, tokens, los, his, sizes = [], [], [np.array([0])], [np.array([num_items])], [1]
    for depth in range(tokens_NxT.shape[1]):
        # Items that ended higher up lie between no two others of one prefix: ranges are unbroken.
        active = np.flatnonzero(lengths_N > depth)
        parent, token = node_of_item_N[active], tokens_NxT[active, depth]
        new = np.ones(len(active), bool)
        new[1:] = (parent[1:] != parent[:-1]) | (token[1:] != token[:-1])
        starts = np.flatnonzero(new)
        ends = np.append(starts[1:], len(active))
        node_of_item_N[active] = sum(sizes) + np.cumsum(new) - 1
        parents.append(parent[starts])
        tokens.append(token[starts])
        los.append(active[starts])
        his.append(active[ends - 1] + 1)
        sizes.append(len(starts))
    return *(np.concatenate(x) for x in (parents, tokens, los, his)), sizes
