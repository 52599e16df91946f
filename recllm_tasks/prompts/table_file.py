"""A token table as one file: a flat `.npy` array of bytes that NumPy maps into memory."""

import contextlib
import os
import threading
import zlib

import numpy as np

# Raised whenever the same catalog and vocabulary would give another file.
FORMAT_VERSION = 1

# Parts begin at multiples of this, in bytes.
_ALIGNMENT = 64


def save(path: str, values: np.ndarray, splits: np.ndarray) -> None:
    """Writes the file, whole or not at all; whoever writes last wins.

    Args:
      path: the file to write.
      values: uint16 or int32, tokens of all rows, one after the other.
      splits: int64 [rows + 1], where each row begins.

    Raises:
      OSError: the folder cannot be written to.
    """
    facts = np.array([len(splits), len(values), values.dtype.itemsize], np.int64)
    chunks = []
    for part in (facts, splits, values):
        data = memoryview(np.ascontiguousarray(part)).cast("B")
        chunks += [data, bytes(-len(data) % _ALIGNMENT)]
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
    length = _ALIGNMENT + sum(map(len, chunks))
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with open(temporary, "wb") as f:
            layout = {"descr": "|u1", "fortran_order": False, "shape": (length,)}
            np.lib.format.write_array_header_1_0(f, layout)
            f.write(checksum.to_bytes(4, "little").ljust(_ALIGNMENT, b"\0"))
            for chunk in chunks:
                f.write(chunk)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def load(path: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(values, splits) of a file, mapped read-only; None where none is there, or a damaged one.

    The whole file is read once, to compare its checksum, which covers every byte of it.
    """
    try:
        flat = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):  # the last two for what is no whole .npy file
        return None
    if not isinstance(flat, np.ndarray) or flat.dtype != np.uint8 or flat.ndim != 1:
        return None
    head, body = flat[:_ALIGNMENT].tobytes(), flat.view(np.ndarray)[_ALIGNMENT:]
    checksum = zlib.crc32(body.data).to_bytes(4, "little").ljust(_ALIGNMENT, b"\0")
    if not len(body) or head != checksum:
        return None
    num_splits, num_values, itemsize = body[:24].view(np.int64).tolist()
    values_at = _ALIGNMENT + -(-8 * num_splits // _ALIGNMENT) * _ALIGNMENT
    splits = body[_ALIGNMENT : _ALIGNMENT + 8 * num_splits].view(np.int64)
    values = body[values_at : values_at + itemsize * num_values]
    return values.view(np.uint16 if itemsize == 2 else np.int32), splits
