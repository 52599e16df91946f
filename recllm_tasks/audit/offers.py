"""Whether what a task offers beside the target tells nothing about held-out interactions."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf
from scipy import stats

from recllm_tasks.audit import examples
from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.audit.short_ids import TAIL
from recllm_tasks.audit.verdict import Check, Offender
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import source

_HELD_OUT_SPLITS = ("validation", "test")


class OwnNegatives:
    """Of all items offered, the target alone is one that the user has interacted with.

    In training "interacted" means the train split: negatives may not know of any later interaction.
    """

    def __init__(self, records: Records):
        self._records = records
        self._offender: Offender | None = None
        self._examples = self._offered = 0

    def see(self, batch: Batch) -> None:
        if not batch.offered.shape[1] or not (batch.user >= 0).all():
            return
        self._examples += len(batch)
        self._offered += batch.offered.size
        pairs = self._records.pair(batch.user[:, np.newaxis], batch.offered)
        own = is_in(pairs, self._records.own(batch.split))
        odd = np.flatnonzero(own.sum(axis=1) != 1)
        if self._offender is None and len(odd):
            items = [self._records.catalog.short_id[r] for r in batch.offered[odd[0]][own[odd[0]]]]
            self._offender = Offender(
                f"items of the user among those that {batch.task} offers (seed {batch.seed}), "
                "expected the target alone",
                value=", ".join(items) or "none",
                user=self._records.user(int(batch.user[odd[0]])),
                split=batch.split,
                position=int(batch.window[odd[0]]),
            )

    def check(self) -> Check:
        figures = {"examples": self._examples, "offered": self._offered}
        claim = "no drawn negative that the user has interacted with, as far as its split knows"
        return Check("drawn_negatives", claim, figures, self._offender)


class HeldOutNegatives:
    """In training, held-out items are drawn as negatives as often as chance has it.

    If negatives kept clear of them, an item that never is one would be known as held out. Draws are
    by popularity in the train split among what the user has not there (Paper §4.1), so that each is
    a held-out item with a known probability; their number follows Poisson's law closely.
    """

    def __init__(self, records: Records):
        self._records = records
        held_out = records.splits["test"].items.last(HELD_OUT["train"])
        train = records.splits["train"].items
        counts = records.catalog.train_count
        mass = np.bincount(train.rows, counts[train.values], minlength=len(train))
        # A held-out item that the user has had before is no candidate; `no_repeats` reports it.
        pairs = records.pair(np.arange(len(train))[:, np.newaxis], held_out)
        new = ~is_in(pairs, records.own("train")) & (held_out >= 0)
        left = np.maximum(1, counts.sum() - mass)
        self._held_out = held_out
        self._probability = np.where(new, counts[held_out], 0).sum(axis=1) / left
        self._found: dict[str, int] = {}
        self._expected: dict[str, float] = {}

    def see(self, batch: Batch) -> None:
        draws = batch.offered.shape[1] - 1
        if batch.split != "train" or draws < 1 or not (batch.user >= 0).all():
            return
        held_out = self._held_out[batch.user]
        found = sum(int((batch.offered == column[:, None]).sum()) for column in held_out.T)
        expected = draws * float(self._probability[batch.user].sum())
        self._found[batch.task] = self._found.get(batch.task, 0) + found
        self._expected[batch.task] = self._expected.get(batch.task, 0.0) + expected

    def check(self) -> Check:
        offender = None
        figures = {}
        for task, found in self._found.items():
            expected = self._expected[task]
            figures[task] = found
            figures[f"{task} by chance"] = round(expected, 1)
            few = stats.poisson.cdf(found, expected) < TAIL
            many = stats.poisson.sf(found - 1, expected) < TAIL
            if offender is None and (few or many):
                offender = Offender(
                    f"held-out items among the negatives of {task}, expected about "
                    f"{expected:,.1f}; negatives must not know which items are held out",
                    value=f"{found:,}",
                    split="train",
                )
        claim = "held-out items are train negatives as often as chance has it"
        return Check("held_out_negatives", claim, figures, offender)


class Withheld:
    """Training examples are the same, token by token, when the held-out records are not there."""

    def __init__(self, records: Records):
        self._records = records
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
        if without is not None and same_tensors(before, without):
            return None
        example = 0
        if without is not None and _size(before) == _size(without):
            numbers = range(_size(before))
            example = next(n for n in numbers if not same_tensors(*_one(n, before, without)))
        return Offender(
            f"an example of {task.name} that is another one, or none, when the records of "
            "validation and test are taken away",
            value="inputs or targets",
            user=before["user"][example].numpy().decode() if "user" in before else None,
            split="train",
            position=int(before["window"][example]) if "window" in before else None,
        )

    def check(self) -> Check:
        claim = "train examples with negatives are the same without held-out records"
        return Check("withheld", claim, self._examples, self._offender)


def same_tensors(first: dict, second: dict) -> bool:
    """Whether two batches hold the same bytes."""
    return first.keys() == second.keys() and all(
        np.array_equal(a, b)
        for name in first
        for a, b in zip(_arrays(first[name]), _arrays(second[name]), strict=True)
    )


def _size(batch: dict) -> int:
    return int(batch["inputs"].shape[0])


def _arrays(tensor: tf.Tensor | tf.RaggedTensor) -> list[np.ndarray]:
    is_ragged = isinstance(tensor, tf.RaggedTensor)
    return [t.numpy() for t in ((tensor.values, tensor.row_splits) if is_ragged else (tensor,))]


def _one(number: int, *batches: dict) -> list[dict]:
    return [{name: tensor[number] for name, tensor in batch.items()} for batch in batches]


def _read_from(data_dir: str, task: seqio.Task, seed: int) -> Iterator[dict]:
    """A task's training batches from another data folder; they end where it cannot go on."""
    usual = source.data_dir()
    try:
        try:
            use_data_dir(task.source, data_dir)
            tensors = examples.tensors(task, "train", seed)
        finally:
            use_data_dir(task.source, usual)
        yield from examples.read(task, tensors)
    except UserError:
        return


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
