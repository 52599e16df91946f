"""Whether train examples stay the same when the held-out records are removed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import seqio

from recllm_tasks.audit import examples
from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import source

_HELD_OUT_SPLITS = ("validation", "test")


class HeldOutAblation:
    """Train examples are the same, token by token, without the validation and test records."""

    def __init__(self):
        self._offender: Offender | None = None
        self._examples: dict[str, int] = {}

    def compare(self, task: seqio.Task, seed: int, batches: Iterator[dict]) -> Iterator[dict]:
        """Yields `batches` unchanged, and compares each with the same batch of the ablation."""
        with copy_without_held_out(task.source) as copy:
            ablated = _read_from(copy, task, seed)
            for batch in batches:
                self._examples[task.name] = self._examples.get(task.name, 0) + _size(batch)
                if self._offender is None:
                    self._offender = self._difference(task, batch, next(ablated, None))
                yield batch

    def _difference(self, task: seqio.Task, full: dict, ablated: dict | None) -> Offender | None:
        if ablated is not None and same_arrays(full, ablated):
            return None
        example = 0
        if ablated is not None and _size(full) == _size(ablated):
            numbers = range(_size(full))
            example = next(n for n in numbers if not same_arrays(*_one(n, full, ablated)))
        return Offender(
            f"an example of {task.name} that changes or disappears when the validation and test "
            "records are removed",
            value="inputs or targets",
            user=full["user"][example].decode() if "user" in full else None,
            split="train",
            position=int(full["window"][example]) if "window" in full else None,
        )

    def check(self) -> Check:
        claim = "train examples with negatives are the same without held-out records"
        return Check("withheld", claim, self._examples, self._offender)


def same_arrays(first: dict, second: dict) -> bool:
    """Whether two batches hold equal arrays."""
    return first.keys() == second.keys() and all(
        np.array_equal(a, b)
        for name in first
        for a, b in zip(_arrays(first[name]), _arrays(second[name]), strict=True)
    )


def _size(batch: dict) -> int:
    return len(batch["inputs"])


def _arrays(rows: np.ndarray | Ragged) -> tuple[np.ndarray, ...]:
    return (rows.values, rows.splits) if isinstance(rows, Ragged) else (rows,)


def _one(number: int, *batches: dict) -> list[dict]:
    return [{name: rows[number] for name, rows in batch.items()} for batch in batches]


def _read_from(data_dir: str, task: seqio.Task, seed: int) -> Iterator[dict]:
    """A task's train batches from another data folder; stops where the task fails there."""
    original, batches = source.data_dir(), None
    while True:
        try:
            # Set for every batch, because steps may look things up lazily.
            use_data_dir(task.source, data_dir)
            batches = batches or examples.arrays(task, "train", seed)
            batch = next(batches, None)
        except UserError:
            return
        finally:
            use_data_dir(task.source, original)
        if batch is None:
            return
        yield batch


@contextlib.contextmanager
def copy_without_held_out(of: source.CatalogSource) -> Iterator[str]:
    """A data folder with the same dataset, whose validation and test records are empty files."""
    with tempfile.TemporaryDirectory(prefix="recllm_audit.") as copy:
        directory = dataset_dir(copy, of.dataset_name)
        directory.mkdir(parents=True)
        for path in Path(of.dataset_dir()).iterdir():
            if any(f"-{split}.tfrecord" in path.name for split in _HELD_OUT_SPLITS):
                (directory / path.name).touch()
            else:
                os.symlink(path.absolute(), directory / path.name)
        yield copy


def use_data_dir(of: source.CatalogSource, data_dir: str) -> None:
    """Sets the data folder of all sources, and of `of`, which may remember another one."""
    seqio.set_tfds_data_dir_override(data_dir)
    if isinstance(of, source.SequenceSource):
        of.tfds_dataset.override_data_dir(data_dir)
