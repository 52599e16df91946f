"""A trie as one file: an int32 array that NumPy maps into memory, checked as a whole."""

import os
import zlib

import numpy as np

from recllm_tasks.engine import run_folder
from recllm_tasks.models.trie import Trie

# Raised whenever the same tokens would give another file.
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
_FACTS = ("checksum", "num_nodes", "num_items", "max_depth", "eos_id")
# Arrays begin at multiples of this, in int32: JAX uses aligned host memory without a copy.
_ALIGNMENT = 16


def save(trie: Trie, path: str | os.PathLike) -> None:
    """Writes the file, whole or not at all; whoever writes last wins.

    Raises:
      OSError: the folder cannot be written to.
    """
    parts = [np.array(trie.max_children, np.int32)]
    parts += [np.asarray(getattr(trie, name)) for name in _ARRAYS]
    facts = (trie.num_nodes, trie.num_items, trie.max_depth, trie.eos_id)
    head = np.array([_checksum(parts), *facts], np.int32)
    parts.insert(0, head)
    length = sum(_padded(len(part)) for part in parts)
    layout = {"descr": "<i4", "fortran_order": False, "shape": (length,)}
    with run_folder.whole_file(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, layout)
        for part in parts:
            f.write(part.data)
            f.write(bytes(4 * (_padded(len(part)) - len(part))))


def load(path: str | os.PathLike) -> Trie | None:
    """The trie in a file, mapped into memory read-only; None where none is there, or a damaged one.

    The whole file is read once, to compare its checksum.
    """
    try:
        flat = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):  # NumPy raises ValueError for what is no whole .npy file
        return None
    if not isinstance(flat, np.ndarray) or flat.dtype != np.int32 or flat.ndim != 1:
        return None
    flat = flat.view(np.ndarray)
    if len(flat) < len(_FACTS):
        return None
    facts = dict(zip(_FACTS, flat[: len(_FACTS)].tolist()))
    num_nodes, num_items = facts["num_nodes"], facts["num_items"]
    lengths = [len(_FACTS), facts["max_depth"], num_nodes + 1, num_nodes - 1]
    lengths += [num_nodes] * 3 + [num_items] * 2
    if min(lengths) < 0 or sum(map(_padded, lengths)) != len(flat):
        return None
    ends = np.cumsum([_padded(length) for length in lengths])
    _, max_children, *arrays = (
        flat[end - _padded(length) : end - _padded(length) + length]
        for end, length in zip(ends.tolist(), lengths)
    )
    if _checksum([max_children, *arrays]) != facts["checksum"]:
        return None
    return Trie(
        **dict(zip(_ARRAYS, arrays)),
        max_children=tuple(max_children.tolist()),
        max_depth=facts["max_depth"],
        eos_id=facts["eos_id"],
    )


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _checksum(parts: list[np.ndarray]) -> int:
    """CRC-32 of the arrays, one after the other, as a signed number."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(np.ascontiguousarray(part).data, crc)
    return crc - (1 << 32) if crc >= 1 << 31 else crc
