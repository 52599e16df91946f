"""T5X's legacy checkpoints, in which FLAN-T5 was published: msgpack and a zarr folder an array.

`checkpoint` is msgpack of {"version": 3, "optimizer": {"target": tree, "state": …}}. A leaf is an
array, or the TensorStore spec of one in a folder beside, named `target.` and the path with dots.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from recllm_tasks.errors import UserError
from recllm_tasks.models.formats.checkpoint import Target, Write
from recllm_tasks.models.formats.orbax_arrays import chunks_of, open_zarr, read_zarr, write_zarr

FILE = "checkpoint"
_VERSION = 3


class StoredArrays:
    """The arrays of one checkpoint on disk.

    Attributes:
      names: such as `target.encoder.encoder_norm.scale`, with the path of each in the tree.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises UserError for a file that T5X did not write."""
        self._folder = folder
        try:
            content = serialization.msgpack_restore((folder / FILE).read_bytes())
            leaves = traverse_util.flatten_dict(
                content["optimizer"], is_leaf=lambda _, node: "kvstore" in node
            )
            self._leaves = {".".join(path): leaf for path, leaf in leaves.items()}
            self.names = {".".join(path): path for path in leaves}
        except Exception as error:  # msgpack and flax raise what they like
            if isinstance(error, OSError | MemoryError):
                raise
            raise UserError(
                f"Damaged checkpoint '{folder / FILE}': got {type(error).__name__} {error}, "
                "expected msgpack as T5X writes it (TensorFlow's are not read); put back a copy"
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        leaf = self._leaves[name]
        return tuple(self._open(name, leaf).shape if isinstance(leaf, Mapping) else np.shape(leaf))

    def read(self, name: str) -> np.ndarray:
        """Raises UserError where a part of the array is missing or damaged."""
        leaf = self._leaves[name]
        if not isinstance(leaf, Mapping):
            return np.asarray(leaf)
        return read_zarr(self._folder, name, self._open(name, leaf))

    def _open(self, name: str, spec: Mapping[str, Any]):
        kept = spec["kvstore"]
        # Old releases of TensorStore had the path outside.
        path = pathlib.PurePosixPath(str(kept.get("path", spec.get("path", ""))))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UserError(
                f"Array {name} in '{self._folder}': got '{path}' as its place, expected a folder "
                "within; take a checkpoint as T5X wrote it"
            )
        return open_zarr(self._folder, name, _files(self._folder / path))


def _files(folder: pathlib.Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{folder}/"}


@contextlib.contextmanager
def writer(target: Target) -> Iterator[Write]:
    folder = target.folder / f"checkpoint_{target.step}"
    folder.mkdir()
    tree = {}

    def write(path: str, array: np.ndarray) -> None:
        name = f"target.{path.replace('/', '.')}"
        # No compression: weights hardly shrink, and gzip, which T5X takes, is slow.
        write_zarr(_files(folder / name), array, None)
        tree[tuple(path.split("/"))] = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": name},
            "metadata": {
                "shape": list(array.shape),
                "chunks": chunks_of(array),
                "compressor": None,
            },
        }

    yield write
    state = {"step": np.int32(target.step), "param_states": {}}
    content = {"target": traverse_util.unflatten_dict(tree), "state": state}
    packed = serialization.msgpack_serialize({"version": _VERSION, "optimizer": content})
    (folder / FILE).write_bytes(packed)
