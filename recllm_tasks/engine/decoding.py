"""A model's answers to the examples of a task: beam search in a few static shapes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio

from recllm_tasks import tasks
from recllm_tasks.engine import devices
from recllm_tasks.engine.answer_tries import answers_of
from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.models.beam_search import Beams, beam_search
from recllm_tasks.models.candidate_scores import score_candidates
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.templates import Choice
from recllm_tasks.runs.decoding import LEAVE_OUT, Decoding

# Inputs are padded to the next of these: few programs to compile, little padding.
BUCKETS = (8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

Example = Mapping[str, np.ndarray]


class TaskDecoder:
    """Beam search for one task: over its valid answers, or over the vocabulary."""

    def __init__(
        self,
        task: seqio.Task,
        network: Transformer,
        mesh: jax.sharding.Mesh,
        decoding: Decoding,
        max_steps: int,
    ):
        """Args:
        task: its valid answers are `tasks.answers`; a task without them gets free text.
        network: the model whose parameters `decode` gets.
        mesh: devices to split batches over; the batch is rounded up to a multiple of them.
        decoding: the settings.
        max_steps: maximum length of free text in tokens, EOS included.
        """
        self._network = network
        self._mesh = mesh
        self._num_beams = decoding.num_beams
        self._max_steps = max_steps
        self._data_size = mesh.shape["data"]
        self._batch_size = -(-decoding.batch_size // self._data_size) * self._data_size
        self._eos_id = task.output_features["targets"].vocabulary.eos_id
        self.answers: Sequence[str] = ()  # none for free text
        self._answer_of_row = self._own_answer_of_row = np.zeros(0, np.int32)
        self._trie = None
        answers = answers_of(task) if decoding.constrained else None
        if answers is not None:
            self.answers, self._answer_of_row = answers.texts, answers.text_of_answer
            self._own_answer_of_row = answers.own_text_of_answer
            # Once, not with every batch.
            self._trie = jax.device_put(answers.trie, devices.replicated(mesh))
        prompt = tasks.prompt_of(task)
        template = prompt.template if prompt and self._trie is not None else None
        self._has_beginning = bool(prompt and prompt.template.beginning)
        self._has_candidates = bool(template and template.offers_candidates)
        self._scores = decoding.method == "score" and self._has_candidates
        # Lists made of the whole catalog: see `seen_rule`.
        lists = template and not self._has_candidates and not isinstance(template.answer, Choice)
        keeps_repeats = bool(prompt) and prompt.source.info().keeps_repeats
        self._excludes = bool(lists) and decoding.resolved(keeps_repeats).seen == LEAVE_OUT
        self._task = task.name
        # The features of an example that `decode` reads.
        self.features = (
            "inputs",
            *(["beginning"] if self._has_beginning else []),
            *(["candidates"] if self._has_candidates else []),
            *(["exclude", "target"] if self._excludes else []),
        )

    def decode(
        self, params: Any, examples: Sequence[Example], done: Callable[[int], None] | None = None
    ) -> Beams:
        """The beams of each example, best first, in the order of `examples`, as NumPy arrays.

        Args:
          params: the network's parameters.
          examples: each with `inputs`; with `beginning` if the task's target has one that is given;
            with `candidates` (catalog rows) if the task has them; and
            with `exclude` (catalog rows, oldest first) and `target` if seen items are left out.
            Where `exclude` ends with the target, all before it is the history. A target that is in
            the history too, as where repeats are kept, is left out: otherwise its being allowed
            would give it away. An answer that several items share stays.
          done: called with the number of examples decoded since the last call.

        Returns:
          Beams whose rows are indices into `self.answers`.

        Raises:
          UserError: as `check`.
        """
        self.check(examples[0] if examples else self.features)
        results: list[tuple | None] = [None] * len(examples)
        for indices in self._batches(examples):
            beams = self._search(params, [examples[i] for i in indices])
            for i, beam in zip(indices, zip(*(np.asarray(part) for part in beams))):
                results[i] = beam
            if done:
                done(len(indices))
        return Beams(*(np.stack(part) for part in zip(*results)))

    def check(self, features: Iterable[str]) -> None:
        """Raises UserError unless examples have what `decode` reads."""
        missing = [name for name in self.features if name not in features]
        if missing:
            raise UserError(
                f"Examples of '{self._task}': got none of {', '.join(missing)}, expected all that "
                "decoding reads; keep them in the task's examples, or, if only exclude or target "
                "is missing, set SEEN='keep'"
            )

    def _batches(self, examples: Sequence[Example]) -> Iterator[np.ndarray]:
        """The indices of each batch, longest first, so that failures show early."""
        read = ("inputs", "beginning") if self._has_beginning else ("inputs",)
        sizes = np.array([max(len(example[name]) for name in read) for example in examples])
        order = np.argsort(-sizes, kind="stable")
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _search(self, params, examples: Sequence[Example]) -> Beams:
        # Small requests are not padded to a full batch.
        rows = self._data_size if len(examples) <= self._data_size else self._batch_size
        listed = [example["inputs"] for example in examples]
        inputs = np.zeros((rows, padded_length(max(map(len, listed)))), np.int32)
        for row, tokens in enumerate(listed):
            inputs[row, : len(tokens)] = tokens
        inputs = self._split(inputs)
        beginning = None
        if self._has_beginning:
            listed = [example["beginning"] for example in examples]
            beginning = np.zeros((rows, padded_length(max(map(len, listed)))), np.int32)
            for row, tokens in enumerate(listed):
                beginning[row, beginning.shape[1] - len(tokens) :] = tokens
            beginning = self._split(beginning)
        candidates = excluded = None
        if self._has_candidates:
            candidates = self._answers_of(rows, [e["candidates"] for e in examples])
        if self._excludes:
            histories = [_history_of(example) for example in examples]
            excluded = self._answers_of(rows, histories, self._own_answer_of_row)
        if self._scores and self._trie is not None:
            beams = score_candidates(
                self._network, params, inputs, self._trie, candidates, excluded, beginning
            )
        else:
            beams = beam_search(
                self._network,
                params,
                inputs,
                self._trie,
                self._split(candidates),
                self._split(excluded),
                beginning,
                num_beams=self._num_beams,
                max_steps=None if self._trie is not None else self._max_steps,
                eos_id=self._eos_id,
            )
        return Beams(*(part[: len(examples)] for part in beams))

    def _answers_of(
        self, rows: int, listed: Sequence[np.ndarray], answer_of_row: np.ndarray | None = None
    ) -> np.ndarray:
        """Each example's catalog rows as indices of answers, int32 [rows, M], padded with -1."""
        answer_of_row = self._answer_of_row if answer_of_row is None else answer_of_row
        width = padded_length(max(map(len, listed)))
        found = np.full((rows, width), -1, np.int32)
        for row, items in enumerate(listed):
            found[row, : len(items)] = answer_of_row[items]
        return found

    def _split(self, array: np.ndarray | None) -> jax.Array | None:
        return None if array is None else jax.device_put(array, devices.split_batch(self._mesh))


def _history_of(example: Example) -> np.ndarray:
    """The items of `exclude` before the target, catalog rows."""
    rows = example["exclude"]
    return rows[:-1] if len(rows) and rows[-1] == example["target"] else rows


def padded_length(length: int) -> int:
    """The bucket for `length` tokens."""
    for bucket in BUCKETS:
        if length <= bucket:
            return bucket
    return -(-length // BUCKETS[-1]) * BUCKETS[-1]


def check_selection(split: str, num_examples: int | None) -> None:
    """Raises UserError for an unknown split or an impossible number of examples."""
    if split not in ("validation", "test"):
        raise UserError(f"SPLIT: got {split!r}, expected 'validation' or 'test'; correct it")
    if num_examples is not None:
        check_whole("NUM_EXAMPLES (None is all)", num_examples, 1)
