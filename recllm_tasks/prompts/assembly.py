"""Prompts from token rows: a template's words and items, gathered and joined.

No string is built or tokenised while training. What does not fit is dropped by whole items, oldest
first; an item that would not fit alone keeps its id and as much of its title as fits.
"""

import functools
from collections.abc import Mapping

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
from recllm_tasks.prompts.templates import Template


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

    def texts(self, batch: Batch) -> list[tuple[str, str]]:
        """What `write` writes, as (inputs, targets) text of each example of an eager batch."""
        return list(zip(self.inputs.texts(batch), self.targets.texts(batch)))


def _without_eos(tokens: tf.RaggedTensor) -> tf.RaggedTensor:
    return slices(tokens.values, starts_of(tokens), lengths_of(tokens) - 1)


@functools.lru_cache(maxsize=64)
def _writer(template, catalog, source, vocabulary, lengths: tuple) -> PromptWriter:
    """One writer for all batches. `catalog` is the key that tells two folders of data apart."""
    del catalog
    return PromptWriter(template, source, vocabulary, dict(lengths))


# Features with one entry an item of the history.
ALIGNED = ("history_ratings", "liked", "disliked", "mark", "masked")
