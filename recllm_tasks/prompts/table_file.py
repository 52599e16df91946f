"""Stores a token table as a flat `.npy` array of bytes that NumPy can map into memory."""

import numpy as np

from recllm_tasks import array_file

# Increment when the same catalog and vocabulary would give a different file.
FORMAT_VERSION = 1

# Parts start at multiples of this many bytes.
_ALIGNMENT = 64

_DTYPE = np.dtype(np.uint8)


def save(path: str, values: np.ndarray, splits: np.ndarray) -> None:
    """Writes the file atomically; the last writer wins.

    Args:
      path: the file to write.
      values: uint16 or int32, the concatenated tokens of all rows.
      splits: int64 [rows + 1], where each row starts.

    Raises:
      UserError: the folder cannot be written to.
      OSError: the disk is full.
    """
    header = np.array([len(splits), len(values), values.dtype.itemsize], np.int64)
    chunks = []
    for part in (header, splits, values):
        data = np.ascontiguousarray(part).data.cast("B")
        chunks += [data, bytes(-len(data) % _ALIGNMENT)]
    array_file.write(path, _DTYPE, chunks)


def load(path: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(values, splits) of a file, mapped read-only; None if it is missing or damaged.

    Reads the whole file once to verify its checksum, which covers every byte.
    """
    body = array_file.read(path, _DTYPE)
    if body is None:
        return None
    num_splits, num_values, itemsize = body[:24].view(np.int64).tolist()
    values_at = _ALIGNMENT + -(-8 * num_splits // _ALIGNMENT) * _ALIGNMENT
    splits = body[_ALIGNMENT : _ALIGNMENT + 8 * num_splits].view(np.int64)
    values = body[values_at : values_at + itemsize * num_values]
    return values.view(np.uint16 if itemsize == 2 else np.int32), splits
