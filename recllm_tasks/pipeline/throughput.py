"""How fast training batches are made, without a model, and which stage limits it."""

import dataclasses
import itertools
import time
from collections.abc import Mapping

import seqio

from recllm_tasks.pipeline import packing
from recllm_tasks.pipeline.examples import SIDES, is_batched, tasks_and_rates, training_batches_of
from recllm_tasks.pipeline.training import BLOCK, blocks_of, num_examples, training_batches

# Rows of a batch; their number hardly matters.
_BATCH_SIZE = 64

PACKING = "packing"


@dataclasses.dataclass(frozen=True)
class Throughput:
    """What was measured.

    Attributes:
      examples: a second, on all cores, as training reads them.
      rows: packed rows a second, likewise.
      stages: microseconds of processor time an example of the mixture takes, by stage: each task's
        examples, and packing.
      shares: of each task, its share of the mixture's examples.
      one_by_one: tasks that are read one example at a time.
    """

    examples: float
    rows: float
    stages: dict[str, float]
    shares: dict[str, float]
    one_by_one: tuple[str, ...]

    @property
    def limit(self) -> str:
        """The stage that takes most of the time."""
        return max(self.stages, key=self.stages.__getitem__)


def measure(mixture: str, lengths: Mapping[str, int], seconds: float) -> Throughput:
    """Measures a registered task or mixture, for about so long."""
    found = seqio.get_mixture_or_task(mixture)
    made = training_batches(mixture, lengths, _BATCH_SIZE, seed=0)
    next(made)
    start, examples, rows = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - start) < seconds / 2:
        examples += num_examples(next(made))
        rows += _BATCH_SIZE
    del made
    tasks, rates = tasks_and_rates(found)
    shares = [rate / sum(rates) for rate in rates]
    stages = {}
    for task, share in zip(tasks, shares):
        batches = iter(training_batches_of(task, lengths, BLOCK * share, seed=0))
        spent = _seconds_a_block(lambda batches=batches: next(batches), seconds / 4 / len(tasks))
        stages[task.name] = 1e6 * spent / BLOCK
    block = next(iter(blocks_of(found, lengths, seed=0)))
    inputs, targets = (block[side] for side in SIDES)
    sizes = lengths["inputs"], lengths["targets"]

    def pack() -> None:
        row_of = packing.plan(inputs.row_lengths().numpy(), targets.row_lengths().numpy(), *sizes)
        packing.pack(inputs, targets, row_of, *sizes)

    stages[PACKING] = 1e6 * _seconds_a_block(pack, seconds / 4) / BLOCK
    return Throughput(
        examples=examples / passed,
        rows=rows / passed,
        stages=stages,
        shares={task.name: share for task, share in zip(tasks, shares)},
        one_by_one=tuple(task.name for task in tasks if not is_batched(task)),
    )


def _seconds_a_block(make, seconds: float) -> float:
    """Processor time of all threads that `make()` takes, after the first time."""
    make()
    end, start = time.perf_counter() + seconds, time.process_time()
    for number in itertools.count(1):
        make()
        if time.perf_counter() > end:
            return (time.process_time() - start) / number
    raise AssertionError("unreachable")
