"""T5X's legacy checkpoints, the format of FLAN-T5: msgpack, and a zarr folder per array.

`checkpoint` is msgpack of {"version": 3, "optimizer": {"target": tree, "state": …}}. A leaf is an
array, or the TensorStore spec of one in the folder beside it named `target.` + the dotted path.
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
      names: name, such as `target.encoder.encoder_norm.scale`, → path in the tree.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises UserError if T5X did not write the file."""
        self._folder = folder
        try:
            content = serialization.msgpack_restore((folder / FILE).read_bytes())
        except (OSError, MemoryError):
            raise
        except Exception as error:  # msgpack and flax raise many kinds; none of our code runs here
            raise self._damaged(f"{type(error).__name__} {error}") from error
        tree = content.get("optimizer") if isinstance(content, Mapping) else None
        if not isinstance(tree, Mapping):
            raise self._damaged("no 'optimizer'")
        leaves = traverse_util.flatten_dict(
            dict(tree), is_leaf=lambda _, node: isinstance(node, Mapping) and "kvstore" in node
        )
        self._leaves = {".".join(map(str, path)): leaf for path, leaf in leaves.items()}
        self.names = {".".join(map(str, path)): path for path in leaves}

    def _damaged(self, got: str) -> UserError:
        return UserError(
            f"Damaged checkpoint '{self._folder / FILE}': got {got}, expected T5X's msgpack "
            "(TensorFlow's checkpoints are not read); restore it from a copy"
        )

    def shape(self, name: str) -> tuple[int, ...]:
        leaf = self._leaves[name]
        return tuple(self._open(name, leaf).shape if isinstance(leaf, Mapping) else np.shape(leaf))

    def read(self, name: str) -> np.ndarray:
        """Raises UserError if a part of the array is missing or damaged."""
        leaf = self._leaves[name]
        if not isinstance(leaf, Mapping):
            return np.asarray(leaf)
        return read_zarr(self._folder, name, self._open(name, leaf))

    def _open(self, name: str, spec: Mapping[str, Any]):
        kept = spec["kvstore"]
        # Old TensorStore releases had the path outside of `kvstore`.
        path = pathlib.PurePosixPath(str(kept.get("path", spec.get("path", ""))))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UserError(
                f"Array {name} in '{self._folder}': got the path '{path}', expected a folder "
                "inside the checkpoint; use a checkpoint that T5X wrote"
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
        # No compression: weights hardly shrink, and gzip, T5X's choice, is slow.
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
