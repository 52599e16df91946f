"""The examples that SeqIO makes of a task, in batches, with the item ids in their tokens."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.audit import id_readers
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.audit.records import Records
from recllm_tasks.errors import UserError
from recllm_tasks.pipeline.examples import batches_of
from recllm_tasks.prompts.candidates import OFFERS
from recllm_tasks.prompts.source import CatalogSource, ItemSource

_LOOKED_AT = ("user", "window", "inputs", "targets", *OFFERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Ids:
    """Item ids found in tokens: the example of each in its batch, and its row, int64 [n] each."""

    example: np.ndarray
    row: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """B examples of one task.

    Attributes:
      task: its name.
      split: its split.
      seed: SeqIO's.
      user: number of each example's user, int64 [B]; -1 where it has none, or one without records.
      window: place of the window in the user's sequence, int64 [B]; -1 where there is none.
      inputs, targets: tokens.
      texts: the tokens of both, or, where spans were moved, as they stood before.
      offered: catalog rows offered beside the history, int64 [B, M]: the target and negatives.
      in_inputs, in_targets: ids in the tokens. Of corrupted tokens all are `in_inputs`, as they
        stood before the corruption.
      corrupted: whether spans were moved from inputs to targets.
    """

    task: str
    split: str
    seed: int
    user: np.ndarray
    window: np.ndarray
    inputs: Ragged
    targets: Ragged
    texts: tuple[Ragged, ...]
    offered: np.ndarray
    in_inputs: Ids
    in_targets: Ids
    corrupted: bool

    def __len__(self) -> int:
        return len(self.inputs)

    def times_offered(self, ids: Ids) -> np.ndarray:
        """How often the task says that it offers each item, int64 [n]."""
        return (self.offered[ids.example] == ids.row[:, np.newaxis]).sum(axis=1)


def tasks_of(dataset: str, split: str, with_numbers: bool) -> list[seqio.Task]:
    """Registered tasks over a dataset that offer a split, in the order of their names.

    A task that needs ratings, or texts of items, is left out where the dataset has none; one that
    writes items as bare numbers, unless `with_numbers`: their text is read, which takes as long as
    all the others.
    """
    found = []
    for name in sorted(seqio.TaskRegistry.names()):
        task = seqio.TaskRegistry.get(name)
        source = task.source
        if not isinstance(source, CatalogSource) or source.dataset_name != dataset:
            continue
        if id_readers.writes_numbers(task) and not with_numbers:
            continue
        needs_ratings = getattr(source, "needs_ratings", False)
        if isinstance(source, ItemSource) and not source.num_examples():
            continue
        if split in task.splits and (source.info().has_ratings or not needs_ratings):
            found.append(task)
    return found


Arrays = dict[str, Any]  # np.ndarray, or Ragged where lengths vary


def arrays(task: seqio.Task, split: str, seed: int) -> Iterator[Arrays]:
    """Batches of what the audit looks at; no length is set, so that nothing is cut off.

    They are the batches of training and evaluation. An error names the task.
    """
    with _error_reported(task):
        dataset = batches_of(task, split, seed)
        kept = [name for name in _LOOKED_AT if name in dataset.element_spec]
        dataset = dataset.map(lambda batch: {name: batch[name] for name in kept})
        for batch in dataset.prefetch(2):
            yield {name: _array(tensor) for name, tensor in batch.items()}


def _array(tensor: tf.Tensor | tf.RaggedTensor) -> np.ndarray | Ragged:
    is_ragged = isinstance(tensor, tf.RaggedTensor)
    return Ragged(tensor.values.numpy(), tensor.row_splits.numpy()) if is_ragged else tensor.numpy()


@contextlib.contextmanager
def _error_reported(task: seqio.Task):
    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(
            f"Examples of '{task.name}': got {error.message.splitlines()[0]}, expected a task "
            "that runs over the whole dataset; try it with `recllm show`"
        ) from error


class BatchReader:
    """Makes a `Batch` of a task's arrays."""

    def __init__(self, records: Records, task: seqio.Task, split: str, seed: int):
        self._records, self._task, self._split, self._seed = records, task, split, seed
        vocabulary = task.output_features["inputs"].vocabulary
        if id_readers.writes_numbers(task):
            self._ids = id_readers.NumberReader(vocabulary, len(records.catalog))
        else:
            self._ids = id_readers.IdReader(vocabulary, records.catalog)

    def read(self, arrays: Arrays) -> Batch:
        inputs, targets = (
            rows if isinstance(rows, Ragged) else Ragged.of_array(rows)
            for rows in (arrays["inputs"], arrays["targets"])
        )
        ids, texts = self._ids, (inputs, targets)
        # No task with bare numbers corrupts spans.
        if isinstance(ids, id_readers.IdReader) and ids.is_corrupted(inputs):
            texts = (ids.reassemble(inputs, targets),)
        corrupted = len(texts) == 1
        in_inputs = Ids(*ids.read(texts[0]))
        in_targets = Ids(*(np.zeros([2, 0], np.int64) if corrupted else ids.read(targets)))
        offers = [arrays[name] for name in OFFERS if name in arrays]
        nobody = np.full(len(inputs), -1, np.int64)
        user = nobody
        if "user" in arrays:
            number_of = self._records.number_of
            user = np.array([number_of.get(u, -1) for u in arrays["user"]], np.int64)
        return Batch(
            task=self._task.name,
            split=self._split,
            seed=self._seed,
            user=user,
            window=arrays.get("window", nobody),
            inputs=inputs,
            targets=targets,
            texts=texts,
            offered=np.concatenate([np.zeros([len(inputs), 0], np.int64), *offers], axis=1),
            in_inputs=in_inputs,
            in_targets=in_targets,
            corrupted=corrupted,
        )
