"""Answers of a model to the examples of one task: beam search in a few static shapes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio

from recllm_tasks import tasks
from recllm_tasks.engine import devices
from recllm_tasks.engine.answers import answers_of
from recllm_tasks.errors import UserError, check_switch, check_whole
from recllm_tasks.models.beam_search import Beams, beam_search
from recllm_tasks.models.candidate_scores import score_candidates
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.templates import Choice

# Inputs are padded to the next of these, so that few programs are compiled and little is padded.
BUCKETS = (32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

# How candidates are ranked.
METHODS = ("beam", "score")

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
        exclude_history: bool = False,
        method: str = "beam",
    ):
        """Args:
        task: its answers are `tasks.answers`; without those, or unconstrained, text is free.
        network: of the parameters that `decode` is given.
        mesh: devices to split batches over.
        num_beams: the width of the beam.
        batch_size: examples decoded together; a multiple of the mesh's data axis.
        max_steps: tokens of a free text, EOS included.
        constrained: every beam is one of the answers.
        exclude_history: no beam is an item that the user has had (the paper allows them).
        method: "beam" (paper §4.1), or "score", which ranks all candidates of an example by their
          exact log-probabilities; a task without candidates is searched all the same.
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
        template = prompt.template if prompt and self._trie is not None else None
        self._has_candidates = bool(template and template.offers_candidates)
        self._scores = method == "score" and self._has_candidates
        is_item = bool(template and not isinstance(template.answer, Choice))
        self._excludes = exclude_history and is_item
        # Of an example: what is read here.
        self.features = (
            "inputs",
            *(["candidates"] if self._has_candidates else []),
            *(["exclude", "target"] if self._excludes else []),
        )

    def decode(
        self, params: Any, examples: Sequence[Example], done: Callable[[int], None] | None = None
    ) -> Beams:
        """Beams of each example, in the order of `examples`, best first, as NumPy arrays.

        Args:
          params: of the network.
          examples: with `inputs`, with `candidates` (catalog rows) where the task has them, and
            where the history is excluded with `exclude` (catalog rows) and `target`, one of them,
            which is not.
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
        inputs = jax.device_put(inputs, devices.split_batch(self._mesh))
        candidates = excluded = None
        if self._has_candidates:
            candidates = self._answers_of(rows, [e["candidates"] for e in examples])
        if self._excludes:
            seen = [e["exclude"][e["exclude"] != e["target"]] for e in examples]
            excluded = self._answers_of(rows, seen)
        if self._scores:
            beams = score_candidates(
                self._network, params, inputs, self._trie, candidates, excluded
            )
        else:
            beams = beam_search(
                self._network,
                params,
                inputs,
                self._trie,
                self._split(candidates),
                self._split(excluded),
                num_beams=self._num_beams,
                max_steps=None if self._trie is not None else self._max_steps,
                eos_id=self._vocabulary.eos_id,
            )
        return Beams(*(part[: len(examples)] for part in beams))

    def _answers_of(self, rows: int, listed: Sequence[np.ndarray]) -> np.ndarray:
        """Catalog rows of each example as answers, int32 [rows, M], padded with -1."""
        width = padded_length(max(map(len, listed)))
        found = np.full((rows, width), -1, np.int32)
        for row, items in enumerate(listed):
            found[row, : len(items)] = self._answer_of_row[items]
        return found

    def _split(self, array: np.ndarray | None) -> jax.Array | None:
        return None if array is None else jax.device_put(array, devices.split_batch(self._mesh))


def padded_length(length: int) -> int:
    """The bucket for `length` tokens."""
    for bucket in BUCKETS:
        if length <= bucket:
            return bucket
    return -(-length // BUCKETS[-1]) * BUCKETS[-1]


def check_settings(
    split: str,
    num_beams: int,
    batch_size: int,
    num_examples: int | None,
    method: str,
    **switches: bool,
) -> None:
    """Raises UserError for what evaluation and inference cannot do."""
    for name, value in switches.items():
        check_switch(name.upper(), value)
    if method not in METHODS:
        raise UserError(f"METHOD: got {method!r}, expected one of {', '.join(METHODS)}; correct it")
    if split not in ("validation", "test"):
        raise UserError(f"SPLIT: got {split!r}, expected 'validation' or 'test'; correct it")
    check_whole("NUM_BEAMS", num_beams, 1)
    check_whole("BATCH_SIZE", batch_size, 1)
    if num_examples is not None:
        check_whole("NUM_EXAMPLES (None is all)", num_examples, 1)
