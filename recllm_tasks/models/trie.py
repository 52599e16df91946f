"""A trie over the token sequences of a catalog, in flat arrays for gathers in a jitted search.

Shapes: N items, P nodes, P - 1 edges (edge e leads to node e + 1); while building, n items, p nodes
and c children in one block of a level.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from recllm_tasks.errors import UserError

# Items sorted together below the first levels; this bounds the memory of building.
_BLOCK = 1 << 20


class Trie(struct.PyTreeNode):
    """Nodes are numbered breadth first, siblings by token; node 0 is the root.

    An item is a row of the catalog. Its position is its rank when items are sorted by tokens. The
    items below a node are at positions [node_lo, node_hi). All arrays are int32.
    """

    child_start: jax.Array  # [P + 1]; the edges of node p are child_start[p] .. child_start[p + 1]
    child_token: jax.Array  # [P - 1], EOS included
    node_lo: jax.Array  # [P]
    node_hi: jax.Array  # [P]
    end_row: jax.Array  # [P], row of the item that ends at this node, else -1
    item_rows: jax.Array  # [N], catalog row at each position
    item_positions: jax.Array  # [N], position of each catalog row
    max_children: tuple[int, ...] = struct.field(pytree_node=False)  # widest node of each depth
    max_depth: int = struct.field(pytree_node=False)  # tokens of the longest item, with EOS
    eos_id: int = struct.field(pytree_node=False)

    @property
    def num_items(self):
        return self.item_rows.shape[0]

    @property
    def num_nodes(self):
        return self.node_lo.shape[0]

    def sums_of_children(self, nodes_BxJ, width: int, positions_BxM, values_BxM):
        """Sums of the values of items below the first `width` children of each node, [B, J, C].

        Its time grows with the items and hardly with the children.

        Args:
          nodes_BxJ: int32.
          width: C, at least the children of any of the nodes.
          positions_BxM: int32, of items; N or more is none.
          values_BxM: of the items.
        """
        start_BxJx1 = self.child_start[nodes_BxJ][..., None]
        num_BxJx1 = self.child_start[nodes_BxJ + 1][..., None] - start_BxJx1
        wanted_Bx1xM = positions_BxM[:, None]
        # How many children begin at or before the item; siblings are in the order of positions.
        before_BxJxM = jnp.zeros((*nodes_BxJ.shape, positions_BxM.shape[1]), jnp.int32)
        for bit in reversed(range(width.bit_length())):
            more = before_BxJxM + (1 << bit)
            first = self.node_lo[jnp.minimum(start_BxJx1 + more, self.num_nodes - 1)]
            begins = (more <= num_BxJx1) & (first <= wanted_Bx1xM)
            before_BxJxM = jnp.where(begins, more, before_BxJxM)
        last = self.node_hi[jnp.minimum(start_BxJx1 + before_BxJxM, self.num_nodes - 1)]
        is_below = (before_BxJxM > 0) & (wanted_Bx1xM < last)
        child_BxJxM = jnp.where(is_below, before_BxJxM - 1, width)
        values_BxJxM = jnp.broadcast_to(values_BxM[:, None], child_BxJxM.shape)

        def add(child_M, values_M):
            return jnp.zeros(width, values_M.dtype).at[child_M].add(values_M, mode="drop")

        return jax.vmap(jax.vmap(add))(child_BxJxM, values_BxJxM)

    @classmethod
    def build(cls, sequences: Sequence[Sequence[int]], eos_id: int = 1) -> "Trie":
        """The trie of `sequences`, one per catalog row, without EOS; see `from_tokens`."""
        splits = np.cumsum([0, *(len(sequence) for sequence in sequences)])
        flat = itertools.chain.from_iterable(sequences)
        return cls.from_tokens(np.fromiter(flat, np.int32, splits[-1]), splits, eos_id)

    @classmethod
    def from_tokens(cls, values: np.ndarray, splits: np.ndarray, eos_id: int = 1) -> "Trie":
        """The trie of a catalog whose row r is `values[splits[r]:splits[r + 1]]`, without EOS.

        Besides its arguments and its result, it needs about 45 bytes per item.

        Args:
          values: the concatenated tokens of all rows; integers of any width.
          splits: integers [N + 1].
          eos_id: ends every item.

        Raises:
          UserError: an empty catalog, an empty row, a token that is EOS or not positive, two rows
            with the same tokens, or more tokens than int32 can count.
        """
        _check(values, splits, eos_id)
        items = _Items(values, splits, eos_id)
        fields, max_children = _grow(items)
        node_lo = fields["lo"]
        child_start = np.zeros(len(node_lo) + 1, np.int32)
        np.cumsum(fields["num_children"], out=child_start[1:])
        child_token = fields["token"][1:]
        item_positions = np.empty_like(items.rows)
        item_positions[items.rows] = np.arange(len(items.rows), dtype=np.int32)
        return cls(
            child_start=child_start,
            child_token=child_token,
            node_lo=node_lo,
            node_hi=fields["hi"],
            end_row=fields["end_row"],
            item_rows=items.rows,
            item_positions=item_positions,
            max_children=max_children,
            max_depth=len(max_children),
            eos_id=int(eos_id),
        )


def _check(values, splits, eos_id):
    num_items = len(splits) - 1
    if not num_items:
        raise UserError(
            "Trie of 'the catalog': got no items, expected at least one; check the catalog file"
        )
    if len(values) + num_items >= np.iinfo(np.int32).max:
        raise UserError(
            f"Trie of 'the catalog': got {len(values)} tokens, expected fewer than 2^31 with one "
            "EOS per item; use shorter item texts"
        )
    empty = np.flatnonzero(splits[1:] == splits[:-1])
    if len(empty):
        raise UserError(
            f"Tokens for 'catalog row {empty[0]}': got an empty sequence, expected at least one "
            "token; give the item an id that the vocabulary can write"
        )
    wrong = np.flatnonzero((values <= 0) | (values == eos_id))
    if len(wrong):
        row = int(np.searchsorted(splits, wrong[0], side="right")) - 1
        raise UserError(
            f"Tokens for 'catalog row {row}': got {values[wrong[0]]} at place "
            f"{wrong[0] - splits[row]}, expected positive tokens other than EOS ({eos_id}); do not "
            "append EOS or padding"
        )


def _grow(items: "_Items") -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """All nodes in breadth-first order, and the widest node of each level.

    Every field is int32 [P]: `token` leads to a node (-1 to the root), `lo` and `hi` are its
    positions.
    """
    fields = {
        name: _Growing(items.most_nodes)
        for name in ("token", "lo", "hi", "num_children", "end_row")
    }
    lead = ("token", "lo", "hi")
    for name, value in zip(lead, (-1, 0, len(items.rows))):
        fields[name].append(np.array([value], np.int32))
    max_children, start, end = [], 0, 1
    while start < end:
        level, widest = [fields[name].filled()[start:end] for name in lead], 0
        for part in _blocks(level[1]):
            num_children, end_row, children = items.split(
                len(max_children), *(values[part] for values in level)
            )
            fields["num_children"].append(num_children)
            fields["end_row"].append(end_row)
            widest = max(widest, int(num_children.max()))
            for name, values in zip(lead, children):
                fields[name].append(values)
        if widest:
            max_children.append(widest)
        start, end = end, len(fields["token"].filled())
    return {name: field.filled() for name, field in fields.items()}, tuple(max_children)


def _blocks(lo_p: np.ndarray) -> Iterator[slice]:
    """Cuts neighbouring nodes into blocks whose items start within _BLOCK positions."""
    cuts = np.arange(lo_p[0], int(lo_p[-1]) + _BLOCK, _BLOCK)
    starts = np.unique(np.searchsorted(lo_p, cuts))
    return (slice(a, b) for a, b in itertools.pairwise([*starts.tolist(), len(lo_p)]) if a < b)


class _Growing:
    """An int32 array that grows in place; unwritten memory costs nothing."""

    def __init__(self, most: int):
        self._values, self._size = np.empty(most, np.int32), 0

    def append(self, values: np.ndarray) -> None:
        self._values[self._size : self._size + len(values)] = values
        self._size += len(values)

    def filled(self) -> np.ndarray:
        return self._values[: self._size]


class _Items:
    """The catalog's rows in `rows` (int32 [N]), which `split` sorts by one more token a level."""

    def __init__(self, values, splits, eos_id):
        self._values, self._splits, self._eos_id = values, splits, eos_id
        self._num_tokens = max(int(values.max()), eos_id) + 1
        self.rows = np.arange(len(splits) - 1, dtype=np.int32)
        self.most_nodes = 1 + len(values) + len(self.rows)

    def split(self, depth, token_p, lo_p, hi_p):
        """Splits the items of neighbouring nodes at `depth` by their next token.

        Returns:
          The number of children [p], the row that EOS ends [p], and token, lo and hi [c] of the
          children, all int32.
        """
        sizes_p = np.where(token_p == self._eos_id, 0, hi_p - lo_p)
        # Items that ended at a higher level never lie between others: ranges have no gaps.
        position_n = np.repeat(lo_p - (np.cumsum(sizes_p) - sizes_p), sizes_p)
        position_n += np.arange(len(position_n))
        token_n = self._tokens(self.rows[position_n], depth)
        key_n = np.repeat(np.arange(len(lo_p)) * self._num_tokens, sizes_p)
        key_n += token_n
        order_n = np.argsort(key_n)
        self.rows[position_n] = self.rows[position_n[order_n]]
        key_n = key_n[order_n]
        del order_n, token_n

        new_n = np.ones(len(key_n), bool)
        new_n[1:] = key_n[1:] != key_n[:-1]
        first_c = np.flatnonzero(new_n)
        size_c = np.diff(first_c, append=len(key_n))
        parent_c, token_c = np.divmod(key_n[first_c], self._num_tokens)
        lo_c = position_n[first_c]
        ended_c = token_c == self._eos_id
        self._check_distinct(lo_c[ended_c], size_c[ended_c])
        end_row_p = np.full(len(lo_p), -1, np.int32)
        end_row_p[parent_c[ended_c]] = self.rows[lo_c[ended_c]]
        num_children_p = np.bincount(parent_c, minlength=len(lo_p)).astype(np.int32)
        children = tuple(x.astype(np.int32) for x in (token_c, lo_c, lo_c + size_c))
        return num_children_p, end_row_p, children

    def _tokens(self, row_n, depth):
        """Each row's token at `depth`, EOS after its last."""
        place_n = self._splits[row_n]
        place_n += depth
        ended_n = self._splits[1:][row_n] == place_n
        place_n[ended_n] = 0
        token_n = self._values[place_n]
        token_n[ended_n] = self._eos_id
        return token_n

    def _check_distinct(self, lo_e, size_e):
        same = np.flatnonzero(size_e > 1)
        if len(same):
            lo, size = int(lo_e[same[0]]), int(size_e[same[0]])
            first, second = sorted(self.rows[lo : lo + size].tolist())[:2]
            tokens = self._values[self._splits[first] : self._splits[first + 1]].tolist()
            raise UserError(
                f"Tokens for 'catalog row {second}': got the same as row {first} "
                f"({tokens}), expected distinct ids; give each item its own id"
            )
