"""Beams of an evaluation under way, on disk, so that a killed one goes on where it was.

One file a chunk, MODEL_DIR/eval/<split>-<step>-<key>/<task>-<number>.npz; the key is a hash of all
that the beams depend on. A file also names its examples, so that beams for other prompts, made by
an older wording or an older task of the user's own, are never taken for theirs.
"""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.models.beam_search import Beams

FOLDER = "eval"

Example = Mapping[str, np.ndarray]


class FinishedChunks:
    """The chunks of one evaluation: one split, one checkpoint, the same settings."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    @classmethod
    def of(
        cls, model_dir: str, split: str, step: int, settings: Mapping[str, Any], params: Any
    ) -> "FinishedChunks":
        """Those of a run's evaluation.

        Args:
          model_dir: the run's folder.
          split: `validation` or `test`.
          step: of the checkpoint.
          settings: all else that the beams depend on; json must be able to write them.
          params: of the checkpoint. Our choice: they are hashed themselves, because a step number
            and a file's date survive a training that was done again.
        """
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.asarray(leaf).tobytes())
        name = f"{split}-{step}-{digest.hexdigest()[:16]}"
        return cls(pathlib.Path(model_dir) / FOLDER / name)

    def _path(self, task: str, number: int) -> pathlib.Path:
        return self._folder / f"{task}-{number:05d}.npz"

    def save(
        self, task: str, number: int, examples: Sequence[Example], beams: Beams, seconds: float
    ) -> None:
        """Writes a chunk, whole or not at all; UserError if the disk does not let it."""
        arrays = {**beams._asdict(), "examples": _digest(examples), "seconds": np.float64(seconds)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(task, number), "wb") as f:
                np.savez(f, **arrays)
        except OSError as error:
            raise UserError(
                f"Beams for '{self._folder}': got {error.strerror} on writing, expected a folder "
                "with room; make room, or copy the run to where it can be written"
            ) from error

    def load(
        self, task: str, number: int, examples: Sequence[Example]
    ) -> tuple[Beams, float] | None:
        """(beams, seconds that decoding took), or None where there is no sound chunk of these."""
        try:
            with (
                open(self._path(task, number), "rb") as f,
                np.load(f, allow_pickle=False) as stored,
            ):
                arrays = {name: stored[name] for name in stored.files}
            if not np.array_equal(arrays["examples"], _digest(examples)):
                return None
            return Beams(*(arrays[name] for name in Beams._fields)), float(arrays["seconds"])
        except FileNotFoundError:
            return None
        except Exception:
            # Depending on which byte is broken it is zipfile, zlib, struct or NumPy that fails, and
            # the remedy is always the same: decode again.
            return None

    def remove(self) -> None:
        """Removes them all, when the results are safe elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.parent.rmdir()
        except OSError:
            return  # It holds another evaluation, or was never made.


def _digest(examples: Sequence[Example]) -> np.ndarray:
    """SHA-256 of the examples' features, uint8 [32]."""
    digest = hashlib.sha256()
    for example in examples:
        for name, values in sorted(example.items()):
            digest.update(f"{name} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values, np.int32))
    return np.frombuffer(digest.digest(), np.uint8)
