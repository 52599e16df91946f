"""Answers of a model to the examples of one task: beam search in a few static shapes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio

from recllm_tasks import tasks
from recllm_tasks.engine import devices
from recllm_tasks.engine.answers import answers_of
from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.models.beam_search import Beams, beam_search
from recllm_tasks.models.network import Transformer

# Inputs are padded to the next of these, so that few programs are compiled and little is padded.
BUCKETS = (32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

Example = Mapping[str, np.ndarray]


class TaskDecoder:
    """Beam search for one task: over its possible answers, or over the vocabulary."""

    def __init__(
        self,
        task: seqio.Task,
        network: Transformer,
        mesh: jax.sharding.Mesh,
        *,
        num_beams: int,
        batch_size: int,
        max_steps: int,
        constrained: bool = True,
    ):
        """Args:
        task: its answers are `tasks.answers`; without those, or unconstrained, text is free.
        network: of the parameters that `decode` is given.
        mesh: devices to split batches over.
        num_beams: the width of the beam.
        batch_size: examples decoded together; a multiple of the mesh's data axis.
        max_steps: tokens of a free text, EOS included.
        constrained: every beam is one of the answers.
        """
        self._network = network
        self._mesh = mesh
        self._num_beams = num_beams
        self._max_steps = max_steps
        self._data_size = mesh.shape["data"]
        self._batch_size = -(-batch_size // self._data_size) * self._data_size
        self._vocabulary = task.output_features["targets"].vocabulary
        self.answers, self._trie, self._answer_of_row = None, None, None
        answers = answers_of(task) if constrained else None
        if answers is not None:
            self.answers, self._answer_of_row = answers.texts, answers.text_of_answer
            # Once, and not with every batch.
            self._trie = jax.device_put(answers.trie, devices.whole(mesh))
        prompt = tasks.prompt_of(task)
        self._has_candidates = bool(prompt and prompt.template.offers_candidates)

    def decode(
        self, params: Any, examples: Sequence[Example], done: Callable[[int], None] | None = None
    ) -> Beams:
        """Beams of each example, in the order of `examples`, best first, as NumPy arrays.

        Args:
          params: of the network.
          examples: with `inputs`, and with `candidates` (catalog rows) where the task has them.
          done: is told how many more examples are decoded.

        Returns:
          Beams whose rows count `self.answers`.
        """
        results: list[tuple | None] = [None] * len(examples)
        for indices, length in self._batches(examples):
            beams = self._search(params, [examples[i] for i in indices], length)
            for i, beam in zip(indices, zip(*(np.asarray(part) for part in beams))):
                results[i] = beam
            if done:
                done(len(indices))
        return Beams(*(np.stack(part) for part in zip(*results)))

    def _batches(self, examples: Sequence[Example]) -> Iterator[tuple[np.ndarray, int]]:
        """(indices of a batch, padded length), the longest first: what fails, fails early."""
        sizes = np.array([len(example["inputs"]) for example in examples])
        order = np.argsort(-sizes, kind="stable")
        for start in range(0, len(order), self._batch_size):
            indices = order[start : start + self._batch_size]
            yield indices, padded_length(int(sizes[indices].max()))

    def _search(self, params, examples: Sequence[Example], length: int) -> Beams:
        # Who asks for one user's items does not wait for a full batch.
        rows = self._data_size if len(examples) <= self._data_size else self._batch_size
        inputs = np.zeros((rows, length), np.int32)
        for row, example in enumerate(examples):
            inputs[row, : len(example["inputs"])] = example["inputs"]
        candidates = None
        if self._has_candidates and self._trie is not None:
            listed = self._answer_of_row[np.stack([e["candidates"] for e in examples])]
            candidates = np.full((rows, listed.shape[1]), -1, np.int32)
            candidates[: len(examples)] = listed
        split = devices.split_batch(self._mesh)
        beams = beam_search(
            self._network,
            params,
            jax.device_put(inputs, split),
            self._trie,
            None if candidates is None else jax.device_put(candidates, split),
            num_beams=self._num_beams,
            max_steps=None if self._trie is not None else self._max_steps,
            eos_id=self._vocabulary.eos_id,
        )
        return Beams(*(part[: len(examples)] for part in beams))


def padded_length(length: int) -> int:
    """The bucket for `length` tokens."""
    for bucket in BUCKETS:
        if length <= bucket:
            return bucket
    return -(-length // BUCKETS[-1]) * BUCKETS[-1]


def check_settings(split: str, num_beams: int, batch_size: int, num_examples: int | None) -> None:
    """Raises UserError for what evaluation and inference cannot do."""
    if split not in ("validation", "test"):
        raise UserError(f"SPLIT: got {split!r}, expected 'validation' or 'test'; correct it")
    check_whole("NUM_BEAMS", num_beams, 1)
    check_whole("BATCH_SIZE", batch_size, 1)
    if num_examples is not None:
        check_whole("NUM_EXAMPLES (None is all)", num_examples, 1)
