"""One flat array in a `.npy` file with a checksum, which NumPy maps into memory.

NumPy's header, 64 bytes that begin with the CRC-32 of all that follows, then the array's parts.
The header is compared with what it must be, so that no byte of the file changes unnoticed.
"""

import os
import re
import zlib
from collections.abc import Iterable

import numpy as np

from recllm_tasks.files import atomic_write

# Bytes of the block that holds the checksum; NumPy aligns the array to as many.
CHECKSUM_BYTES = 64


def write(path: str | os.PathLike, dtype: np.dtype, parts: Iterable[memoryview | bytes]) -> None:
    """Writes the file atomically; the last writer wins.

    Args:
      path: the file to write.
      dtype: of the array.
      parts: its content, one after the other.

    Raises:
      UserError: the folder cannot be written to.
      OSError: the disk is full.
    """
    parts = [memoryview(part).cast("B") for part in parts]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    length = (CHECKSUM_BYTES + sum(map(len, parts))) // dtype.itemsize
    layout = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    with atomic_write(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, layout)
        f.write(_block(checksum))
        for part in parts:
            f.write(part)


def read(path: str | os.PathLike, dtype: np.dtype) -> np.ndarray | None:
    """The array without the checksum, mapped read-only; None if the file is missing or damaged.

    Reads the whole file once to verify its checksum.
    """
    try:
        found = np.memmap(path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError):  # no such file, or an empty one
        return None
    header = re.match(
        rb"\x93NUMPY\x01\x00(..)\{'descr': '%s', 'fortran_order': False, "
        rb"'shape': \((\d+),\), \} *\n" % re.escape(dtype.str.encode()),
        found[: 4 * CHECKSUM_BYTES].tobytes(),
        re.DOTALL,
    )
    if not header:
        return None
    start = header.end()
    size = dtype.itemsize * int(header[2])
    body = found[start + CHECKSUM_BYTES :]
    whole = int.from_bytes(header[1], "little") == start - 10 and len(found) == start + size
    checksum = found[start : start + CHECKSUM_BYTES].tobytes()
    if not len(body) or not whole or checksum != _block(zlib.crc32(body.data)):
        return None
    return body.view(dtype)


def _block(checksum: int) -> bytes:
    return checksum.to_bytes(4, "little").ljust(CHECKSUM_BYTES, b"\0")
