"""A trie as one file: an int32 array with a checksum, which NumPy memory-maps."""

import itertools
import os

import numpy as np

from recllm_tasks import array_file
from recllm_tasks.models.trie import Trie

# Raise this whenever the same tokens would give another file.
FORMAT_VERSION = 1

_ARRAYS = (
    "child_start",
    "child_token",
    "node_lo",
    "node_hi",
    "end_row",
    "item_rows",
    "item_positions",
)
_DTYPE = np.dtype(np.int32)

# Arrays start at multiples of this, in int32: JAX uses aligned host memory without a copy.
_ALIGNMENT = 16


def save(trie: Trie, path: str | os.PathLike) -> None:
    """Writes the file atomically; the last writer wins.

    Raises:
      UserError: the folder cannot be written to.
      OSError: the disk is full.
    """
    facts = (trie.num_nodes, trie.num_items, trie.max_depth, trie.eos_id)
    parts = [np.array(facts, np.int32), np.array(trie.max_children, np.int32)]
    parts += [np.asarray(getattr(trie, name)) for name in _ARRAYS]
    chunks = []
    for part in parts:
        chunks += [part.data, bytes(4 * (_padded(len(part)) - len(part)))]
    array_file.write(path, _DTYPE, chunks)


def load(path: str | os.PathLike) -> Trie | None:
    """The trie in a file, memory-mapped read-only; None if the file is missing or damaged.

    The whole file is read once to verify its checksum.
    """
    body = array_file.read(path, _DTYPE)
    if body is None:
        return None
    num_nodes, num_items, max_depth, eos_id = body[:4].tolist()
    lengths = (4, max_depth, num_nodes + 1, num_nodes - 1, *[num_nodes] * 3, *[num_items] * 2)
    starts = itertools.accumulate(map(_padded, lengths), initial=0)
    _, max_children, *arrays = (body[s : s + length] for s, length in zip(starts, lengths))
    return Trie(
        **dict(zip(_ARRAYS, arrays)),
        max_children=tuple(max_children.tolist()),
        max_depth=max_depth,
        eos_id=eos_id,
    )


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
