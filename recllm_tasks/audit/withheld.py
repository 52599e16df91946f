"""Whether train examples are the same when the held-out records are not there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import seqio

from recllm_tasks.audit import examples
from recllm_tasks.audit.verdict import Check, Offender
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import source
from recllm_tasks.prompts.ragged import Ragged

_HELD_OUT_SPLITS = ("validation", "test")


class Withheld:
    """Training examples are the same, token by token, when the held-out records are not there."""

    def __init__(self):
        self._offender: Offender | None = None
        self._examples: dict[str, int] = {}

    def compare(self, task: seqio.Task, seed: int, stored: Iterator[dict]) -> Iterator[dict]:
        """Passes `stored` on, while comparing it with what comes without held-out records."""
        with copy_without_held_out(task.source) as copy:
            withheld = _read_from(copy, task, seed)
            for before in stored:
                self._examples[task.name] = self._examples.get(task.name, 0) + _size(before)
                if self._offender is None:
                    self._offender = self._difference(task, before, next(withheld, None))
                yield before

    def _difference(self, task: seqio.Task, before: dict, without: dict | None) -> Offender | None:
        if without is not None and same_arrays(before, without):
            return None
        example = 0
        if without is not None and _size(before) == _size(without):
            numbers = range(_size(before))
            example = next(n for n in numbers if not same_arrays(*_one(n, before, without)))
        return Offender(
            f"an example of {task.name} that is another one, or none, when the records of "
            "validation and test are taken away",
            value="inputs or targets",
            user=before["user"][example].decode() if "user" in before else None,
            split="train",
            position=int(before["window"][example]) if "window" in before else None,
        )

    def check(self) -> Check:
        claim = "train examples with negatives are the same without held-out records"
        return Check("withheld", claim, self._examples, self._offender)


def same_arrays(first: dict, second: dict) -> bool:
    """Whether two batches hold the same bytes."""
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
    """A task's training batches from another data folder; they end where it cannot go on."""
    usual, batches = source.data_dir(), None
    while True:
        try:
            # Whatever a step looks up, and whenever, it finds the other folder.
            use_data_dir(task.source, data_dir)
            batches = batches or examples.arrays(task, "train", seed)
            batch = next(batches, None)
        except UserError:
            return
        finally:
            use_data_dir(task.source, usual)
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
    """Makes the data folder that of all sources, and of one that has remembered another."""
    seqio.set_tfds_data_dir_override(data_dir)
    if isinstance(of, seqio.TfdsDataSource):
        of.tfds_dataset.override_data_dir(data_dir)
