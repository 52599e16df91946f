"""Prompts from token rows: a template's words and items, gathered and joined.

No string is built or tokenised while training. What does not fit is dropped by whole items, oldest
first; an item that would not fit alone keeps its id and as much of its title as fits.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import seqio
import tensorflow as tf

from recllm_tasks.prompts.batches import (
    Batch,
    lengths_of,
    limits_of,
    map_batches,
    num_examples,
    of_lengths,
    ranges,
    slices,
    starts_of,
    totals,
)
from recllm_tasks.prompts.sides import ELASTIC, Side
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Items, Template


class Prompt:
    """A SeqIO preprocessor that writes `inputs` and `targets` (int32 [B, L], EOS at the end).

    Where the template has a beginning, training examples have it in `targets`; those of evaluation,
    which have stored negatives, have it in `beginning` (int32 [B, P]). Such targets have no EOS.
    Those of the split `latest`, which have no target, get empty `targets`, and -1 as `target`.

    The features that the template's slots name must be in the batch; they stay there, as does
    everything else, for evaluation and for people.
    """

    def __init__(self, template: Template, source: CatalogSource):
        self.template = template
        self.source = source

    def __call__(
        self,
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None,
        output_features: Mapping[str, seqio.Feature],
    ) -> tf.data.Dataset:
        writer = self.writer(sequence_length, output_features)
        spec = dataset.element_spec
        if "negatives" in spec and "target" not in spec:
            return map_batches(writer.question)(dataset)
        write = writer.ask if "negatives" in spec else writer.write
        return map_batches(lambda batch: write(writer.fit(batch)))(dataset)

    def writer(
        self,
        sequence_length: Mapping[str, int] | None,
        output_features: Mapping[str, seqio.Feature],
    ) -> "PromptWriter":
        lengths = sequence_length or {}
        return _writer(
            self.template,
            self.source.catalog(),
            self.source,
            output_features["inputs"].vocabulary,
            tuple(sorted(lengths.items())),
        )


class PromptWriter:
    """A template made ready for one catalog, one vocabulary and the given lengths."""

    def __init__(
        self,
        template: Template,
        source: CatalogSource,
        vocabulary: seqio.Vocabulary,
        lengths: Mapping[str, int],
    ):
        def side(name, parts):
            return Side(name, parts, source, vocabulary, lengths.get(name))

        self.inputs = side("inputs", template.inputs)
        self.targets = side("targets", (*template.beginning, *template.targets))
        # What is asked for, after the beginning.
        self._answer, self._beginning = self.targets, None
        # The side whose history gives way.
        self._elastic = self.inputs
        if template.beginning:
            self._answer = side("targets", template.targets)
            self._beginning = side("targets", template.beginning)
            self._elastic = self.targets

    def fit(self, batch: Batch) -> Batch:
        """Drops the oldest items of `history` (and what is aligned with it) that do not fit."""
        side = self._elastic
        if ELASTIC not in batch or side.room is None:
            return batch
        costs = side.elastic_costs(batch)
        before = totals(costs.values)
        room = side.room - side.fixed_costs(batch)
        limits = limits_of(costs)
        # From the first item on whose cost and that of all after it are within the room.
        fits = tf.searchsorted(before, tf.gather(before, limits) - room, out_type=tf.int64)
        kept = ranges(tf.minimum(tf.maximum(starts_of(costs), fits), limits), limits)
        aligned = (ELASTIC, *(name for name in ALIGNED if name in batch))
        shown = {
            name: kept.with_values(tf.gather(batch[name].values, kept.values)) for name in aligned
        }
        return {**batch, **shown}

    def write(self, batch: Batch) -> Batch:
        """Adds `inputs` and `targets`."""
        targets = self.targets.tokens(batch)
        if self._beginning is not None:
            targets = _without_eos(targets)
        return {**batch, "inputs": self.inputs.tokens(batch), "targets": targets}

    def ask(self, batch: Batch) -> Batch:
        """As `write`, but the beginning is given: `beginning` has it, and `targets` the rest."""
        if self._beginning is None:
            return self.write(batch)
        return {
            **batch,
            "inputs": self.inputs.tokens(batch),
            "beginning": _without_eos(self._beginning.tokens(batch)),
            "targets": _without_eos(self._answer.tokens(batch)),
        }

    def question(self, batch: Batch) -> Batch:
        """`ask` where the answer is unknown: what the model is given, and no answer."""
        num = num_examples(batch)
        # The answer is not in what is given: any item will do in its place.
        asked = self.ask(self.fit({**batch, "target": tf.zeros([num], tf.int32)}))
        none = of_lengths(tf.zeros([0], tf.int32), tf.zeros([num], tf.int64))
        return {**asked, "target": tf.fill([num], -1), "targets": none}

    def question_text(self, row: int = 0) -> "Question":
        """How `fit` and `ask` write a history, in text, for programs that have no tables.

        Args:
          row: the item that stands for the answer, as in the batch that `fit` gets: where the
            decoder reads the history, its text takes room.

        Raises:
          ValueError: other slots than that of the history stand in the question.
        """
        side = self._beginning or self.inputs
        slots = [part for part in side.parts if not isinstance(part, str)]
        if len(slots) != 1 or not isinstance(slots[0], Items) or slots[0].field != ELASTIC:
            raise ValueError(f"slots of the question: got {slots}, expected that of the history")
        place = side.parts.index(slots[0])
        room = self._elastic.room
        if room is not None:
            answer = {"target": tf.constant([row]), ELASTIC: tf.ragged.constant([[row]])}
            room -= int(self._elastic.fixed_costs(answer)[0])
        return Question(
            before=tuple(part for part in side.parts[:place] if isinstance(part, str)),
            after=tuple(part for part in side.parts[place + 1 :] if isinstance(part, str)),
            items=lambda row: self._elastic.row_text(slots[0], row),
            room=room,
            by_decoder=self._beginning is not None,
        )

    def texts(self, batch: Batch) -> list[tuple[str, str]]:
        """What `write` writes, as (inputs, targets) text of each example of an eager batch."""
        return list(zip(self.inputs.texts(batch), self.targets.texts(batch)))


class Question(NamedTuple):
    """How a history is written to ask for what comes next.

    Attributes:
      before, after: the words around its items.
      items: the text of an item, by its row in the catalog.
      room: tokens for all items together; the oldest give way. None is no limit.
      by_decoder: whether the decoder reads it, and the encoder nothing.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    items: Callable[[int], str]
    room: int | None
    by_decoder: bool


def _without_eos(tokens: tf.RaggedTensor) -> tf.RaggedTensor:
    return slices(tokens.values, starts_of(tokens), lengths_of(tokens) - 1)


@functools.lru_cache(maxsize=64)
def _writer(template, catalog, source, vocabulary, lengths: tuple) -> PromptWriter:
    """One writer for all batches. `catalog` is the key that tells two folders of data apart."""
    del catalog
    return PromptWriter(template, source, vocabulary, dict(lengths))


# Features with one entry an item of the history.
ALIGNED = ("history_ratings", "liked", "disliked", "mark", "masked")
