"""Our beam search over a catalog as T5X's `decode_fn`, and the features that it needs.

Shapes: B batch, L input length, T target length, K beams, C candidates, H items of the longest
record.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import seqio
import tensorflow as tf

from recllm_tasks import tasks
from recllm_tasks.data.options import TIME
from recllm_tasks.engine.answer_tries import answers_of
from recllm_tasks.errors import UserError
from recllm_tasks.models.beam_search import Array, beam_search
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts import p5, templates
from recllm_tasks.prompts.batches import lengths_of
from recllm_tasks.prompts.source import SPLITS
from recllm_tasks.prompts.templates import Choice
from recllm_tasks.prompts.windows import Sequences, stored_records
from recllm_tasks.runs.decoding import LEAVE_OUT, Decoding

# Model features that distinguish the tasks of a mixture while decoding.
CANDIDATES = "candidates"  # int32 [C], catalog rows: the answer is one of them
CHOICE = "choice"  # int32 [1], its value is ignored: the answer is one of a few words
# Where seen items are left out: int32 [H], one more than each row of the history; 0 is padding.
SEEN_ITEMS = "seen_items"

# int32 [T], right-aligned, 0 before it: what the target begins with, which the decoder is given.
BEGINNING = "beginning"

# Features that hold a choice's answer; only examples of a rating task have one.
_CHOICE_FIELDS = tuple(
    slot.field for slot in (templates.RATING.answer, p5.STARS) if isinstance(slot, Choice)
)

Batch = Mapping[str, jax.Array]


class AnswerFeatureConverter(seqio.EncDecFeatureConverter):
    """SeqIO's converter; unpacked examples also have the features that show their valid answers.

    T5X passes a batch to the decoder without its task.
    """

    def __init__(
        self, *args, mixture: str | None = None, decoding: Decoding = Decoding(), **kwargs
    ):
        """Args:
        *args: of SeqIO's converter.
        mixture: the task or mixture that is decoded; None leaves no seen items out.
        decoding: that of `catalog_beam_search`, which says what becomes of seen items.
        **kwargs: of SeqIO's converter.
        """
        super().__init__(*args, **kwargs)
        self._mixture, self._decoding = mixture, decoding

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        if not self.pack:
            # T5X reuses one converter for the examples of every task.
            self._passthrough_features, lengths = {}, {}
            if any(field in ds.element_spec for field in _CHOICE_FIELDS):
                ds = ds.map(lambda example: {**example, CHOICE: tf.zeros([1], tf.int32)})
            if BEGINNING in ds.element_spec:
                ds = ds.map(_aligned(task_feature_lengths["targets"]))
            ds = self._with_seen_items(ds)
            for name in (CANDIDATES, CHOICE, SEEN_ITEMS, BEGINNING):
                if name in ds.element_spec:
                    self._passthrough_features[name] = self.FeatureSpec(dtype=tf.int32)
                    lengths[name] = ds.element_spec[name].shape[0]
            task_feature_lengths = {**task_feature_lengths, **lengths}
        return super().__call__(ds, task_feature_lengths)

    def _with_seen_items(self, ds: tf.data.Dataset) -> tf.data.Dataset:
        """Adds SEEN_ITEMS where the answer is any item and the rule leaves seen ones out."""
        given = {CANDIDATES, CHOICE} & set(ds.element_spec)
        if self._mixture is None or given or not {"exclude", "target"} <= set(ds.element_spec):
            return ds
        source = tasks.source_of(tasks.get(self._mixture))
        if self._decoding.resolved(source.info().keeps_repeats).seen != LEAVE_OUT:
            return ds
        longest = longest_record(source.dataset_dir(), source.info().split)

        def add(example):
            rows = example["exclude"]
            # As the engine's: without the target, where it is the last item.
            ends = tf.reduce_all(rows[-1:] == tf.cast(example["target"], rows.dtype))
            history = tf.cast(rows[: tf.size(rows) - tf.cast(ends, tf.int32)], tf.int32)
            padded = tf.pad(history + 1, [[0, longest - tf.size(history)]])
            return {**example, SEEN_ITEMS: tf.ensure_shape(padded, [longest])}

        return ds.map(add)


def _aligned(length: int) -> Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Pads BEGINNING on the left to that length."""

    def align(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        own = example[BEGINNING]
        padded = tf.pad(own, [[length - tf.size(own), 0]])
        return {**example, BEGINNING: tf.ensure_shape(padded, [length])}

    return align


@functools.cache
def longest_record(directory: str, split_by: str) -> int:
    """H of a prepared dataset's folder: the same for every host, split and task.

    A test record is the longest of its user; in a split by time some users have none.
    """
    longest = 1
    for split in SPLITS if split_by == TIME else ("test",):
        parsed = stored_records(directory, split).map(
            lambda records: tf.reduce_max(lengths_of(Sequences.parse(records).items))
        )
        longest = max([longest, *(int(length) for length in parsed.as_numpy_iterator())])
    return longest


def catalog_beam_search(
    inputs: jax.Array,
    cache: Any,
    tokens_to_logits: Any,
    eos_id: int,
    num_decodes: int = 20,
    cache_offset: int = 0,
    decode_rng: jax.Array | None = None,
    *,
    params: Any,
    batch: Batch,
    network: Transformer,
    mixture: str,
    decoding: Decoding = Decoding(),
) -> tuple[Array, Array]:
    """T5X's `decode_fn`, like `t5x.decoding.beam_search`: beams of answers, the best one **last**.

    `cache`, `tokens_to_logits`, `cache_offset` and `decode_rng` are ignored: the search runs
    `network`'s own decode path, which projects cross-attention once per example. `params` and
    `batch` come from `model.RecommenderModel`.

    Args:
      inputs: int [B, T]; only the shape is used: T is the maximum length of free text.
      cache: ignored.
      tokens_to_logits: ignored.
      eos_id: ends an answer.
      num_decodes: K, from T5X's DecoderParams.
      cache_offset: ignored.
      decode_rng: ignored.
      params: the network's parameters.
      batch: model features, including those of `AnswerFeatureConverter`.
      network: a network with the names and shapes of `params`, whichever module T5X trains.
      mixture: the task or mixture that is decoded; the batch belongs to one of its tasks.
      decoding: `constrained` chooses between the task's answers and any text of T tokens, as in the
        paper. T5X sets the batch, and the number of beams is `num_decodes`.

    Returns:
      Tokens int32 [B, K, T'], and their summed log-probabilities float32 [B, K], ascending. A beam
      that does not exist is empty, with -1e7.

    Raises:
      UserError: settings that this decoder does not have.
    """
    del cache, tokens_to_logits, cache_offset, decode_rng
    if decoding.method != "beam" or decoding.prior_weight:
        raise UserError(
            f"Decoding under T5X: got method={decoding.method!r} and "
            f"prior_weight={decoding.prior_weight!r}, expected 'beam' and 0; evaluate with `recllm "
            "eval`"
        )
    decoding.check_unrestricted()
    answers = answers_of(task_of(mixture, batch)) if decoding.constrained else None
    candidates = excluded = None
    if answers is not None and CANDIDATES in batch:
        candidates = jnp.asarray(answers.text_of_answer)[batch[CANDIDATES]]
    if answers is not None and SEEN_ITEMS in batch:
        # Padding is row -1 here, and the last text must not stand for it.
        own = jnp.append(jnp.asarray(answers.own_text_of_answer), -1)
        excluded = own[batch[SEEN_ITEMS] - 1]
    beams = beam_search(
        network,
        params,
        batch["encoder_input_tokens"],
        None if answers is None else answers.trie,
        candidates,
        excluded,
        batch.get(BEGINNING),
        scores_eos=BEGINNING not in batch,
        num_beams=num_decodes,
        max_steps=inputs.shape[1] if answers is None else None,
        eos_id=eos_id,
    )
    return beams.tokens_BxKxT[:, ::-1], beams.log_probs_BxK[:, ::-1]


def task_of(mixture: str, batch: Batch) -> seqio.Task:
    """The one task of the mixture whose examples have the batch's features.

    Raises:
      UserError: there is none, or more than one.
    """
    found = [
        task
        for task in seqio.get_subtasks(tasks.get(mixture))
        if task.metric_objs and marks_of(task) == {CANDIDATES, CHOICE, BEGINNING} & set(batch)
    ]
    if len(found) != 1:
        names = ", ".join(task.name for task in found) or "none"
        raise UserError(
            f"Tasks to decode in '{mixture}': got {names} with the same kind of answers, expected "
            "one of each kind; name one of its tasks as MIXTURE_OR_TASK_NAME"
        )
    return found[0]


def marks_of(task: seqio.Task) -> set[str]:
    """The features that tell tasks apart which the task's converted examples have.

    They are `CANDIDATES`, `CHOICE` and `BEGINNING`.
    """
    prompt = tasks.prompt_of(task)
    if prompt is None:
        return set()
    slot = prompt.template.answer
    chooses = isinstance(slot, Choice) and slot.field in _CHOICE_FIELDS
    marks = {
        CANDIDATES: prompt.template.offers_candidates,
        CHOICE: chooses,
        BEGINNING: bool(prompt.template.beginning),
    }
    return {name for name, is_there in marks.items() if is_there}
