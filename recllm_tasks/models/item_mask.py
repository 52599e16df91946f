"""Which items of a trie a search may return: lists of ten or ten million items alike.

A mask is a bit for each position of the trie, and for each word of 32 bits how many items are
allowed before it. So the allowed items below a node, whose positions are neighbours, are counted in
constant time, and ten million items take 2.5 MB. All masks of a trie have one shape: another list
compiles nothing.

Shapes: B batch, N items, W = N // 32 + 1 words, M listed rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recllm_tasks.models.trie import Trie

_WORD = 32


class ItemMask(NamedTuple):
    """The allowed items of one example, [W], or of each of B, [B, W]; NumPy until it is searched.

    Position p is bit p % 32 of word p // 32.
    """

    bits: np.ndarray | jax.Array  # uint32
    before: np.ndarray | jax.Array  # int32

    @classmethod
    def of(cls, trie: Trie, allowed_N: np.ndarray) -> "ItemMask":
        """The mask that allows the catalog rows where `allowed_N` (bool) is true."""
        words = trie.num_items // _WORD + 1
        by_position = np.zeros(words * _WORD, bool)
        by_position[: trie.num_items] = np.asarray(allowed_N, bool)[np.asarray(trie.item_rows)]
        bits = np.packbits(by_position, bitorder="little").view("<u4").astype(np.uint32, copy=False)
        return cls(bits, _before(bits))

    @classmethod
    def stack(cls, masks: Sequence["ItemMask"]) -> "ItemMask":
        return cls(np.stack([mask.bits for mask in masks]), np.stack([m.before for m in masks]))

    @property
    def num_allowed(self) -> np.ndarray:
        """int64 [], or [B]."""
        return np.bitwise_count(np.asarray(self.bits)).sum(axis=-1, dtype=np.int64)

    def without(self, trie: Trie, rows_BxM: np.ndarray) -> "ItemMask":
        """The masks [B, W] less the catalog rows of each example; rows outside the catalog none."""
        rows_BxM = np.asarray(rows_BxM)
        example, place = np.nonzero((rows_BxM >= 0) & (rows_BxM < trie.num_items))
        if not len(example):
            return self
        word, bit = np.divmod(np.asarray(trie.item_positions)[rows_BxM[example, place]], _WORD)
        bits = np.array(self.bits)
        np.bitwise_and.at(bits, (example, word), ~(np.uint32(1) << bit.astype(np.uint32)))
        return ItemMask(bits, _before(bits))

    def holds(self, position_n: np.ndarray) -> np.ndarray:
        """Whether the items at some positions are allowed; of a mask [W] in NumPy."""
        word, bit = np.divmod(position_n, _WORD)
        return (np.asarray(self.bits)[word] >> bit.astype(np.uint32)) & 1 > 0

    def count(self, lo, hi):
        """How many items at lo <= position < hi are allowed; [B, ...] of a mask [B, W]."""

        def of_example(bits, before, lo, hi):
            first, last = (_rank(bits, before, position) for position in (lo, hi))
            return last - first

        return jax.vmap(of_example)(*self, lo, hi)


def _before(bits: np.ndarray) -> np.ndarray:
    """Of one mask or of a batch."""
    before = np.zeros(bits.shape, np.int32)
    np.cumsum(np.bitwise_count(bits)[..., :-1], axis=-1, dtype=np.int32, out=before[..., 1:])
    return before


def _rank(bits_W, before_W, position):
    """How many items before the position are allowed."""
    word = position // _WORD
    below = (jnp.uint32(1) << (position % _WORD).astype(jnp.uint32)) - 1
    inside = jax.lax.population_count(bits_W[word] & below)
    return before_W[word] + inside.astype(jnp.int32)
