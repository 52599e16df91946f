"""Prompts from token rows: a template's words and items, gathered and joined.

No string is built or tokenised while training. What does not fit is dropped by whole items, oldest
first; an item that would not fit alone keeps its id and as much of its title as fits.
"""

import functools
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import MASKED_ITEM, Choice, Items, Part, Slot, Template, Varied
from recllm_tasks.prompts.token_table import TokenTable, concatenate, item_table, tokenise

# The feature whose items may be dropped. Its slots in one template share the room that is left.
ELASTIC = "history"

Example = Mapping[str, tf.Tensor]


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

    def fit(
        self,
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None = None,
        output_features: Mapping[str, seqio.Feature] | None = None,
    ) -> tf.data.Dataset:
        """A preprocessor that only drops the items that would not fit into `inputs`."""
        writer = self.writer(sequence_length, output_features)
        return dataset.map(writer.fit, num_parallel_calls=tf.data.AUTOTUNE)

    def writer(
        self,
        sequence_length: Mapping[str, int] | None,
        output_features: Mapping[str, seqio.Feature],
    ) -> "PromptWriter":
        lengths = sequence_length or {}
        return PromptWriter(
            self.template, self.source, output_features["inputs"].vocabulary, lengths
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
        self._vocabulary = vocabulary
        self.inputs = _Side("inputs", template.inputs, source, vocabulary, lengths.get("inputs"))
        self.targets = _Side(
            "targets", template.targets, source, vocabulary, lengths.get("targets")
        )

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

    def text(self, example: Mapping[str, np.ndarray]) -> tuple[str, str]:
        """What `write` writes, as (inputs, targets) text, for an example of NumPy arrays."""
        return self.inputs.text(example), self.targets.text(example)


def keep_newest(example: Example, keep: tf.Tensor) -> dict[str, tf.Tensor]:
    """The example with the last `keep` items of `history` and of all that is aligned with it."""
    aligned = (ELASTIC, *(name for name in ALIGNED if name in example))
    start = tf.size(example[ELASTIC]) - keep
    return {**example, **{name: example[name][start:] for name in aligned}}


# Features with one entry an item of the history.
ALIGNED = ("history_ratings", "liked", "disliked", "masked")


class _Side:
    """One side of a prompt, inputs or targets: its parts, and the tables of its slots."""

    def __init__(
        self,
        name: str,
        parts: tuple[Part, ...],
        source: CatalogSource,
        vocabulary: seqio.Vocabulary,
        length: int | None,
    ):
        catalog = source.catalog()
        self._parts, self._source = parts, source
        self._num_items = len(catalog)
        words = {part: tokenise([part], vocabulary) for part in parts if isinstance(part, str)}
        self._words = {part: table.values for part, table in words.items()}
        words_cost = sum(len(self._words[part]) for part in parts if isinstance(part, str))
        # Tokens for slots, after the words and EOS; None where no length is set.
        self.room = None if length is None else length - words_cost - 1
        max_tokens = self._max_item_tokens(name, catalog, vocabulary)
        self._tables = {
            slot: _slot_table(slot, catalog, vocabulary, max_tokens)
            for slot in parts
            if not isinstance(slot, str)
        }

    def _max_item_tokens(self, name, catalog, vocabulary) -> int | None:
        """Room for one item with its text, if all that the slots need is to fit."""
        if self.room is None:
            return None
        room, shares = self.room, 0
        for slot in self._parts:
            if isinstance(slot, Items) and _is_id_list(slot):
                longest = item_table(catalog, vocabulary, slot.form, None).lengths.max()
                room -= int(longest) * (self._source.info().candidates if slot.last_form else 1)
            elif isinstance(slot, (Items, Varied)):
                shares += 2 if slot.field == "pair" else 1
        if room < shares:
            raise UserError(
                f"Feature '{name}' is too short: got {self.room} tokens after the wording, "
                f"expected at least {self.room - room + shares}; "
                f"raise TASK_FEATURE_LENGTHS['{name}']"
            )
        return room // shares if shares else room

    def _rows(self, slot: Items, example: Example) -> tf.Tensor:
        """Rows of the slot's table that the example calls for."""
        rows = tf.reshape(example[slot.field], [-1])
        if slot.masked:
            rows = tf.where(example[slot.masked], 2 * self._num_items, rows)
        if slot.where:
            rows = tf.boolean_mask(rows, example[slot.where])
        if slot.last_form:
            last = tf.range(tf.size(rows)) == tf.size(rows) - 1
            rows = tf.where(last, rows + self._num_items, rows)
        if slot.empty:
            is_empty = tf.cast(tf.size(rows) == 0, tf.int32)
            rows = tf.concat([rows, tf.repeat(2 * self._num_items + 1, is_empty)], axis=0)
        return rows

    def _slot_rows(self, slot: Slot, example: Example) -> tf.Tensor:
        if isinstance(slot, Choice):
            return tf.reshape(example[slot.field], [1])
        if isinstance(slot, Varied):
            row = example[slot.variant] * self._num_items + example[slot.field]
            return tf.reshape(row, [1])
        return self._rows(slot, example)

    def tokens(self, example: Example) -> tf.Tensor:
        """int32 [n], without EOS."""
        pieces = [tf.zeros([0], tf.int32)]
        for part in self._parts:
            if isinstance(part, str):
                pieces.append(tf.constant(self._words[part]))
            else:
                rows = self._slot_rows(part, example)
                pieces.append(tf.gather(self._tables[part].ragged(), rows).flat_values)
        return tf.concat(pieces, axis=0)

    def text(self, example: Mapping[str, np.ndarray]) -> str:
        words = []
        for part in self._parts:
            if isinstance(part, str):
                words.append(part)
            else:
                rows = self._slot_rows(part, example).numpy()
                words += [self._tables[part].texts[row] for row in rows]
        return " ".join(word for word in words if word)

    def fixed_cost(self, example: Example) -> tf.Tensor:
        """Tokens of the slots whose items are never dropped."""
        cost = tf.constant(0)
        for slot in self._parts:
            if isinstance(slot, str):
                continue
            if isinstance(slot, Items) and slot.field == ELASTIC:
                cost += int(self._tables[slot].lengths[-1]) if slot.empty else 0
            else:
                rows = self._slot_rows(slot, example)
                cost += tf.reduce_sum(tf.gather(self._tables[slot].lengths, rows))
        return cost

    def elastic_costs(self, example: Example) -> tf.Tensor:
        """Tokens that each item of the history takes at most, int32 [h]."""
        costs = tf.zeros_like(example[ELASTIC])
        for slot in self._parts:
            if isinstance(slot, Items) and slot.field == ELASTIC:
                costs += self.item_costs(slot, example)
        return costs

    def item_costs(self, slot: Items, example: Example) -> tf.Tensor:
        lengths = self._tables[slot].lengths
        costs = tf.gather(lengths, example[slot.field])
        if slot.masked:
            costs = tf.maximum(costs, lengths[2 * self._num_items])
        if slot.where and slot.where in example:
            costs = tf.where(example[slot.where], costs, 0)
        return costs


def _is_id_list(slot: Items) -> bool:
    return "{title}" not in slot.form and "{description}" not in slot.form


@functools.lru_cache(maxsize=64)
def _slot_table(slot: Slot, catalog, vocabulary, max_tokens: int | None) -> TokenTable:
    """Rows: the items in the slot's form, in its last form, then the masked and the empty text.

    For a `Choice`, one row an answer; for a `Varied`, the items in its first form, then its second.
    """
    if isinstance(slot, Choice):
        return tokenise(slot.answers, vocabulary)
    if isinstance(slot, Varied):
        return concatenate([item_table(catalog, vocabulary, f, max_tokens) for f in slot.forms])
    return concatenate(
        [
            item_table(catalog, vocabulary, slot.form, max_tokens),
            item_table(catalog, vocabulary, slot.last_form or slot.form, max_tokens),
            tokenise([MASKED_ITEM, slot.empty], vocabulary),
        ]
    )
