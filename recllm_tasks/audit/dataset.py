"""Runs all checks of one dataset."""

import itertools
from collections.abc import Iterator

import seqio

from recllm_tasks.audit import examples, short_ids, splits, stored_negatives
from recllm_tasks.audit.ablation import HeldOutAblation, same_arrays, use_data_dir
from recllm_tasks.audit.check import Check
from recllm_tasks.audit.drawn_negatives import HeldOutNegatives, OwnNegatives
from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.held_out import Confirmation, HeldOut, OwnTarget
from recllm_tasks.audit.records import Records, check_unchanged, read_records
from recllm_tasks.prompts import source
from recllm_tasks.prompts.candidates import OFFERS
from recllm_tasks.prompts.source import SPLITS

# The other checks assume that these hold.
_FIRST = (splits.check_same_users, splits.check_whole)
_STORED = (
    splits.check_splits,
    splits.check_repeats,
    stored_negatives.check_stored_negatives,
    stored_negatives.check_popularity,
    short_ids.check_order,
    short_ids.check_next_id,
    splits.check_ties,
)


def audit(dataset: str, num_seeds: int = 2, with_numbers: bool = False) -> Iterator[Check]:
    """Checks all of a prepared dataset, and every registered task over it.

    Args:
      dataset: its name; it is read from the current data folder.
      num_seeds: number of SeqIO seeds for each task that samples.
      with_numbers: also check P5's tasks, which write items as bare numbers.

    Yields:
      Each check when it is done. Stops after a failed check that the others rely on.

    Raises:
      UserError: the dataset is not prepared or is damaged.
    """
    stored = source.CatalogSource(dataset)
    records = read_records(stored)
    if records.info.records_digest:
        yield check_unchanged(stored)
    for check in _FIRST:
        done = check(records)
        yield done
        if not done.passed:
            return
    records = records.aligned()
    for check in _STORED:
        yield check(records)
    yield from _Tasks(records, dataset, num_seeds, with_numbers).checks()


class _Tasks:
    """The checks of the tokens that models see; they read each task's examples once."""

    def __init__(self, records: Records, dataset: str, num_seeds: int, with_numbers: bool):
        self._records, self._dataset, self._num_seeds = records, dataset, num_seeds
        self._with_numbers = with_numbers
        self._own_target = OwnTarget(records)
        self._own_negatives = OwnNegatives(records)
        self._held_out_negatives = HeldOutNegatives(records)
        self._ablation = HeldOutAblation()

    def checks(self) -> Iterator[Check]:
        for split in SPLITS:
            for task in examples.tasks_of(self._dataset, split, self._with_numbers):
                # A source remembers the first folder that it read from.
                use_data_dir(task.source, source.data_dir())
                yield from self._check_task(task, split)
        for check_of_all_tasks in (
            self._own_target,
            self._own_negatives,
            self._held_out_negatives,
            self._ablation,
        ):
            yield check_of_all_tasks.check()

    def _check_task(self, task: seqio.Task, split: str) -> Iterator[Check]:
        held_out = HeldOut(self._records, task, split) if split != "test" else None
        confirmation = Confirmation(self._records, task)
        for batch in _round_robin(list(self._streams(task, split))):
            if held_out:
                held_out.add(batch)
            self._own_target.add(batch, confirmation)
            self._own_negatives.add(batch)
            self._held_out_negatives.add(batch)
        if held_out:
            yield held_out.check()

    def _streams(self, task: seqio.Task, split: str) -> Iterator[Iterator[Batch]]:
        """The batches for each seed; for one seed only if the task samples nothing."""
        seen_first = None
        for seed in range(self._num_seeds if split == "train" else 1):
            batches = examples.arrays(task, split, seed)
            first = next(batches, None)
            if first is None or (seen_first and same_arrays(first, seen_first)):
                return
            batches = itertools.chain([first], batches)
            has_negatives = any(name in first for name in OFFERS)
            if split == "train" and seed == 0 and has_negatives:
                batches = self._ablation.compare(task, seed, batches)
            seen_first = seen_first or first
            yield map(examples.BatchReader(self._records, task, split, seed).read, batches)


def _round_robin(streams: list[Iterator[Batch]]) -> Iterator[Batch]:
    """Takes a batch from each stream in turn: the others prepare theirs while one is read."""
    for batches in itertools.zip_longest(*streams):
        yield from (batch for batch in batches if batch is not None)
