"""How fast training batches are made, without a model, and which stage limits it."""

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
import seqio

from recllm_tasks.engine import batches
from recllm_tasks.prompts import packing, stream

# Rows of a batch; their number hardly matters.
_BATCH_SIZE = 64

ORDER, PACKING = "order and mixing", "packing"


@dataclasses.dataclass(frozen=True)
class Throughput:
    """What was measured.

    Attributes:
      examples: a second, all cores, as training reads them.
      rows: packed rows a second, the same.
      stages: microseconds an example of the mixture, on one core, by stage: the order, each task's
        examples, and packing.
      shares: of each task, the share of the mixture's examples that are its.
      one_by_one: tasks that are read through SeqIO, one example at a time.
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
    made = batches.training_batches(mixture, lengths, _BATCH_SIZE, seed=0)
    next(made)
    start, examples, rows = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - start) < seconds / 2:
        examples += batches.num_examples(next(made))
        rows += _BATCH_SIZE
    made.close()
    names = [task.name for task in stream.tasks_of(found)[0]]
    stages, counts = _stages(stream.Examples(found, lengths, 0), names, lengths, seconds / 2)
    total = sum(counts.values())
    return Throughput(
        examples=examples / passed,
        rows=rows / passed,
        stages={stage: 1e6 * spent / total for stage, spent in stages.items()},
        shares={name: count / total for name, count in counts.items()},
        one_by_one=tuple(t.name for t in seqio.get_subtasks(found) if not stream.is_fast(t)),
    )


def _stages(
    examples: stream.Examples, names: list[str], lengths: Mapping[str, int], seconds: float
) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of each stage on one thread, and how many examples each task made."""
    spent = dict.fromkeys([ORDER, *names, PACKING], 0.0)
    counts = dict.fromkeys(names, 0)
    sizes = lengths["inputs"], lengths["targets"]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        at = [time.perf_counter()]
        chosen, parts = examples.take()
        at.append(time.perf_counter())
        for number, name in enumerate(names):
            if count := int(np.sum(chosen == number)):
                examples.make_of_task(number, parts[number])
            at.append(time.perf_counter())
            counts[name] += count
        made = examples.make((chosen, parts))
        start = time.perf_counter()
        row_of = packing.plan(made[0].lengths, made[1].lengths, *sizes)
        packing.pack(*made, row_of, *sizes)
        spent[PACKING] += time.perf_counter() - start
        for stage, start, stop in zip([ORDER, *names], at, at[1:]):
            spent[stage] += stop - start
    return spent, counts
