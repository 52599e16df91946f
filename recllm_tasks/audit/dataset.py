"""All checks of one dataset, one after the other."""

import itertools
from collections.abc import Iterator

import seqio

from recllm_tasks.audit import examples, leave_one_out, negatives, short_ids, ties
from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.held_out import Confirmation, HeldOut, OwnTarget
from recllm_tasks.audit.offers import HeldOutNegatives, OwnNegatives
from recllm_tasks.audit.records import Records, read_records
from recllm_tasks.audit.verdict import Check
from recllm_tasks.audit.withheld import Withheld, same_arrays, use_data_dir
from recllm_tasks.prompts import source
from recllm_tasks.prompts.candidates import OFFERS
from recllm_tasks.prompts.source import SPLITS

# Without these the others have nothing to stand on.
_FIRST = (leave_one_out.check_whole, leave_one_out.check_same_users)
_STORED = (
    leave_one_out.check_splits,
    leave_one_out.check_repeats,
    negatives.check_stored_negatives,
    negatives.check_popularity,
    short_ids.check_order,
    short_ids.check_next_id,
    ties.check_ties,
)


def audit(dataset: str, num_seeds: int = 2, with_numbers: bool = False) -> Iterator[Check]:
    """Checks a prepared dataset and every registered task over it, whole.

    Args:
      dataset: its name; it lies in the data folder in force.
      num_seeds: how many of SeqIO's seeds a task that samples is run with.
      with_numbers: look at P5's tasks too, which write items as bare numbers.

    Yields:
      Each check when it is done. When the records are not whole, what follows is left out.

    Raises:
      UserError: the dataset is not prepared, or damaged.
    """
    records = read_records(source.CatalogSource(dataset))
    for check in _FIRST:
        done = check(records)
        yield done
        if not done.passed:
            return
    for check in _STORED:
        yield check(records)
    yield from _Tasks(records, dataset, num_seeds, with_numbers).checks()


class _Tasks:
    """What is checked on the tokens that models see, with one pass over each task's examples."""

    def __init__(self, records: Records, dataset: str, num_seeds: int, with_numbers: bool):
        self._records, self._dataset, self._num_seeds = records, dataset, num_seeds
        self._with_numbers = with_numbers
        self._own_target = OwnTarget(records)
        self._own_negatives = OwnNegatives(records)
        self._held_out_negatives = HeldOutNegatives(records)
        self._withheld = Withheld()

    def checks(self) -> Iterator[Check]:
        for split in SPLITS:
            for task in examples.tasks_of(self._dataset, split, self._with_numbers):
                # A source remembers the folder that it first read from.
                use_data_dir(task.source, source.data_dir())
                yield from self._check_task(task, split)
        for whole in (
            self._own_target,
            self._own_negatives,
            self._held_out_negatives,
            self._withheld,
        ):
            yield whole.check()

    def _check_task(self, task: seqio.Task, split: str) -> Iterator[Check]:
        held_out = HeldOut(self._records, task, split) if split != "test" else None
        confirmation = Confirmation(self._records, task)
        for batch in _in_turns(list(self._streams(task, split))):
            if held_out:
                held_out.see(batch)
            self._own_target.see(batch, confirmation)
            self._own_negatives.see(batch)
            self._held_out_negatives.see(batch)
        if held_out:
            yield held_out.check()

    def _streams(self, task: seqio.Task, split: str) -> Iterator[Iterator[Batch]]:
        """The batches of each seed; of one seed alone where the task samples nothing."""
        seen_first = None
        for seed in range(self._num_seeds if split == "train" else 1):
            batches = examples.arrays(task, split, seed)
            first = next(batches, None)
            if first is None or (seen_first and same_arrays(first, seen_first)):
                return
            batches = itertools.chain([first], batches)
            is_offering = any(name in first for name in OFFERS)
            if split == "train" and seed == 0 and is_offering:
                batches = self._withheld.compare(task, seed, batches)
            seen_first = seen_first or first
            yield map(examples.BatchReader(self._records, task, split, seed).read, batches)


def _in_turns(streams: list[Iterator[Batch]]) -> Iterator[Batch]:
    """One batch of each stream after the other: while one is read, the others make theirs."""
    for batches in itertools.zip_longest(*streams):
        yield from (batch for batch in batches if batch is not None)
