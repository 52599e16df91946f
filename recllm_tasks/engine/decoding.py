"""A model's answers to the examples of a task: beam search in a few static shapes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import seqio

from recllm_tasks import tasks
from recllm_tasks.data.item_list import allowed_items
from recllm_tasks.engine import devices
from recllm_tasks.engine.answer_tries import answers_of
from recllm_tasks.engine.item_prior import ItemPrior
from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.models import exported_search
from recllm_tasks.models.beam_search import Beams, beam_search
from recllm_tasks.models.candidate_scores import score_candidates
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.models.network import Transformer
from recllm_tasks.models.prior import Prior
from recllm_tasks.prompts.source import LATEST
from recllm_tasks.prompts.templates import Choice
from recllm_tasks.runs.decoding import LEAVE_OUT, Decoding

# Inputs are padded to the next of these: few programs to compile, little padding.
BUCKETS = (8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

Example = Mapping[str, np.ndarray]


class Shapes(NamedTuple):
    """Static shapes of a decoder: each of `rows` with each of `lengths` is a program to compile.

    Attributes:
      lengths: that inputs are padded to, ascending.
      rows: numbers of examples that batches are padded to, ascending.
    """

    lengths: Sequence[int]
    rows: Sequence[int]

    @classmethod
    def for_serving(cls, lengths: Mapping[str, int], batch_size: int) -> "Shapes":
        """Few lengths, as all are compiled before the first request, and rows in powers of two.

        Our choice: the longest prompt, a half and a quarter of it; more would save little padding.

        Args:
          lengths: of the run's features, in tokens.
          batch_size: the most rows.
        """
        longest = padded_length(max(lengths.values()))
        rows = [1 << power for power in range(batch_size.bit_length()) if 1 << power < batch_size]
        found = {padded_length(-(-longest // part)) for part in (4, 2, 1)}
        return cls(sorted(found), [*rows, batch_size])


class TaskDecoder:
    """Beam search for one task: over its valid answers, or over the vocabulary."""

    def __init__(
        self,
        task: seqio.Task,
        network: Transformer,
        mesh: jax.sharding.Mesh,
        decoding: Decoding,
        max_steps: int,
        *,
        shapes: "Shapes | None" = None,
    ):
        """Args:
        task: its valid answers are `tasks.answers`; a task without them gets free text.
        network: the model whose parameters `decode` gets.
        mesh: devices to split batches over; the batch is rounded up to a multiple of them.
        decoding: the settings.
        max_steps: maximum length of free text in tokens, EOS included.
        shapes: what is padded to what; by default to BUCKETS, and to one example or the batch size.

        Raises:
          UserError: the prior's weight is still to be chosen.
        """
        if isinstance(decoding.prior_weight, str):
            raise UserError(
                f"PRIOR_WEIGHT: got {decoding.prior_weight!r}, expected a number here; only "
                "`recllm eval` and `recllm infer` choose one"
            )
        self.prior_weight = decoding.prior_weight
        self._network = network
        self._mesh = mesh
        self._num_beams = decoding.num_beams
        self._max_steps = max_steps
        self._data_size = mesh.shape["data"]
        # Small requests are not padded to a full batch.
        shapes = shapes or Shapes(BUCKETS, (1, decoding.batch_size))
        self._row_sizes = [self._whole(rows) for rows in shapes.rows]
        self._batch_size = self._row_sizes[-1]
        self._lengths = shapes.lengths
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
        if self._has_beginning and self._trie is None:
            raise UserError(
                f"CONSTRAINED for '{task.name}': got False, expected True, because its targets are "
                "sequences that go on: no text of them ends; leave CONSTRAINED out"
            )
        # What has the history. Where the decoder reads it, the inputs are the task's few words.
        self._history_in = "beginning" if self._has_beginning else "inputs"
        self._has_candidates = bool(template and template.offers_candidates)
        self._scores = decoding.method == "score" and self._has_candidates
        # Lists made of the whole catalog: see `seen_rule`.
        is_item = bool(template and not isinstance(template.answer, Choice))
        lists = is_item and not self._has_candidates
        keeps_repeats = bool(prompt) and prompt.source.info().keeps_repeats
        self._excludes = lists and decoding.resolved(keeps_repeats).seen == LEAVE_OUT
        self._task = task.name
        self._allowed = None
        if lists and prompt and (decoding.allow or decoding.deny):
            catalog = prompt.source.catalog()
            self._allowed = self.mask(allowed_items(catalog, decoding.allow, decoding.deny))
        self._prior = None
        if decoding.prior_weight and prompt and answers and is_item:
            self._prior = ItemPrior(prompt.source, answers)
        # The features of an example that `decode` reads.
        self.features = (
            "inputs",
            *(["beginning"] if self._has_beginning else []),
            *(["candidates"] if self._has_candidates else []),
            *(["exclude", "target"] if self._excludes or self._prior else []),
        )

    def decode(
        self,
        params: Any,
        examples: Sequence[Example],
        done: Callable[[int], None] | None = None,
        *,
        allowed: Sequence[ItemMask] | None = None,
    ) -> Beams:
        """The beams of each example, best first, in the order of `examples`, as NumPy arrays.

        Args:
          params: the network's parameters.
          examples: each with `inputs`; with `beginning` if the task's target has one that is given;
            with `candidates` (catalog rows) if the task has them; and
            with `exclude` (catalog rows, oldest first) and `target` if seen items are left out or
            there is a prior, which is that of the history.
            Where `exclude` ends with the target, all before it is the history. A target that is in
            the history too, as where repeats are kept, is left out: otherwise its being allowed
            would give it away. An answer that several items share stays. An example with a true
            `keeps_seen` has none left out.
          done: called with the number of examples decoded since the last call.
          allowed: the answers that each example may have, from `mask`; beams only, without
            candidates. None allows what the settings do.

        Returns:
          Beams whose rows are indices into `self.answers`.

        Raises:
          UserError: as `check`.
        """
        self.check(examples[0] if examples else self.features)
        if allowed is None and self._allowed is not None:
            allowed = [self._allowed] * len(examples)
        results: list[tuple | None] = [None] * len(examples)
        for indices in self._batches(examples):
            masks = [allowed[i] for i in indices] if allowed is not None else None
            beams = self._search(params, [examples[i] for i in indices], masks)
            for i, beam in zip(indices, zip(*beams)):
                results[i] = beam
            if done:
                done(len(indices))
        return Beams(*(np.stack(part) for part in zip(*results)))

    def log_probs(
        self,
        params: Any,
        examples: Sequence[Example],
        items: Sequence[np.ndarray],
        done: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Exact log-probabilities of some items of each example.

        Args:
          params: the network's parameters.
          examples: as in `decode`.
          items: of each example, int [n], catalog rows, each with an answer.
          done: as in `decode`.

        Returns:
          Of each example float32 [2, n]: log p(model), and log p(item-to-item), 0 without a prior.
        """
        trie = self._trie
        assert trie is not None, "free text has no items"
        found: list[np.ndarray] = [np.zeros(0)] * len(examples)
        for indices in self._batches(examples):
            chosen = [examples[i] for i in indices]
            inputs, beginning = self._read(chosen)
            answers_BxM = self._answers_of(len(inputs), [items[i] for i in indices])
            beams = score_candidates(
                self._network,
                params,
                inputs,
                trie,
                answers_BxM,
                None,
                beginning,
                scores_eos=not self._has_beginning,
            )
            prior_BxM = np.zeros(answers_BxM.shape, np.float32)
            if self._prior:
                prior = self._prior_of(
                    chosen, len(inputs), None, self._excluded(chosen, len(inputs))
                )
                place_BxM = np.asarray(trie.item_positions)[np.maximum(answers_BxM, 0)]
                prior_BxM = np.asarray(
                    prior.log_mass(place_BxM, place_BxM + 1, np.ones_like(place_BxM))
                )
            for row, i in enumerate(indices):
                own = answers_BxM[row, : len(items[i])]
                order = np.argsort(beams.rows_BxK[row], kind="stable")
                place = order[np.searchsorted(beams.rows_BxK[row], own, sorter=order)]
                found[i] = np.stack([beams.log_probs_BxK[row, place], prior_BxM[row, : len(own)]])
            if done:
                done(len(indices))
        return found

    def mask(self, allowed_N: np.ndarray) -> ItemMask:
        """The mask of a list of items, for `decode`.

        Args:
          allowed_N: bool, by catalog row. An answer of several items is allowed if one of them is.
        """
        assert self._trie is not None, "free text has no items"
        own = self._answer_of_row[allowed_N]
        allowed_A = np.zeros(len(self.answers), bool)
        allowed_A[own[own >= 0]] = True
        return ItemMask.of(self._trie, allowed_A)

    def compile(self, params: Any, prompt: Example) -> Iterator[None]:
        """Compiles all that `decode` with masks can need for any history; yields after each.

        Args:
          params: as in `decode`.
          prompt: of some history.
        """
        mask = self.mask_of_all()
        if self._prior:
            self._prior.reserve()
        given = {**prompt, "exclude": np.zeros(1, np.int32), "target": np.int32(-1)}
        for rows in self._row_sizes:
            for length in self._lengths:
                example = {**given, self._history_in: np.ones(length, np.int32)}
                self.decode(params, [example] * rows, allowed=[mask] * rows)
                yield

    def export(self, params: Any, example: Example) -> tuple[bytes, dict, dict, dict]:
        """The search as a program for JAX alone, in this decoder's largest shape.

        Args:
          params: as in `decode`.
          example: as in `decode`, of some history.

        Returns:
          The program and its arrays (models/exported_search.py); the example's inputs, and the
          beams that the program must give for them: arrays by name, [B, …].

        Raises:
          UserError: there is a prior.
        """
        assert self._trie is not None, "free text has no items"
        if self._prior:
            raise UserError(
                f"PRIOR_WEIGHT: got {self.prior_weight:g}, expected 0, because the exported "
                "program has no prior; leave it out"
            )
        rows = self._row_sizes[-1]
        inputs, beginning = self._read([example] * rows, full=True)
        excluded = self._excluded([example] * rows, rows)
        masks = ItemMask.stack([self.mask_of_all()] * rows)
        if excluded is not None:
            masks = masks.without(self._trie, excluded)
        arrays = exported_search.arrays_of(params, self._trie)
        program = exported_search.export(
            self._network,
            arrays,
            self._trie,
            rows,
            inputs.shape[1],
            length_of_beginning=None if beginning is None else beginning.shape[1],
            num_beams=self._num_beams,
            scores_eos=not self._has_beginning,
        )
        given = {"inputs": inputs, "beginning": beginning, **masks._asdict()}
        beams = self._search(params, [example] * rows, [self.mask_of_all()] * rows)
        return (
            program,
            arrays,
            {name: np.asarray(array) for name, array in given.items() if array is not None},
            beams._asdict(),
        )

    def mask_of_all(self) -> ItemMask:
        return self.mask(np.ones(len(self._answer_of_row), bool))

    def check(self, features: Iterable[str]) -> None:
        """Raises UserError unless examples have what `decode` reads."""
        missing = [name for name in self.features if name not in features]
        if missing:
            raise UserError(
                f"Examples of '{self._task}': got none of {', '.join(missing)}, expected all that "
                "decoding reads; keep them in the task's examples, or, if only exclude or target "
                "is missing, set SEEN='keep' and PRIOR_WEIGHT=0"
            )

    def _batches(self, examples: Sequence[Example]) -> Iterator[np.ndarray]:
        """The indices of each batch, longest first, so that failures show early."""
        read = ("inputs", "beginning") if self._has_beginning else ("inputs",)
        sizes = np.array([max(len(example[name]) for name in read) for example in examples])
        order = np.argsort(-sizes, kind="stable")
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _whole(self, rows: int) -> int:
        """Rounded up to rows for all devices."""
        return -(-rows // self._data_size) * self._data_size

    def _search(
        self, params, examples: Sequence[Example], allowed: Sequence[ItemMask] | None = None
    ) -> Beams:
        inputs, beginning = self._read(examples)
        rows, candidates = len(inputs), None
        if self._has_candidates:
            candidates = self._answers_of(rows, [e["candidates"] for e in examples])
        excluded, masks = self._excluded(examples, rows), None
        if allowed is not None and self._trie is not None:
            masks = ItemMask.stack([*allowed, *[allowed[0]] * (rows - len(allowed))])
            if excluded is not None:
                masks = masks.without(self._trie, excluded)
        prior = None
        if self._prior:
            prior = self._prior_of(examples, rows, candidates, excluded, masks)
        if self._scores and self._trie is not None:
            beams = score_candidates(
                self._network,
                params,
                inputs,
                self._trie,
                candidates,
                excluded,
                beginning,
                prior,
                self.prior_weight,
                scores_eos=not self._has_beginning,
            )
        else:
            beams = beam_search(
                self._network,
                params,
                inputs,
                self._trie,
                self._split(candidates),
                self._split(excluded if masks is None else None),
                beginning,
                num_beams=self._num_beams,
                max_steps=None if self._trie is not None else self._max_steps,
                eos_id=self._eos_id,
                scores_eos=not self._has_beginning,
                prior=self._split(prior),
                prior_weight=self.prior_weight,
                allowed=self._split(masks),
            )
        # Cut by NumPy: JAX would compile a slice for every number of examples.
        return Beams(*(np.asarray(part)[: len(examples)] for part in beams))

    def _read(
        self, examples: Sequence[Example], full: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """What encoder and decoder read, int32 [rows, L], and [rows, P] or None.

        `full` takes the largest of `lengths` for what has the history, whatever the examples'.
        """
        rows = next(size for size in self._row_sizes if size >= len(examples))

        def padded(name: str, aligned_right: bool) -> jax.Array:
            listed = [example[name] for example in examples]
            longest = max(map(len, listed))
            if full and name == self._history_in:
                longest = self._lengths[-1]
            length = padded_length(longest, self._lengths)
            tokens = np.zeros((rows, length), np.int32)
            for row, own in zip(tokens, listed):
                start = len(row) - len(own) if aligned_right else 0
                row[start : start + len(own)] = own
            return self._split(tokens)

        return padded("inputs", False), padded("beginning", True) if self._has_beginning else None

    def _excluded(self, examples: Sequence[Example], rows: int) -> np.ndarray | None:
        if not self._excludes:
            return None
        nothing = np.zeros(0, np.int32)
        histories = [nothing if e.get("keeps_seen") else _history_of(e) for e in examples]
        return self._answers_of(rows, histories, self._own_answer_of_row)

    def _prior_of(
        self,
        examples: Sequence[Example],
        rows: int,
        candidates: np.ndarray | None,
        excluded: np.ndarray | None,
        masks: ItemMask | None = None,
    ) -> Prior:
        """The prior of a batch; rows beyond the examples have no history."""
        assert self._prior is not None
        histories = [_history_of(example) for example in examples]
        histories += [np.zeros(0, np.int32)] * (rows - len(examples))
        return self._prior.of(histories, candidates, excluded, masks)

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

    def _split(self, arrays: Any) -> Any:
        """An array, or a tuple of arrays, over the devices; None stays None."""
        return None if arrays is None else jax.device_put(arrays, devices.split_batch(self._mesh))


def _history_of(example: Example) -> np.ndarray:
    """The items of `exclude` before the target, catalog rows."""
    rows = example["exclude"]
    return rows[:-1] if len(rows) and rows[-1] == example["target"] else rows


def padded_length(length: int, buckets: Sequence[int] | None = None) -> int:
    """The bucket for `length` tokens, of BUCKETS by default."""
    buckets = buckets or BUCKETS
    for bucket in buckets:
        if length <= bucket:
            return bucket
    return -(-length // buckets[-1]) * buckets[-1]


def check_selection(split: str, num_examples: int | None, *, measured: bool = True) -> None:
    """Raises UserError for an unknown split or an impossible number of examples.

    Args:
      split: `validation` or `test`; also `latest` unless it is measured, which needs targets.
      num_examples: None is all.
      measured: whether metrics are computed.
    """
    if split == LATEST and measured:
        raise UserError(
            f"SPLIT: got {LATEST!r}, whose examples have no target to measure, expected "
            "'validation' or 'test'; correct it, or write its recommendations with `recllm infer`"
        )
    if split not in ("validation", "test", LATEST):
        also = "" if measured else f", or {LATEST!r} for every user as of the last event"
        raise UserError(f"SPLIT: got {split!r}, expected 'validation' or 'test'{also}; correct it")
    if num_examples is not None:
        check_whole("NUM_EXAMPLES (None is all)", num_examples, 1)
