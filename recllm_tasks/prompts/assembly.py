"""Prompts from token rows: a template's words and items, gathered and joined.

No string is built or tokenised while training. What does not fit is dropped by whole items, oldest
first; an item that would not fit alone keeps its id and as much of its title as fits.
"""

import functools
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.prompts.batch_steps import Batch
from recllm_tasks.prompts.ragged import join, starts_of
from recllm_tasks.prompts.sides import ELASTIC, Example, Side
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Template


class Prompt:
    """A SeqIO preprocessor that writes `inputs` and `targets` (int32, EOS at the end).

    The features that the template's slots name must be there; they stay in the example, as does
    everything else, for evaluation and for people.
    """

    def __init__(self, template: Template, source: CatalogSource):
        self.template = template
        self.source = source

    def __call__(
        self,
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None = None,
        output_features: Mapping[str, seqio.Feature] | None = None,
    ) -> tf.data.Dataset:
        writer = self.writer(sequence_length, output_features)
        return dataset.map(
            lambda example: writer.write(writer.fit(example)), num_parallel_calls=tf.data.AUTOTUNE
        )

    @property
    def fit(self) -> "Fit":
        """A preprocessor that only drops the items that would not fit into `inputs`."""
        return Fit(self)

    def on_batch(self, batch: Batch, seeds, sequence_length, output_features) -> Batch:
        """What `__call__` makes of each example, see batch_steps.py."""
        del seeds
        writer = self.writer(sequence_length, output_features)
        return writer.write_batch(writer.fit_batch(batch))

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


class Fit:
    """See `Prompt.fit`."""

    def __init__(self, prompt: Prompt):
        self._prompt = prompt

    def __call__(
        self,
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None = None,
        output_features: Mapping[str, seqio.Feature] | None = None,
    ) -> tf.data.Dataset:
        writer = self._prompt.writer(sequence_length, output_features)
        return dataset.map(writer.fit, num_parallel_calls=tf.data.AUTOTUNE)

    def on_batch(self, batch: Batch, seeds, sequence_length, output_features) -> Batch:
        """What `__call__` makes of each example, see batch_steps.py."""
        del seeds
        return self._prompt.writer(sequence_length, output_features).fit_batch(batch)


class PromptWriter:
    """A template made ready for one catalog, one vocabulary and the given lengths."""

    def __init__(
        self,
        template: Template,
        source: CatalogSource,
        vocabulary: seqio.Vocabulary,
        lengths: Mapping[str, int],
    ):
        self._vocabulary = vocabulary
        self.inputs = Side("inputs", template.inputs, source, vocabulary, lengths.get("inputs"))
        self.targets = Side("targets", template.targets, source, vocabulary, lengths.get("targets"))

    def fit(self, example: Example) -> dict[str, tf.Tensor]:
        """Drops the oldest items of `history` (and what is aligned with it) that do not fit."""
        if ELASTIC not in example or self.inputs.room is None:
            return dict(example)
        costs = self.inputs.elastic_costs(example)
        room = self.inputs.room - self.inputs.fixed_cost(example)
        newest_first = tf.cumsum(costs, reverse=True)
        keep = tf.reduce_sum(tf.cast(newest_first <= room, tf.int32))
        return keep_newest(example, keep)

    def write(self, example: Example) -> dict[str, tf.Tensor]:
        """Adds `inputs` and `targets`."""
        eos = [self._vocabulary.eos_id]
        return {
            **example,
            "inputs": tf.concat([self.inputs.tokens(example), eos], axis=0),
            "targets": tf.concat([self.targets.tokens(example), eos], axis=0),
        }

    def fit_batch(self, batch: Batch) -> Batch:
        """`fit` for every example of a batch."""
        if ELASTIC not in batch or self.inputs.room is None:
            return batch
        history = batch[ELASTIC]
        total = starts_of(self.inputs.batch_elastic_costs(batch))
        newest_first = np.repeat(total[history.splits[1:]], history.lengths) - total[:-1]
        room = self.inputs.room - self.inputs.batch_fixed_cost(batch)
        fits = newest_first <= np.repeat(room, history.lengths)
        if fits.all():
            return batch
        keep = history.with_values(fits).sums()
        aligned = (ELASTIC, *(name for name in ALIGNED if name in batch))
        return {**batch, **{name: batch[name].last(keep) for name in aligned}}

    def write_batch(self, batch: Batch) -> Batch:
        """`write` for every example of a batch."""
        eos = np.array([self._vocabulary.eos_id])
        sides = {}
        for name, side in (("inputs", self.inputs), ("targets", self.targets)):
            parts = side.batch_parts(batch)
            sides[name] = join([*parts, eos], len(batch[next(iter(batch))]))
        return {**batch, **sides}

    def text(self, example: Mapping[str, np.ndarray]) -> tuple[str, str]:
        """What `write` writes, as (inputs, targets) text, for an example of NumPy arrays."""
        return self.inputs.text(example), self.targets.text(example)


def keep_newest(example: Example, keep: tf.Tensor) -> dict[str, tf.Tensor]:
    """The example with the last `keep` items of `history` and of all that is aligned with it."""
    aligned = (ELASTIC, *(name for name in ALIGNED if name in example))
    start = tf.size(example[ELASTIC]) - keep
    return {**example, **{name: example[name][start:] for name in aligned}}


@functools.lru_cache(maxsize=64)
def _writer(template, catalog, source, vocabulary, lengths: tuple) -> PromptWriter:
    """One writer for all batches. `catalog` is the key that tells two folders of data apart."""
    del catalog
    return PromptWriter(template, source, vocabulary, dict(lengths))


# Features with one entry an item of the history.
ALIGNED = ("history_ratings", "liked", "disliked", "masked")
