"""Cache of an unfinished evaluation's beams on disk, so that a killed evaluation can resume.

One file per chunk: MODEL_DIR/eval/<split>-<step>-<key>/<task>-<number>.npz. The key is a hash of
everything that the beams depend on. A file also holds a hash of its examples, so that beams are
never reused for other prompts, such as those of older wording or an older custom task.
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


class BeamCache:
    """The beams of one evaluation, in chunks: one split, one checkpoint, the same settings."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    @classmethod
    def of(
        cls, model_dir: str, split: str, step: int, settings: Mapping[str, Any], params: Any
    ) -> "BeamCache":
        """The cache for an evaluation of a run.

        Args:
          model_dir: the run's folder.
          split: `validation` or `test`.
          step: the checkpoint's step.
          settings: everything else that the beams depend on; must be JSON-serialisable.
          params: the checkpoint's parameters. Our choice: these are hashed too, because retraining
            can reproduce a step number and a file date.
        """
        facts = json.dumps(settings, sort_keys=True) + digest_of(params)
        name = f"{split}-{step}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
        return cls(pathlib.Path(model_dir) / FOLDER / name)

    def _path(self, task: str, number: int) -> pathlib.Path:
        return self._folder / f"{task}-{number:05d}.npz"

    def save(
        self, task: str, number: int, examples: Sequence[Example], beams: Beams, seconds: float
    ) -> None:
        """Writes a chunk atomically.

        Raises:
          UserError: the folder cannot be written, or the disk is full.
        """
        arrays = {**beams._asdict(), "examples": _digest(examples), "seconds": np.float64(seconds)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(task, number), "wb") as f:
                np.savez(f, **arrays)
        except OSError as error:
            raise UserError(
                f"Beams for '{self._folder}': got {error.strerror} on writing, expected a writable "
                "folder with free space; free some space, or copy the run to a writable folder"
            ) from error

    def load(
        self, task: str, number: int, examples: Sequence[Example]
    ) -> tuple[Beams, float] | None:
        """(beams, decoding seconds), or None if there is no intact chunk for these examples."""
        try:
            with (
                open(self._path(task, number), "rb") as f,
                np.load(f, allow_pickle=False) as stored,
            ):
                arrays = {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            return None
        except Exception:
            # Depending on the damaged byte, zipfile, zlib, struct or NumPy fails. The fix is always
            # the same: decode again. None of our own code runs in this block.
            return None
        if set(arrays) != {*Beams._fields, "examples", "seconds"}:
            return None
        if not np.array_equal(arrays["examples"], _digest(examples)):
            return None
        return Beams(*(arrays[name] for name in Beams._fields)), float(arrays["seconds"])

    def remove(self) -> None:
        """Deletes the cache, once the results are saved elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.parent.rmdir()
        except OSError:
            return  # It holds another evaluation, or never existed.


def digest_of(params: Any) -> str:
    """SHA-256 of a checkpoint's parameters, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _digest(examples: Sequence[Example]) -> np.ndarray:
    """SHA-256 of the examples' features, uint8 [32]."""
    digest = hashlib.sha256()
    for example in examples:
        for name, values in sorted(example.items()):
            digest.update(f"{name} {values.shape}".encode())
            digest.update(np.asarray(values, np.int32).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
