"""Training batches: the examples of a task or mixture, packed, from any step on."""

import collections
from collections.abc import Iterator, Mapping

import jax
import numpy as np
import seqio

from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.prompts import draws, packing
from recllm_tasks.prompts.stream import Examples, Shard, made_ahead


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raises UserError unless both features have a length of at least one token."""
    if not isinstance(lengths, Mapping) or set(lengths) != {"inputs", "targets"}:
        raise UserError(
            f"TASK_FEATURE_LENGTHS: got {lengths!r}, expected tokens of both sides, such as "
            "{'inputs': 1024, 'targets': 128}; correct it"
        )
    for name, length in lengths.items():
        check_whole(f"TASK_FEATURE_LENGTHS['{name}']", length, 1)


def training_batches(
    mixture: str,
    lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    pack: bool = True,
    shard: Shard = Shard(),  # noqa: B008 (frozen)
    workers: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of examples, the same ones for the same seed, however many the cores.

    Args:
      mixture: a registered task or mixture.
      lengths: of `inputs` and `targets`, in tokens.
      batch_size: rows in a batch.
      seed: of the order and of all that is sampled.
      start_step: batches to leave out, to go on where a run stopped. Of those, examples are made
        and counted, but not packed: some 15,000 packed rows a second (tools/bench_pipeline.py).
      pack: several examples in a row; else each has its own, padded.
      shard: of a host: examples that the other hosts do not see.
      workers: threads that make examples; None is one a core.

    Yields:
      The features of `packing.PACKED`, or of `packing.PADDED`, int32 [batch_size, length].
    """
    check_lengths(lengths)
    examples = Examples(seqio.get_mixture_or_task(mixture), lengths, seed, shard)
    rows = _Rows(examples, lengths, seed, pack)
    return rows.batches(batch_size, start_step * batch_size, workers)


class _Rows:
    """Stretches of examples as rows of a batch's features."""

    def __init__(self, examples: Examples, lengths: Mapping[str, int], seed: int, pack: bool):
        self._examples, self._pack, self._seed = examples, pack, seed
        self._lengths = lengths["inputs"], lengths["targets"]
        self._stretch = 0

    def batches(self, batch_size: int, skip: int, workers: int | None):
        """Batches of rows, all but the first `skip` rows."""
        left: list[dict[str, np.ndarray]] = []
        num_left = 0
        for number_of_rows, rows in self._after(skip, workers):
            left.append(rows)
            num_left += number_of_rows
            if num_left < batch_size:
                continue
            together = {name: np.concatenate([part[name] for part in left]) for name in left[0]}
            whole = num_left - num_left % batch_size
            for start in range(0, whole, batch_size):
                yield {name: a[start : start + batch_size] for name, a in together.items()}
            left = [{name: a[whole:] for name, a in together.items()}]
            num_left -= whole

    def _after(self, skip: int, workers: int | None):
        """(number of rows, rows) of each stretch, but for the first `skip` rows."""
        passed = 0
        if skip:
            taken = collections.deque()

            def take():
                taken.append(self._take())
                return taken[-1]

            for count in made_ahead(take, self._count, workers):
                if passed + count > skip:
                    break
                passed += count
                taken.popleft()
            # What was taken ahead is made now.
            ahead = iter(taken)
        else:
            ahead = iter(())

        def take_again():
            return next(ahead, None) or self._take()

        for rows in made_ahead(take_again, self._make, workers):
            cut = {name: array[skip - passed :] for name, array in rows.items()}
            passed = skip
            yield len(cut["encoder_input_tokens"]), cut

    def _take(self):
        self._stretch += 1
        return self._stretch, self._examples.take()

    def _count(self, taken) -> int:
        inputs, targets = self._examples.make(taken[1])
        if not self._pack:
            return len(inputs)
        return int(packing.plan(inputs.lengths, targets.lengths, *self._lengths).max()) + 1

    def _make(self, taken) -> dict[str, np.ndarray]:
        number, examples = taken
        inputs, targets = self._examples.make(examples)
        if not self._pack:
            return packing.pad(inputs, targets, *self._lengths)
        row_of = packing.plan(inputs.lengths, targets.lengths, *self._lengths)
        # Rows come in the order of their lengths out of the plan: a batch is a mix of all.
        order = draws.permutation(np.array([[self._seed, number]]), int(row_of.max()) + 1)
        return packing.pack(inputs, targets, order[row_of], *self._lengths)


def num_examples(batch: Mapping[str, np.ndarray]) -> int:
    """Examples that are packed into a batch."""
    return int(batch["decoder_segment_ids"].max(axis=1).sum())


def put(batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    return {name: jax.device_put(array, sharding) for name, array in batch.items()}
