"""Stores a token table as a flat `.npy` array of bytes that NumPy can map into memory."""

import zlib

import numpy as np

from recllm_tasks.files import atomic_write

# Increment when the same catalog and vocabulary would give a different file.
FORMAT_VERSION = 1

# Parts start at multiples of this many bytes.
_ALIGNMENT = 64


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
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
    length = _ALIGNMENT + sum(map(len, chunks))
    layout = {"descr": "|u1", "fortran_order": False, "shape": (length,)}
    with atomic_write(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, layout)
        f.write(checksum.to_bytes(4, "little").ljust(_ALIGNMENT, b"\0"))
        for chunk in chunks:
            f.write(chunk)


def load(path: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(values, splits) of a file, mapped read-only; None if it is missing or damaged.

    Reads the whole file once to verify its checksum, which covers every byte.
    """
    try:
        flat = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):  # the last two if it is no complete .npy file
        return None
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.ndim != 1:
        return None
    stored, body = flat[:_ALIGNMENT].tobytes(), flat.view(np.ndarray)[_ALIGNMENT:]
    checksum = zlib.crc32(body.data).to_bytes(4, "little").ljust(_ALIGNMENT, b"\0")
    if not len(body) or stored != checksum:
        return None
    num_splits, num_values, itemsize = body[:24].view(np.int64).tolist()
    values_at = _ALIGNMENT + -(-8 * num_splits // _ALIGNMENT) * _ALIGNMENT
    splits = body[_ALIGNMENT : _ALIGNMENT + 8 * num_splits].view(np.int64)
    values = body[values_at : values_at + itemsize * num_values]
    return values.view(np.uint16 if itemsize == 2 else np.int32), splits
