"""Arrays in Orbax's format, read and written one at a time with TensorStore.

Orbax itself restores and saves whole trees. A tree's folder holds `_METADATA` (JSON with the path
of every array) and a key-value store (OCDBT unless it is old), in which `a.b.c` is a zarr array.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from recllm_tasks.errors import UserError

METADATA = "_METADATA"
_ARRAYS = ("jax.Array", "np.ndarray", "scalar")
_KEY_OF_A_DICT = 2  # Orbax's KeyType.DICT

# Our choice: the largest chunk of an array, which is split along its first axis. A host that needs
# part of an array then does not read all of it.
CHUNK_BYTES = 64 * 2**20


class StoredArrays:
    """The arrays of one tree on disk.

    Attributes:
      names: name, such as `params.encoder.encoder_norm.scale`, → path in the tree.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises UserError unless the folder holds a tree that Orbax wrote."""
        self._folder = folder
        try:
            metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            self._ocdbt, self._zarr3 = metadata.get("use_ocdbt", True), metadata["use_zarr3"]
            self.names = {}
            for entry in metadata["tree_metadata"].values():
                path = tuple(str(key["key"]) for key in entry["key_metadata"])
                if entry["value_metadata"]["value_type"] in _ARRAYS:
                    self.names[".".join(path)] = path
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Damaged checkpoint '{folder}': got {type(error).__name__} {error} in {METADATA}, "
                "expected a tree that Orbax wrote; restore that folder from a copy"
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open(name).shape)

    def read(self, name: str) -> np.ndarray:
        """Raises UserError if a part of the array is missing or damaged."""
        return read_zarr(self._folder, name, self._open(name))

    def _open(self, name: str) -> ts.TensorStore:
        files = {"driver": "file", "path": f"{self._folder}/"}
        if self._ocdbt:
            kvstore = {"driver": "ocdbt", "base": files, "path": f"{name}/"}
        else:
            kvstore = {**files, "path": f"{self._folder}/{name}/"}
        return open_zarr(self._folder, name, kvstore, "zarr3" if self._zarr3 else "zarr")


def open_zarr(
    folder: pathlib.Path, name: str, kvstore: Mapping[str, Any], driver: str = "zarr"
) -> ts.TensorStore:
    """A zarr array; a missing chunk is an error, not zeros."""
    spec = {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}
    try:
        return ts.open(spec, read=True, open=True).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise _damaged(folder, name, error) from error


def read_zarr(folder: pathlib.Path, name: str, store: ts.TensorStore) -> np.ndarray:
    try:
        return store.read().result()
    except (ValueError, OSError, RuntimeError) as error:
        raise _damaged(folder, name, error) from error


def _damaged(folder: pathlib.Path, name: str, error: Exception) -> UserError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(
        f"Damaged array {name} in '{folder}': got '{first[:300]}', expected a complete array; "
        "restore that folder from a copy"
    )


class NewArrays:
    """A new tree in an empty folder; Orbax can restore it after `close`."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._shapes: dict[tuple[str, ...], tuple[int, ...]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: tuple[str, ...], array: np.ndarray) -> None:
        kvstore = {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{self._folder}/"},
            "path": f"{'.'.join(path)}/",
        }
        write_zarr(kvstore, array, {"id": "zstd", "level": 1})
        self._shapes[path] = array.shape

    def close(self) -> None:
        entries = {
            str(path): {
                "key_metadata": [{"key": key, "key_type": _KEY_OF_A_DICT} for key in path],
                "value_metadata": {
                    "value_type": "jax.Array",
                    "skip_deserialize": False,
                    "write_shape": list(shape),
                },
            }
            for path, shape in self._shapes.items()
        }
        metadata = {
            "tree_metadata": entries,
            "use_ocdbt": True,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (self._folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")


def write_zarr(
    kvstore: Mapping[str, Any], array: np.ndarray, compressor: Mapping[str, Any] | None
) -> None:
    store = ts.open(
        {
            "driver": "zarr",
            "kvstore": kvstore,
            "metadata": {"chunks": chunks_of(array), "compressor": compressor},
            "store_data_equal_to_fill_value": True,
        },
        create=True,
        dtype=array.dtype.name,
        shape=array.shape,
    ).result()
    store.write(array).result()


def chunks_of(array: np.ndarray) -> list[int]:
    """The shape of a chunk: the whole array, or equal parts along the first axis."""
    if array.ndim == 0:
        return []
    parts = -(-array.nbytes // CHUNK_BYTES)
    return [max(1, -(-array.shape[0] // max(1, parts))), *array.shape[1:]]
